"""Compressed buffers in memory, which are written once and read several times; a fifth to a tenth of the size."""

from __future__ import annotations

import gzip
import io
import marshal
import zlib
from collections.abc import Iterator
from typing import Generic, TypeVar

COMPRESSION_LEVEL = 1  # of zlib, as in manifest/records.py
CHUNK_BYTES = 1 << 20  # bytes that are unpacked together
ROWS_PER_PIECE = 500  # rows that are packed together

Row = TypeVar("Row", bound=tuple[str | int, ...])


class PackedBytes:
    """Bytes that grow by `write`, until they are iterated for the first time."""

    def __init__(self) -> None:
        self._packed = io.BytesIO()
        self._file = gzip.GzipFile(fileobj=self._packed, mode="wb", compresslevel=COMPRESSION_LEVEL, mtime=0)
        self.write = self._file.write

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes in chunks."""
        self._file.close()
        with gzip.GzipFile(fileobj=io.BytesIO(self._packed.getbuffer())) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


class PackedRows(Generic[Row]):
    """Tuples of texts and numbers, compressed in pieces."""

    def __init__(self) -> None:
        self._packed, self._last = list[bytes](), list[Row]()

    def add(self, row: Row) -> None:
        """Append a row."""
        self._last.append(row)
        if len(self._last) == ROWS_PER_PIECE:
            self._packed.append(zlib.compress(marshal.dumps(self._last), COMPRESSION_LEVEL))
            self._last = []

    def __iter__(self) -> Iterator[list[Row]]:
        """Yield the rows in pieces."""
        for piece in self._packed:
            yield marshal.loads(zlib.decompress(piece))  # noqa: S302 - made by this process
        if self._last:
            yield self._last
