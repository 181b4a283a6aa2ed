"""A URL, a share link, a local file or several parts become one random-access file, pinned to one version.

Every source has `name`, `size` (bytes), `version` and `read(start, stop)` / `stream(start, stop)`, is
picklable, and holds no connection of its own: connections belong to the process.
"""

from __future__ import annotations

import atexit
import bisect
import itertools
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

import requests

import web
from errors import GoneError, SourceChangedError, SourceError

log = logging.getLogger("spotted")

CHUNK = 1 << 18  # bytes that stream() hands on at a time: more would be mapped anew for each, and fill the cache
LEAST = CHUNK // 16  # from a slow source: a member is not stored before the chunk that has its end is there
SLOW = 0.08  # seconds for a chunk, from which on the next one is smaller
PROGRESS = 1 << 16  # bytes that a connection must bring for the next failure to count as the first


class Source(Protocol):
    """What the rest of the program knows of a source."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def version(self) -> str: ...
    def read(self, start: int, stop: int) -> bytes: ...
    def stream(self, start: int, stop: int) -> Iterator[bytes]: ...


# ── opening ──────────────────────────────────────────────────────────────────────────────────────


def open_source(urls: tuple[str, ...], size: int | None = None) -> Source:
    """Open one URL or path, or several parts as one file; `size` is what the whole must have, in bytes.

    A server without ranges is read once into a temporary file, removed when the program ends.
    Raises SourceError when the source cannot be had, is an HTML page, or has another size.
    """
    parts = tuple(_open_one(url, size if len(urls) == 1 else None) for url in urls)
    source = parts[0] if len(parts) == 1 else ConcatSource(parts)
    web.check_size(source.name, source.size, size)
    return source


def _open_one(url: str, size: int | None) -> Source:
    if web.is_http(url):
        return web.persist(url, lambda: _probe(url, size), web.FIRST_ATTEMPTS)
    return FileSource.at(web.local_path(url))


@dataclass(frozen=True)
class Look:
    """What one request for its first bytes, or a look at a local file, shows of a source."""

    size: int | None  # bytes
    has_ranges: bool


def look(url: str) -> Look:
    """Look at a source without reading it; raises SourceError when it cannot be had or is an HTML page."""
    if not web.is_http(url):
        return Look(FileSource.at(web.local_path(url)).size, True)
    return web.persist(url, lambda: _look(url), web.FIRST_ATTEMPTS)


def _look(url: str) -> Look:
    with web.get(url, {"Range": "bytes=0-511"}) as response:
        web.check_status(url, response)
        web.check_not_html(url, response.raw.read(512, decode_content=False))
        if response.status_code == 206:
            return Look(web.content_range(response)[1], True)
        return Look(web.content_length(response), False)


def _probe(url: str, size: int | None) -> Source:
    with web.get(url, {"Range": "bytes=0-511"}) as response:
        if response.status_code == 416:
            raise SourceError(f"{url}: expected a file, got an empty one")
        web.check_status(url, response)
        web.check_encoding(url, response)
        head = response.raw.read(512, decode_content=False)
        web.check_not_html(url, head)
        total = web.content_range(response)[1]
        if response.status_code == 206:
            if not total:
                got = response.headers.get("Content-Range")
                raise SourceError(f"{url}: expected a Content-Range that tells the file's size, got {got}")
            return HttpSource(url, total, web.version_of(response))
        return _spool(url, response, head, size)


def _spool(url: str, response: requests.Response, head: bytes, size: int | None) -> SpooledSource:
    length = web.content_length(response)
    web.check_size(url, length if length is not None else size or 0, size)
    log.info(
        "%s: the server does not support range requests; downloading it into a temporary file in %s",
        url,
        _spool_folder(),
    )
    handle, path = tempfile.mkstemp(dir=_spool_folder())
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(head)
            shutil.copyfileobj(response.raw, file, CHUNK)
            got = file.tell()
        web.check_length(length, got)
    except BaseException:
        os.unlink(path)
        raise
    return SpooledSource(path, got, web.version_of(response), url)


@lru_cache(maxsize=1)
def _spool_folder() -> str:
    folder = tempfile.mkdtemp(prefix="spotted-spool-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# ── the kinds of source ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class HttpSource:
    """A file on a server that answers Range requests (RFC 9110, section 14)."""

    name: str
    size: int
    version: str

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop); raises SourceError, or SourceChangedError for another version."""
        return b"".join(self.stream(start, stop))

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The same in chunks; a connection that breaks is continued at the byte where it broke."""
        position, mark, failures = start, start, 0
        while position < stop:
            try:
                for chunk in self._range(position, stop):
                    position += len(chunk)
                    yield chunk
            except web.RETRIED as error:
                failures = 1 if position - mark >= PROGRESS else failures + 1
                mark = position
                web.wait(f"{self.name} at byte {position:,}", error, failures, web.ATTEMPTS)

    def _range(self, start: int, stop: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        if self.version and not self.version.startswith("W/"):  # RFC 9110, 13.1.5: no weak tag in If-Range
            headers["If-Range"] = self.version
        left, amount = stop - start, 4 * LEAST
        with web.get(self.name, headers) as response:
            self._check(response, start)
            begin = time.monotonic()
            while left and (chunk := response.raw.read(amount, decode_content=False)):
                amount = _amount_after(amount, time.monotonic() - begin)
                yield chunk[:left]
                left, begin = left - min(left, len(chunk)), time.monotonic()
        if left:
            raise web.PassingError(f"the connection ended {left:,} bytes early")

    def _check(self, response: requests.Response, start: int) -> None:
        if response.status_code in (412, 416):
            raise SourceChangedError(
                f"{self.name}: changed while it was read (status {response.status_code}); run again"
            )
        web.check_status(self.name, response)
        web.check_encoding(self.name, response)
        first, size = web.content_range(response)
        if response.status_code == 200:
            size = web.content_length(response)
        # RFC 9110, 15.3.7: what was asked for with If-Range may come without its Last-Modified.
        if web.version_of(response) not in (self.version, "") or size not in (self.size, None):
            raise SourceChangedError(
                f"{self.name}: changed while it was read: expected version {self.version or '?'} ({self.size:,} bytes),"
                f" got {web.version_of(response) or '?'} ({size or 0:,} bytes); run again"
            )
        if response.status_code != 206 or first != start:
            raise web.PassingError(
                f"the Range request from byte {start:,} was answered with status {response.status_code}"
            )


def _amount_after(amount: int, seconds: float) -> int:
    """How many bytes to ask for after so many took so long."""
    if seconds > SLOW:
        return max(amount // 2, LEAST)
    return min(2 * amount, CHUNK) if seconds < SLOW / 4 else amount


@dataclass(frozen=True)
class FileSource:
    """A file on this machine; `name` is what messages and the manifest call it."""

    path: str
    size: int
    version: str
    name: str

    @classmethod
    def at(cls, path: Path) -> FileSource:
        """The file at `path`; raises GoneError when there is none, SourceError when it is no file."""
        if not path.exists():
            raise GoneError(f"{path}: no such file")
        if not path.is_file():
            raise SourceError(f"{path}: expected a file, got a directory or a device")
        status = path.stat()
        with path.open("rb") as file:
            web.check_not_html(str(path), file.read(512))
        return cls(str(path), status.st_size, f"{status.st_size:x}-{status.st_mtime_ns:x}", str(path))

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop); raises SourceChangedError when the file has become shorter."""
        return b"".join(self.stream(start, stop))

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The same in chunks."""
        with self._open() as file:
            file.seek(start)
            while start < stop:
                chunk = file.read(min(CHUNK, stop - start))
                if not chunk:
                    raise SourceChangedError(f"{self.name}: expected {self.size:,} bytes, it ends after {start:,}")
                start += len(chunk)
                yield chunk

    def _open(self) -> BinaryIO:
        try:
            return open(self.path, "rb")
        except OSError as error:
            raise SourceError(f"{self.name}: {error.strerror}") from error


@dataclass(frozen=True)
class SpooledSource(FileSource):
    """A temporary copy of what a server without ranges has; a worker on another machine makes its own."""

    def _open(self) -> BinaryIO:
        if os.path.exists(self.path):
            return super()._open()
        with _spooling:
            copy = _spooled_here(self.name, self.size)
        if copy.version != self.version:
            raise SourceChangedError(f"{self.name}: changed while it was read; run again")
        return open(copy.path, "rb")


_spooling = threading.Lock()


@lru_cache(maxsize=16)
def _spooled_here(url: str, size: int) -> FileSource:
    copy = _open_one(url, size)
    if not isinstance(copy, FileSource):
        raise SourceChangedError(f"{url}: the server has ranges by now; run again")
    return copy


@dataclass(frozen=True)
class ConcatSource:
    """Raw parts, one after the other, as one file; its name is the first part's."""

    parts: tuple[Source, ...]

    @property
    def name(self) -> str:
        return self.parts[0].name

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def version(self) -> str:
        return " ".join(f"{part.size}:{part.version}" for part in self.parts)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of the whole."""
        return b"".join(self.stream(start, stop))

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The same in chunks, from as many parts as they lie in."""
        begins = list(itertools.accumulate((part.size for part in self.parts), initial=0))
        for index in range(bisect.bisect_right(begins, start) - 1, len(self.parts)):
            low, high = max(start, begins[index]), min(stop, begins[index + 1])
            if low < high:
                yield from self.parts[index].stream(low - begins[index], high - begins[index])
