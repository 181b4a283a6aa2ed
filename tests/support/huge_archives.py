"""Archives that are too large to keep: each piece is made when it is asked for, and served over HTTP."""

from __future__ import annotations

import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from support.tars import BLOCK, END, block, padded

PIECE = 1 << 20  # bytes made and sent at a time


class Vast(NamedTuple):
    """A file of `size` bytes, of which `part` makes the bytes [start, stop)."""

    size: int
    part: Callable[[int, int], bytes]


def joined(*parts: bytes | int) -> Vast:
    """These bytes one after the other, a number being so many zeros."""

    def part(start: int, stop: int) -> bytes:
        out, at = bytearray(), 0
        for each in parts:
            length = each if isinstance(each, int) else len(each)
            low, high = max(start - at, 0), min(stop - at, length)
            if low < high:
                out += bytes(high - low) if isinstance(each, int) else each[low:high]
            at += length
        return bytes(out)

    return Vast(sum(each if isinstance(each, int) else len(each) for each in parts), part)


def tar_of_one(size: int) -> Vast:
    """A tar with one member of so many zeros between two small ones."""
    first, last = (block(name, 1) + padded(b"1") for name in (b"first", b"last"))
    return joined(first, block(b"large", size), size + -size % BLOCK, last, END)


def zip_of_one(size: int) -> Vast:
    """A zip with one stored member of so many zeros; sizes are in the records for large files (zip64)."""
    crc = 0
    for at in range(0, size, PIECE):
        crc = zlib.crc32(bytes(min(PIECE, size - at)), crc)
    extra = struct.pack("<HHQQ", 1, 16, size, size)  # APPNOTE.TXT 4.5.3
    both = struct.pack("<HHHHHIIIHH", 45, 0, 0, 0, 33, crc, 0xFFFFFFFF, 0xFFFFFFFF, 5, len(extra))
    local = b"PK\3\4" + both + b"large" + extra
    entry = b"PK\1\2" + struct.pack("<H", 45) + both + struct.pack("<HHHII", 0, 0, 0, 0, 0) + b"large" + extra
    begin = len(local) + size
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(entry), begin)
    end64 += struct.pack("<4sIQI", b"PK\6\7", 0, begin + len(entry), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(entry), 0xFFFFFFFF, 0)
    return joined(local, size, entry + end64 + end)


def tar_of_many(count: int) -> Vast:
    """A tar of so many empty members, a thousand to a folder."""

    def part(start: int, stop: int) -> bytes:
        numbers = range(start // BLOCK, min(-(-stop // BLOCK), count))
        made = b"".join(block(b"%04d/%07d" % (number // 1000, number)) for number in numbers)
        return (made + bytes(stop - start + BLOCK))[start % BLOCK :][: stop - start]

    return Vast(count * BLOCK + len(END), part)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    files: dict[str, Vast]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        vast = self.server.files.get(self.path)
        if vast is None:
            self.send_error(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(asked[1]), min(int(asked[2]) + 1, vast.size)) if asked else (0, vast.size)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{vast.size}")
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        for at in range(start, stop, PIECE):
            self.wfile.write(vast.part(at, min(at + PIECE, stop)))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(files: dict[str, Vast]) -> Iterator[str]:
    """Serve these files, by path; the URL of the server."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.files = files
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
