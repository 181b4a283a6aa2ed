"""Decompress gzip, bzip2 and xz streams, and verify their checksums.

Bytes after the last stream are ignored, as by gzip and bzip2: zeros (tapes, xz stream padding) silently, others with a
warning.
"""

from __future__ import annotations

import bz2
import logging
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from archives.spans import Buffer
from errors import ArchiveError

log = logging.getLogger("spotted")

MAX_LZMA_BYTES = 128 << 20  # bytes; xz -9 takes 65 MiB to unpack, and a header may ask for 4 GiB
GZIP = 31  # wbits of a gzip member, whose CRC-32 and length zlib checks (RFC 1952)
ERRORS = (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError)  # of the decompressors, for a damaged stream
FED, UNPACKED = 64 << 10, 256 << 10  # bytes that go into a decompressor in one call, and that come out at most


class Zlib:
    """zlib's decompressor with the interface of bz2's and lzma's; `wbits` is the format, as in `zlib.decompress`."""

    def __init__(self, wbits: int) -> None:
        self._zlib, self._is_full = zlib.decompressobj(wbits), False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not (self.eof or self._is_full or self._zlib.unconsumed_tail)

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = 0) -> bytes:
        out = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._is_full = len(out) == max_length  # zlib may hold more that it has not had the room to give
        return out


Decompressor = bz2.BZ2Decompressor | lzma.LZMADecompressor | Zlib


class _Format(NamedTuple):
    magic: bytes
    begin: Callable[[], Decompressor]


FORMATS = {
    "gz": _Format(b"\x1f\x8b", lambda: Zlib(GZIP)),
    "bz2": _Format(b"BZh", bz2.BZ2Decompressor),
    "xz": _Format(b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_LZMA_BYTES)),
}


def unpack(name: str, kind: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the unpacked bytes of all streams; `chunks` are consumed to their end.

    Raises ArchiveError when a stream is cut off, or is not what its checksum says.
    """
    magic, begin = FORMATS[kind]
    stream, between = begin(), b""
    for fed in pieces(chunks):
        between += fed if stream.eof else b""
        if not stream.eof:
            yield from _fed(name, kind, stream, fed)
            between = stream.unused_data
        while stream.eof and (between := between.lstrip(b"\0")).startswith(magic):
            stream = begin()
            yield from _fed(name, kind, stream, between)
            between = stream.unused_data
        if stream.eof and not magic.startswith(between[: len(magic)]):
            log.warning("%s: what follows the end of the .%s is not read; all before it is proved", name, kind)
            break
    else:
        if not stream.eof or between:
            raise ArchiveError(f"{name}: not a whole .{kind} file: it is cut off")
    for _ in chunks:
        pass  # the caller computes a checksum over all bytes


def pieces(chunks: Iterable[Buffer]) -> Iterator[bytes]:
    """Split chunks into small pieces: a decompressor copies its unused input at each call."""
    return (bytes(chunk[at : at + FED]) for chunk in chunks for at in range(0, len(chunk), FED))


def _fed(name: str, kind: str, stream: Decompressor, data: bytes) -> Iterator[bytes]:
    try:
        yield from feed(stream, data)
    except ERRORS as error:
        raise ArchiveError(f"{name}: not a whole .{kind} file: {error}") from error


def feed(stream: Decompressor, data: bytes) -> Iterator[bytes]:
    """Yield the output for these bytes in chunks of at most 256 KiB; raises one of ERRORS for a damaged stream."""
    while True:
        out = stream.decompress(data, UNPACKED)
        if out:
            yield out
        if stream.eof or stream.needs_input:
            return
        data = b""
