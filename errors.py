"""The errors of this program with their exit statuses; removes secrets and control characters from messages."""

from __future__ import annotations

import logging
import re
from typing import Self

SHOWN = 200  # characters of a hostile name


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
    """A source does not answer, or answers wrongly; retries are used up. `status` is HTTP's, if it has one."""

    def __init__(self, message: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class SourceChangedError(SourceError):
    """The source changed during the run."""


class GoneError(SourceError):
    """The source says that the file is not there (404, 410)."""


class TooLargeError(SourceError):
    """A file that is kept in memory has more bytes than are read."""


class ArchiveError(ExtractionError):
    """The bytes of an archive are damaged, or not the published ones."""


class RereadError(ArchiveError):
    """A piece of an archive was read twice with different bytes: one of the two readings was wrong."""

    def __init__(self, message: str, piece: str) -> None:
        super().__init__(message)
        self.piece = piece

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:  # for the way from a worker
        return type(self), (str(self), self.piece)


class DamagedError(ExtractionError):
    """A file that this program wrote into the bucket was changed."""


class BucketError(ExtractionError):
    """The destination cannot be used at all: no further member could be stored either."""


class BusyError(ExtractionError):
    """Another run writes the same dataset to the same place."""


class ClusterError(ExtractionError):
    """The dask cluster cannot be used any more: no other dataset could be extracted either."""


class MemberError(Exception):
    """One member could not be stored; it becomes a row, and the others are stored."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shown(message))


class KeptError(MemberError):
    """An object of this name with other bytes exists, and the bucket does not let it be replaced."""


class UploadLostError(MemberError):
    """The upload of a large member ended before it was whole; its bytes must be read again."""


def escaped(name: str) -> str:
    """A name from outside as a message can hold it: on one line, without what moves a terminal's cursor, and short."""
    text = printable(name[: SHOWN + 1])
    return text if len(name) <= SHOWN else f"{text[:SHOWN]}…"


def printable(text: str) -> str:
    """Text from outside on one line, without what moves a terminal's cursor."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


HIDDEN = "***"
HARMLESS = frozenset({"dl"})  # Seafile's "download, do not show"; any other value of a query may be a signature
_USER = re.compile(r"(?<=://)[^/\s@?#]*(?:@[^/\s@?#]*)*@")
_QUERY = re.compile(r"(?<=[?&])([^=&?\s'\"<>]+)=([^&\s'\"<>)]+)")


def redact(text: str) -> str:
    """The text without user and password, and without the values of queries, in the URLs that it names."""
    return _QUERY.sub(_hide, _USER.sub(f"{HIDDEN}@", text))


def _hide(match: re.Match[str]) -> str:
    return match[0] if match[1] in HARMLESS else f"{match[1]}={HIDDEN}"


def shown(text: str) -> str:
    """Text that may have parts from outside, as it is shown and written down: without secrets, on one line, and without
    what a terminal would carry out.
    """
    return printable(redact(text))


def show_record(record: logging.LogRecord) -> bool:
    """A filter for logging: the message of each record as it is shown."""
    record.msg, record.args = shown(record.getMessage()), ()
    return True
