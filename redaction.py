"""Secrets out of text: what is written down, logged or shown may be read by more people than a URL was meant for."""

from __future__ import annotations

import logging
import re

HIDDEN = "***"
HARMLESS = frozenset({"dl"})  # Seafile's "download, do not show"; whatever else a query says may be a signature
_USER = re.compile(r"(?<=://)[^/\s@?#]*(?:@[^/\s@?#]*)*@")
_QUERY = re.compile(r"(?<=[?&])([^=&?\s'\"<>]+)=([^&\s'\"<>)]+)")


def redact(text: str) -> str:
    """The text without user and password, and without the values of queries, in the URLs that it names."""
    return _QUERY.sub(_hide, _USER.sub(f"{HIDDEN}@", text))


def _hide(match: re.Match[str]) -> str:
    return match[0] if match[1] in HARMLESS else f"{match[1]}={HIDDEN}"


def redact_record(record: logging.LogRecord) -> bool:
    """A filter for logging: the record goes on, its message redacted."""
    record.msg, record.args = redact(record.getMessage()), ()
    return True
