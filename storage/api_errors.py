"""Interpret the errors of a bucket: status, whether a retry may help, whether every object would fail."""

from __future__ import annotations

import re

import google.api_core.exceptions
import obstore
import requests

from sources.http_status import RETRYABLE_STATUSES, THROTTLED_STATUSES, obstore_status
from sources.retry import tls_failure
from storage.bucket import reason
from storage.rate_limit import Failure, retry_after

# Some of Google's APIs answer 403 instead of 429 for rateLimitExceeded and userRateLimitExceeded, as BigQuery does
# (https://cloud.google.com/bigquery/docs/error-messages).
USAGE_LIMIT = re.compile("rate ?limit ?exceeded", re.IGNORECASE)
NO_CONNECTION = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; 0 if there is none, as for a failed connection."""
    if isinstance(error, obstore.exceptions.BaseError):
        return obstore_status(error)
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", None) or getattr(error, "code", None) or 0)


def judge(error: Exception) -> Failure:
    """Classify the error of a write."""
    status = status_of(error)
    if isinstance(error, obstore.exceptions.BaseError):
        # obstore has exception types for final errors, except 400, 413 and similar. It exposes no headers.
        is_passing = isinstance(error, obstore.exceptions.GenericError) and status in (*RETRYABLE_STATUSES, 0)
    else:
        is_passing = status in RETRYABLE_STATUSES or isinstance(error, NO_CONNECTION)
    is_limit = bool(USAGE_LIMIT.search(str(error)))
    is_passing = (is_passing or is_limit) and not tls_failure(error)
    wait = retry_after(getattr(error, "response", None))
    return Failure(is_passing, is_limit or status in THROTTLED_STATUSES, wait, reason(error))


def final_status(error: BaseException) -> str:
    """The status of a final refusal, to compare those of several objects; "" if a retry may help."""
    status = status_of(error)
    if not status and isinstance(error, obstore.exceptions.BaseError):  # has a type of its own, such as a precondition
        return "" if isinstance(error, obstore.exceptions.GenericError) else type(error).__name__
    is_theirs = isinstance(error, (obstore.exceptions.BaseError, google.api_core.exceptions.GoogleAPICallError))
    return str(status) if is_theirs and 400 <= status < 500 and status not in RETRYABLE_STATUSES else ""
