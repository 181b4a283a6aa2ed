"""Defines the errors with their exit statuses; removes secrets and control characters from messages."""

from __future__ import annotations

import logging
import re
from typing import Self

MAX_SHOWN = 200  # characters of a hostile name


class ExtractionError(Exception):
    """The run, or one dataset of it, cannot be finished; the message is the one line a user reads."""

    exit_status = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(shown(message))


class UsageError(ExtractionError):
    """The command itself is wrong: an option's value, or options that cannot be combined."""

    exit_status = 2


class IncompleteError(ExtractionError):
    """Everything that could be stored is stored and verified, but something is missing."""

    exit_status = 3


class SourceError(ExtractionError):
    """A source does not answer, or answers wrongly, after all retries. `status` is the HTTP status, if there is one."""

    def __init__(self, message: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class SourceChangedError(SourceError):
    """The source changed during the run."""


class GoneError(SourceError):
    """The source does not have the file (404, 410)."""


class TooLargeError(SourceError):
    """A file is larger than what is read into memory."""


class ArchiveError(ExtractionError):
    """The bytes of an archive are damaged, or not the published ones."""


class RereadError(ArchiveError):
    """A piece of an archive was read twice with different bytes, so one of the readings was wrong."""

    def __init__(self, message: str, piece: str) -> None:
        super().__init__(message)
        self.piece = piece

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:  # pickled by a worker
        return type(self), (str(self), self.piece)


class DamagedError(ExtractionError):
    """A file that this program wrote into the bucket was changed."""


class BucketError(ExtractionError):
    """The destination cannot be used: no other member could be stored either."""


class BusyError(ExtractionError):
    """Another run writes the same dataset to the same place."""


class ClusterError(ExtractionError):
    """The dask cluster cannot be used: no other dataset could be extracted either."""


class MemberError(Exception):
    """One member could not be stored; it becomes a row, and the others are stored."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shown(message))


class KeptError(MemberError):
    """The bucket has an object of this name with other bytes, and does not let it be replaced."""


class UploadLostError(MemberError):
    """The upload of a large member broke; its bytes must be read again."""


def escaped(name: str) -> str:
    """Return a name from outside for a message: printable, and MAX_SHOWN characters at most."""
    text = printable(name[: MAX_SHOWN + 1])
    return text if len(name) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def printable(text: str) -> str:
    """Return text from outside on one line, with control characters escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


HIDDEN = "***"
HARMLESS = frozenset({"dl"})  # Seafile's "download, do not show"; any other value may be a signature
_USER = re.compile(r"(?<=://)[^/\s@?#]*(?:@[^/\s@?#]*)*@")
_QUERY = re.compile(r"(?<=[?&])([^=&?\s'\"<>]+)=([^&\s'\"<>)]+)")


def redact(text: str) -> str:
    """Replace user, password and the values of queries in all URLs of a text."""
    return _QUERY.sub(_hide, _USER.sub(f"{HIDDEN}@", text))


def _hide(match: re.Match[str]) -> str:
    return match[0] if match[1] in HARMLESS else f"{match[1]}={HIDDEN}"


def shown(text: str) -> str:
    """Return text for people: without secrets, on one line, with control characters escaped."""
    return printable(redact(text))


def show_record(record: logging.LogRecord) -> bool:
    """Apply `shown` to the message of a log record; a filter for logging."""
    record.msg, record.args = shown(record.getMessage()), ()
    return True
