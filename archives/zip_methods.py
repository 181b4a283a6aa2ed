"""A zip member's packed bytes become its own, by the methods of the standard library; the other methods are named."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from archives.spans import CHUNK, Buffer
from errors import MemberError

STORED, DEFLATED, BZIP2, LZMA, XZ, AES = 0, 8, 12, 14, 95, 99  # APPNOTE.TXT 4.4.5
NAMES = {
    1: "Shrink", 2: "Reduce", 3: "Reduce", 4: "Reduce", 5: "Reduce", 6: "Implode", 9: "Deflate64", 10: "PKWARE DCL",
    16: "IBM CMPSC", 18: "IBM TERSE", 19: "IBM LZ77", 20: "Zstandard", 93: "Zstandard", 94: "MP3", 96: "JPEG",
    97: "WavPack", 98: "PPMd", AES: "AES",
}  # fmt: skip
MOST_INFLATED = 1032  # bytes that one byte may inflate to (zlib's "Maximum Compression Factor")
MEMORY = 128 << 20  # bytes; xz -9 takes 65 MiB to unpack, and a header may ask for 4 GiB
SMALLEST_DICTIONARY = 4096  # bytes


class _Decompressor(Protocol):
    """The interface of the decompressors of bz2 and lzma."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


def method_refusal(method: int) -> str:
    """Why members of this method cannot be stored; "" where they can."""
    if method in UNPACK or method == STORED:
        return ""
    name = f" ({NAMES[method]})" if method in NAMES else ""
    return f"compressed by method {method}{name}; stored, deflated, bzip2, LZMA and XZ are supported"


def unpack(method: int, chunks: Iterator[Buffer], size: int) -> Iterator[bytes]:
    """The member's bytes, which the directory says are `size`; raises MemberError for a damaged stream."""
    return UNPACK[method](chunks, size) if method else map(bytes, chunks)


def _inflate(chunks: Iterator[Buffer], _: int) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for chunk in chunks:
            yield inflater.decompress(chunk, CHUNK)
            while inflater.unconsumed_tail:
                yield inflater.decompress(inflater.unconsumed_tail, CHUNK)
            if inflater.eof:  # or it would keep all that follows
                return
        yield inflater.flush()
    except zlib.error as error:
        raise MemberError(f"damaged: {error}") from error


def _bunzip2(chunks: Iterator[Buffer], _: int) -> Iterator[bytes]:
    return _decompress(bz2.BZ2Decompressor(), chunks)


def _unxz(chunks: Iterator[Buffer], _: int) -> Iterator[bytes]:
    return _decompress(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY), chunks)


def _unlzma(chunks: Iterator[Buffer], size: int) -> Iterator[bytes]:
    """LZMA with the header that zip has (5.8.8): two bytes of version, two of length, then lc/lp/pb and dictionary.

    It is made into the header of a .lzma file, which bounds the memory: a dictionary is no larger than what it is of.
    """
    first = b""
    while len(first) < 9 and (chunk := next(chunks, b"")):
        first += bytes(chunk)
    if len(first) < 9 or first[2:4] != b"\5\0":
        raise MemberError("damaged: no LZMA header")
    properties, dictionary = struct.unpack_from("<BI", first, 4)
    head = struct.pack("<BIQ", properties, max(SMALLEST_DICTIONARY, min(dictionary, size)), size)
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MEMORY)
    yield from _decompress(unpacker, iter([head, first[9:]]))
    yield from _decompress(unpacker, chunks)


def _decompress(unpacker: _Decompressor, chunks: Iterator[Buffer]) -> Iterator[bytes]:
    for chunk in chunks:
        data = bytes(chunk)
        while not unpacker.eof:
            try:
                out = unpacker.decompress(data, CHUNK)
            except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
                raise MemberError(f"damaged: {error}") from error
            data = b""
            yield out
            if unpacker.needs_input:
                break
        if unpacker.eof:
            return


UNPACK: dict[int, Callable[[Iterator[Buffer], int], Iterator[bytes]]] = {
    DEFLATED: _inflate,
    BZIP2: _bunzip2,
    LZMA: _unlzma,
    XZ: _unxz,
}
