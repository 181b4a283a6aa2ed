"""Decompress a zip's members by the methods of the standard library; name the other methods."""

from __future__ import annotations

import bz2
import itertools
import lzma
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator

from archives.decompress import ERRORS, FORMATS, MAX_LZMA_BYTES, Decompressor, Zlib, feed, pieces
from archives.spans import Buffer
from errors import MemberError

STORED, DEFLATED, BZIP2, LZMA, XZ, AES = 0, 8, 12, 14, 95, 99  # APPNOTE.TXT 4.4.5
NAMES = {
    1: "Shrink", 2: "Reduce", 3: "Reduce", 4: "Reduce", 5: "Reduce", 6: "Implode", 9: "Deflate64", 10: "PKWARE DCL",
    16: "IBM CMPSC", 18: "IBM TERSE", 19: "IBM LZ77", 20: "Zstandard", 93: "Zstandard", 94: "MP3", 96: "JPEG",
    97: "WavPack", 98: "PPMd", AES: "AES",
}  # fmt: skip
MAX_INFLATE_RATIO = 1032  # bytes that one byte may inflate to (zlib's "Maximum Compression Factor")
MIN_DICTIONARY_BYTES = 4096  # bytes
DECOMPRESSORS: dict[int, Callable[[], Decompressor]] = {
    DEFLATED: lambda: Zlib(-zlib.MAX_WBITS),
    BZIP2: bz2.BZ2Decompressor,
    XZ: FORMATS["xz"].begin,
}


def method_refusal(method: int) -> str:
    """Return why members of this method cannot be stored; "" if they can."""
    if method in (STORED, LZMA, *DECOMPRESSORS):
        return ""
    name = f" ({NAMES[method]})" if method in NAMES else ""
    return f"compressed by method {method}{name}; stored, deflated, bzip2, LZMA and XZ are supported"


def unpack(method: int, chunks: Iterator[Buffer], size: int) -> Iterator[bytes]:
    """Yield the member's bytes; `size` is by the directory. Raises MemberError for a damaged stream."""
    if method == STORED:
        return map(bytes, chunks)
    return _unlzma(chunks, size) if method == LZMA else _unpack(DECOMPRESSORS[method](), chunks)


def _unpack(stream: Decompressor, chunks: Iterable[Buffer]) -> Iterator[bytes]:
    try:
        for piece in pieces(chunks):
            yield from feed(stream, piece)
            if stream.eof:
                return
    except ERRORS as error:
        raise MemberError(f"damaged: {error}") from error


def _unlzma(chunks: Iterator[Buffer], size: int) -> Iterator[bytes]:
    """Decompress LZMA with zip's header (5.8.8): two bytes of version, two of length, then lc/lp/pb and dictionary.

    The header of a .lzma file replaces it, which bounds the memory: the dictionary is no larger than the member.
    """
    first = b""
    while len(first) < 9 and (chunk := next(chunks, b"")):
        first += bytes(chunk)
    if len(first) < 9 or first[2:4] != b"\5\0":
        raise MemberError("damaged: no LZMA header")
    properties, dictionary = struct.unpack_from("<BI", first, 4)
    head = struct.pack("<BIQ", properties, max(MIN_DICTIONARY_BYTES, min(dictionary, size)), size)
    stream = lzma.LZMADecompressor(lzma.FORMAT_ALONE, MAX_LZMA_BYTES)
    yield from _unpack(stream, itertools.chain([head, first[9:]], chunks))
