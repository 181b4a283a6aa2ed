"""Read a URL by Range requests as a random-access file, pinned to one version."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests

from errors import SourceChangedError, escaped
from sources import http_answers as answers
from sources import retry
from sources.http import HttpClient
from sources.http_answers import PassingError, RangeError, Version
from sources.local_files import CHUNK_BYTES
from sources.spool import spooled

log = logging.getLogger("spotted")

PROGRESS_BYTES = 1 << 16  # bytes that a connection must bring for the next failure to count as the first
# Of a chunk from a slow source: a member is stored when the chunk with its end has come.
MIN_CHUNK_BYTES = CHUNK_BYTES // 16
SLOW_CHUNK_SECONDS = 0.08  # seconds for a chunk, from which on the next one is smaller
MAX_WRONG_RANGES = 2  # wrong answers to a Range request, one after the other, until the file is requested as a whole


@dataclass(frozen=True)
class HttpSource:
    """A file on a server that answers Range requests (RFC 9110, section 14)."""

    name: str
    size: int
    validators: Version
    client: HttpClient = field(compare=False, repr=False)
    is_proven: bool = False  # a checksum is compared with what is read

    @property
    def version(self) -> str:
        return str(self.validators)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop); raises SourceError, or SourceChangedError for another version."""
        return b"".join(self.stream(start, stop))

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the same bytes in chunks; a broken connection continues at the byte where it broke."""
        position, mark, tries, wrong = start, start, retry.Tries(retry.MAX_ATTEMPTS, self.client.count_retry), 0
        while position < stop:
            try:
                for chunk in self._range(position, stop):
                    position += len(chunk)
                    yield chunk
            except retry.RETRIED as error:
                wrong = wrong + 1 if isinstance(error, RangeError) else 0
                if wrong >= MAX_WRONG_RANGES:
                    copy = spooled(self.name, self.size, self.validators, self.client)
                    yield from copy.stream(position, stop)
                    return
                if position - mark >= PROGRESS_BYTES:
                    tries.renew()
                mark = position
                tries.wait(f"{self.name} at byte {position:,}", error)

    def _range(self, start: int, stop: int) -> Iterator[bytes]:
        left, amount = stop - start, 4 * MIN_CHUNK_BYTES
        with self._ask(start, stop) as response:
            body, begin = self.client.body(response), time.monotonic()
            while left and (chunk := body.read(amount)):
                amount = _amount_after(amount, time.monotonic() - begin)
                yield chunk[:left]
                left, begin = left - min(left, len(chunk)), time.monotonic()
        if left:
            raise PassingError(f"the connection ended {left:,} bytes early")

    @contextmanager
    def _ask(self, start: int, stop: int) -> Iterator[requests.Response]:
        """Yield the answer to a Range request, with If-Range if the server understands it."""
        headers, host = {"Range": f"bytes={start}-{stop - 1}"}, self.client.host(self.name)
        if host.has_if_range and self.validators.for_if_range:
            with self.client.get(self.name, headers | {"If-Range": self.validators.for_if_range}) as response:
                if response.status_code not in (200, 412):
                    self._check(response, start)
                    yield response
                    return
                if response.status_code == 200:
                    self._check_version(response, answers.content_length(response))
            log.info("%s: the server does not understand If-Range; asking without", self.name)
            host.has_if_range = False
        with self.client.get(self.name, headers) as response:
            self._check(response, start)
            yield response

    def _check(self, response: requests.Response, start: int) -> None:
        if response.status_code in (412, 416):
            raise SourceChangedError(
                f"{self.name}: changed while it was read (status {response.status_code}); run again"
            )
        if response.status_code == 403:  # it was readable: some servers refuse so what is too many connections
            raise retry.ThrottledError(answers.status_of(response), self.client.host(response.url))
        answers.check_status(self.name, response)
        answers.check_encoding(self.name, response)
        first, size = answers.content_range(response)
        self._check_version(response, answers.content_length(response) if response.status_code == 200 else size)
        if response.status_code != 206 or first != start:
            given = escaped(response.headers.get("Content-Range", "none"))
            got = f"status {response.status_code}, Content-Range {given}"
            raise RangeError(f"the Range request from byte {start:,} was answered with {got}")

    def _check_version(self, response: requests.Response, size: int | None) -> None:
        got = Version.of(response)
        if response.status_code == 200 and not any(got):
            return  # a page, say of a server that is busy: no range, and it says nothing of the file
        has_size = size in (self.size, None)
        if has_size and self.validators.is_same(got):
            return
        if has_size and self.validators.is_replica(got):
            self._check_replica(got)
            return
        raise SourceChangedError(
            f"{self.name}: changed while it was read: expected version {escaped(self.version) or '?'}"
            f" ({self.size:,} bytes), got {escaped(str(got)) or '?'} ({size or 0:,} bytes); run again"
        )

    def _check_replica(self, got: Version) -> None:
        mine, other = escaped(self.version), escaped(str(got))
        if not self.is_proven:
            raise SourceChangedError(
                f"{self.name}: expected ETag {mine}, got {other} of the same size and date: several servers answer"
                " under this name, and no sha256 is compared that proves their copies to be one; use a --mirror that"
                " has a SHA256SUMS, without --workers and --scheduler"
            )
        if self.client.host(self.name).is_new(self.name):
            what = "as of several servers behind one name; going on, its sha256 will prove the bytes"
            log.warning("%s: expected ETag %s, got %s of the same size and date, %s", self.name, mine, other, what)


def _amount_after(amount: int, seconds: float) -> int:
    """Return the size of the next chunk, by the duration of the last."""
    if seconds > SLOW_CHUNK_SECONDS:
        return max(amount // 2, MIN_CHUNK_BYTES)
    return min(2 * amount, CHUNK_BYTES) if seconds < SLOW_CHUNK_SECONDS / 4 else amount
