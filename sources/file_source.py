"""Local files become sources, and so do temporary copies of files from servers without range requests."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from errors import SourceChangedError, SourceError, escaped
from sources.body import Body
from sources.http import HttpClient
from sources.http_answers import (
    Version,
    check_encoding,
    check_length,
    check_not_html,
    check_size,
    check_status,
    content_length,
    status_of,
)
from sources.local_files import open_file, read_at
from sources.retry import FIRST_ATTEMPTS
from sources.spool import TemporaryCopy, check_space, leads_to

log = logging.getLogger("spotted")

CHUNK = 1 << 18  # bytes that stream() hands on at a time: more would be mapped anew for each, and fill the cache


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
        with open_file(path) as file:
            status = os.fstat(file)
            check_not_html(str(path), read_at(file, 512, 0, str(path)))
        return cls(str(path), status.st_size, f"{status.st_size:x}-{status.st_mtime_ns:x}", str(path))

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop); raises SourceChangedError when the file has become shorter."""
        return b"".join(self.stream(start, stop))

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """The same in chunks."""
        with self._open() as file:
            while start < stop:
                chunk = read_at(file, min(CHUNK, stop - start), start, self.name)
                if not chunk:
                    raise SourceChangedError(f"{self.name}: expected {self.size:,} bytes, it ends after {start:,}")
                start += len(chunk)
                yield chunk

    @contextmanager
    def _open(self) -> Iterator[int]:
        with open_file(self.path) as file:
            yield file


@dataclass(frozen=True)
class SpooledSource(FileSource):
    """A temporary copy of a file from a server without range requests; another machine makes its own."""

    modified: str
    target: str  # what `path` leads to on the machine that has the copy
    client: HttpClient = field(compare=False, repr=False)
    copy: TemporaryCopy | None = field(compare=False, repr=False)  # in the process that made it

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "copy": None}

    @contextmanager
    def _open(self) -> Iterator[int]:
        if self.copy:
            yield self.copy.descriptor
        elif leads_to(self.path, self.target):
            with open_file(self.path) as file:
                yield file
        else:
            with spooled(self.name, self.size, self.validators, self.client)._open() as file:
                yield file

    @property
    def validators(self) -> Version:
        return Version.from_text(self.version, self.modified)


# ── copies ───────────────────────────────────────────────────────────────────────────────────────


def spooled(url: str, size: int, version: Version, client: HttpClient) -> SpooledSource:
    """The client's own copy of that version."""
    with client.copying:
        copy = client.copies.get((url, size))
        if copy is None:
            copy = client.persist(url, lambda: whole(url, size, client), FIRST_ATTEMPTS)
            client.copies[url, size] = copy
    if not version.is_same(copy.validators):
        raise SourceChangedError(f"{url}: changed while it was read; run again")
    return copy


def whole(url: str, size: int | None, client: HttpClient) -> SpooledSource:
    """A copy of the answer to a request without Range; raises SourceError."""
    with client.get(url, {}) as response:
        check_status(url, response)
        if response.status_code != 200:
            given = escaped(response.headers.get("Content-Range", "none"))
            got = f"{status_of(response)}, Content-Range {given}"
            raise SourceError(f"{url}: expected status 200 and the whole file, got {got}; use another mirror")
        check_encoding(url, response)
        head = Body(response, client.timeout).read(512)
        check_not_html(url, head)
        return spooled_from(response, head, url, size, client)


def spooled_from(
    response: requests.Response, head: bytes, url: str, size: int | None, client: HttpClient
) -> SpooledSource:
    """A copy of `head` and of what follows it in the answer; raises SourceError, also where the disk is full."""
    length = content_length(response)
    if length is not None:
        check_size(url, length, size)
    check_space(url, length or size or 0)
    copy = TemporaryCopy(url)
    log.info("%s: the server does not support range requests; downloading it into a temporary file", url)
    body = Body(response, client.timeout)
    for chunk in itertools.chain([head], iter(lambda: body.read(CHUNK), b"")):
        copy.write(chunk)
        client.bandwidth.take(len(chunk))
        if size is not None and copy.size > size:
            check_size(url, copy.size, size)
    check_length(length, copy.size)
    version = Version.of(response)
    return SpooledSource(copy.path, copy.size, str(version), url, version.modified, copy.target, client, copy)
