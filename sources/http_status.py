"""Classify HTTP statuses, for sources and buckets: retry, slow down, give up."""

from __future__ import annotations

import re

# A later attempt gets the same answer: the server does not know the method (501) or the version of HTTP (505), or a
# network wants a login first (511, RFC 6585). All other 5xx pass, also those that no RFC has: 509 (bandwidth limit),
# 520 to 530 (Cloudflare: the origin is slow or away), 598 and 599 (proxies).
FINAL_5XX = frozenset({501, 505, 511})
RETRYABLE_STATUSES = frozenset({202, 408, 425, 429, *range(500, 600)}) - FINAL_5XX  # 202: still being made
THROTTLED_STATUSES = frozenset({429, 503, 509, 529})  # the server is overloaded, or limits its clients
GONE_STATUSES = frozenset({404, 410, 451})
FORBIDDEN_STATUSES = frozenset({401, 403})  # stores answer these for a missing object where listing is not allowed
EMPTY_STATUSES = frozenset({204, 205})  # a success without a body
NO_RANGES = frozenset({400, 416, 501})  # what servers without ranges may answer a Range request, though they need not
OBSTORE_STATUS = re.compile(r"status code: (\d{3})[^:<]*")  # with its words, as in "status code: 429 Too Many Requests"


def obstore_status(error: BaseException) -> int:
    """Return the status in the message of an obstore error; 0 if there was no answer."""
    match = OBSTORE_STATUS.search(str(error))
    return int(match[1]) if match else 0
