"""Open a URL, a share link, a local file or several parts as a random-access file, pinned to one version.

Every source has `name`, `size` (bytes), `version` and `read(start, stop)` / `stream(start, stop)`, is
picklable, and holds no connection of its own: connections belong to its client.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import requests

from sources import http_answers as answers
from sources import network
from sources.http import CONNECT_TIMEOUT, HttpClient
from sources.http_answers import Version
from sources.http_source import HttpSource
from sources.http_status import NO_RANGES
from sources.local_files import FileSource, is_http, local_path
from sources.retry import MAX_FIRST_ATTEMPTS, innermost
from sources.spool import SpooledSource, spooled_from, whole

log = logging.getLogger("spotted")

HEAD = {"Range": "bytes=0-511"}  # of the first request for a file


def unreachable(places: tuple[str, ...]) -> str:
    """Return the first of these URLs and paths that this process cannot read, and why; "" if there is none.

    It runs on the workers of a cluster. Any answer of a server counts.
    """
    network.share()
    for place in places:
        if not is_http(place) and not local_path(place).exists():
            return f"{place} (no such file or directory there)"
        try:
            if is_http(place):
                requests.get(place, timeout=CONNECT_TIMEOUT, stream=True, allow_redirects=False).close()
        except (requests.ConnectionError, requests.Timeout) as error:
            return f"{place} ({innermost(error)})"
    return ""


# ── opening ──────────────────────────────────────────────────────────────────────────────────────


def open_source(urls: tuple[str, ...], client: HttpClient, size: int | None = None, is_proven: bool = False) -> Source:
    """Open one URL or path, or several parts as one file; `size` is what the whole must have, in bytes.

    A file on a server without ranges is copied into a temporary file. For `is_proven` see `proven`.
    Raises SourceError if the source is unavailable, is an HTML page, or has another size.
    """
    parts = tuple(_open_one(url, size if len(urls) == 1 else None, client) for url in urls)
    source = parts[0] if len(parts) == 1 else ConcatSource(parts)
    answers.check_size(source.name, source.size, size)
    return proven(source, is_proven)


def proven(source: Source, is_proven: bool) -> Source:
    """Return the source, which accepts other ETags of the same size and date if a checksum will prove the bytes."""
    if isinstance(source, ConcatSource):
        return ConcatSource(tuple(proven(part, is_proven) for part in source.parts))
    return replace(source, is_proven=is_proven) if isinstance(source, HttpSource) else source


def with_client(source: Source, client: HttpClient) -> Source:
    """Return the source with the connections of this client; a pickled one has its own."""
    if isinstance(source, ConcatSource):
        return ConcatSource(tuple(with_client(part, client) for part in source.parts))
    return replace(source, client=client) if isinstance(source, HttpSource | SpooledSource) else source


def _open_one(url: str, size: int | None, client: HttpClient) -> Source:
    if is_http(url):
        return client.persist(url, lambda: _open_http(url, size, client), MAX_FIRST_ATTEMPTS)
    return FileSource.at(local_path(url))


@dataclass(frozen=True)
class Probe:
    """A source's description, from one request for its first bytes or from a local file."""

    size: int | None  # bytes
    has_ranges: bool


def probe(url: str, client: HttpClient) -> Probe:
    """Describe a source without reading it; raises SourceError if it is unavailable or an HTML page."""
    if not is_http(url):
        return Probe(FileSource.at(local_path(url)).size, True)
    return client.persist(url, lambda: _probe(url, client), MAX_FIRST_ATTEMPTS)


def _probe(url: str, client: HttpClient, headers: dict[str, str] = HEAD) -> Probe:
    with client.get(url, headers) as response:
        if headers and response.status_code in NO_RANGES:
            return _probe(url, client, {})
        answers.check_status(url, response)
        answers.check_not_html(url, client.body(response).read(512))
        if response.status_code == 206:
            return Probe(answers.content_range(response)[1], True)
        return Probe(answers.content_length(response), False)


def _open_http(url: str, size: int | None, client: HttpClient) -> Source:
    with client.get(url, HEAD) as response:
        if response.status_code in NO_RANGES:
            return whole(url, size, client)
        answers.check_status(url, response)
        if response.status_code == 200:
            return spooled_from(response, url, size, client)
        answers.check_encoding(url, response)
        answers.check_not_html(url, client.body(response).read(512))
        first, total = answers.content_range(response)
        if first == 0 and total:
            return HttpSource(url, total, Version.of(response), client)
    log.info("%s: the server answers the first Range request wrongly; asking for the whole file", url)
    return whole(url, size, client)


# ── the kinds of source ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ConcatSource:
    """Several parts as one file, named like the first."""

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
        """Return the bytes [start, stop) of the whole."""
        return b"".join(self.stream(start, stop))

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the same bytes in chunks."""
        for part in self.parts:
            low, high = max(start, 0), min(stop, part.size)
            if low < high:
                yield from part.stream(low, high)
            start, stop = start - part.size, stop - part.size


Source = FileSource | HttpSource | ConcatSource
