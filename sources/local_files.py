"""Open local files, as sources and otherwise; errors name the path."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from errors import GoneError, SourceChangedError, SourceError
from sources.http_answers import check_not_html

CHUNK_BYTES = 1 << 18  # bytes that stream() hands on at a time: more would be mapped anew for each, and fill the cache


def is_http(url: str) -> bool:
    return url[:8].lower().startswith(("http://", "https://"))


def local_path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path) if url.startswith("file://") else url)


@contextmanager
def open_file(path: str | os.PathLike[str]) -> Iterator[int]:
    """Yield the descriptor of a regular file; raises GoneError if there is none, SourceError if it is no file."""
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
    """Return up to `size` bytes from `start` on; raises SourceError, with `name`, if the disk fails."""
    try:
        return os.pread(descriptor, size, start)
    except OSError as error:
        raise SourceError(f"{name}: cannot be read at byte {start:,}: {error.strerror}") from error


@dataclass(frozen=True)
class FileSource:
    """A file on this machine as a source; `name` is what messages and the manifest call it."""

    path: str
    size: int
    version: str
    name: str

    @classmethod
    def at(cls, path: Path) -> FileSource:
        """Open the file at `path`; raises GoneError if there is none, SourceError if it is no file."""
        with open_file(path) as file:
            status = os.fstat(file)
            check_not_html(str(path), read_at(file, 512, 0, str(path)))
        return cls(str(path), status.st_size, f"{status.st_size:x}-{status.st_mtime_ns:x}", str(path))

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop); raises SourceChangedError if the file has become shorter."""
        return b"".join(self.stream(start, stop))

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the same bytes in chunks."""
        with self._open() as file:
            while start < stop:
                chunk = read_at(file, min(CHUNK_BYTES, stop - start), start, self.name)
                if not chunk:
                    raise SourceChangedError(f"{self.name}: expected {self.size:,} bytes, it ends after {start:,}")
                start += len(chunk)
                yield chunk

    def _open(self) -> AbstractContextManager[int]:
        return open_file(self.path)
