"""A file that is served and read, and what a source asks for when it is opened."""

from __future__ import annotations

import random

from sources.http import HttpClient
from sources.source import Source, open_source
from support.source_server import SourceServer

DATA = random.Random(1).randbytes(5000)
LONG = random.Random(2).randbytes(400_000)
HTML = b"\xef\xbb\xbf\n <!DOCTYPE html>\n<html><body>This link has expired</body></html>"
PATH = "/data.bin"
PROBE = "bytes=0-511"


def opened(server: SourceServer, path: str = PATH, client: HttpClient | None = None) -> Source:
    """The source at `path`, with what opening it asked for forgotten."""
    source = open_source((server.url + path,), client or HttpClient())
    server.requests.clear()
    return source


MONDAY, TUESDAY = "Mon, 05 Jan 2026 10:00:00 GMT", "Tue, 06 Jan 2026 10:00:00 GMT"
