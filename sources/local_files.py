"""A URL or path becomes the descriptor of a plain file; errors name the path."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from errors import GoneError, SourceError


@contextmanager
def open_file(path: str | os.PathLike[str]) -> Iterator[int]:
    """A plain file's descriptor; raises GoneError when there is none, SourceError when it is no file.

    What goes wrong while it is read is a SourceError too.
    """
    descriptor = _open(path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SourceError(f"{path}: expected a file, got a directory, a device or a pipe")
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: str | os.PathLike[str]) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
    except (FileNotFoundError, NotADirectoryError):
        raise GoneError(f"{path}: no such file") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise SourceError(f"{path!r}: expected the name of a file: {error}") from error


def read_at(descriptor: int, size: int, start: int, name: str) -> bytes:
    """Up to `size` bytes from `start` on; raises SourceError, with `name`, where the disk fails."""
    try:
        return os.pread(descriptor, size, start)
    except OSError as error:
        raise SourceError(f"{name}: cannot be read at byte {start:,}: {error.strerror}") from error


def is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def local_path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path) if url.startswith("file://") else url)
