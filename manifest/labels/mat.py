"""Read the texts of a cell array in a MAT-file of version 5, the format of Stanford's lists.

Only cell arrays of text are supported, plain or compressed. The format:
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

HEADER_BYTES = 128  # bytes
MATRIX, COMPRESSED = 14, 15  # types of data elements
CELL = 1  # class of an array
ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}  # by type of the text
MAX_VARIABLE_BYTES = 64 << 20  # bytes of an unpacked variable; the real lists have 4 MB


def cell_texts(data: bytes, name: str) -> list[str]:
    """Return the texts of the cell array of this name; raises ValueError if the file has none."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or len(data) < HEADER_BYTES:
        raise ValueError("not a MAT-file of version 5")
    try:
        for kind, element in _elements(data[HEADER_BYTES:], order):
            matrix = _unpacked(element, order) if kind == COMPRESSED else element
            (_, flags), _, (_, found), *parts = _elements(matrix, order)
            if found == name.encode() and flags[0 if order == "<" else 3] == CELL:
                return [_text(part, order) for _, part in parts]
    except (ValueError, struct.error, zlib.error, IndexError, KeyError) as error:
        raise ValueError("a damaged MAT-file") from error
    raise ValueError(f"a MAT-file without {name}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the bytes of each data element."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # a small element: its size is in the upper half of the first word, its data in the second
            yield kind & 0xFFFF, data[at + 4 : at + 4 + min(kind >> 16, 4)]
            at += 8
            continue
        if at + 8 + size > len(data):
            raise ValueError("cut off")
        yield kind, data[at + 8 : at + 8 + size]
        at += 8 + size + (0 if kind == COMPRESSED else -size % 8)


def _unpacked(element: bytes, order: str) -> bytes:
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(element, MAX_VARIABLE_BYTES)
    if not unpacker.eof:
        raise ValueError("larger than any list")
    ((_, matrix),) = _elements(data, order)
    return matrix


def _text(matrix: bytes, order: str) -> str:
    _, _, _, *text = _elements(matrix, order)
    if not text:
        return ""
    kind, data = text[0]
    encoding = ENCODINGS[kind]
    return data.decode(f"{encoding}-{'le' if order == '<' else 'be'}" if encoding[-2:] in ("16", "32") else encoding)
