"""Text that is written once and read several times, kept in memory gzipped: a tenth of its size."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from typing import IO, cast

EFFORT = 1  # of gzip, as in manifest/records.py
CHUNK = 1 << 20  # bytes that are unpacked together


class PackedText:
    """Grows by `write`; the first reading ends that."""

    def __init__(self) -> None:
        self._packed = io.BytesIO()
        self._file = gzip.GzipFile(fileobj=self._packed, mode="wb", compresslevel=EFFORT, mtime=0)
        self._text = io.TextIOWrapper(cast(IO[bytes], self._file), "utf-8", "surrogatepass", newline="")
        self.write = self._text.write

    def _open(self) -> gzip.GzipFile:
        self._text.close()
        return gzip.GzipFile(fileobj=io.BytesIO(self._packed.getbuffer()))

    def lines(self) -> Iterator[str]:
        """The text line by line, as a reader of CSV wants it."""
        return io.TextIOWrapper(cast(IO[bytes], self._open()), "utf-8", "surrogatepass", newline="")

    def __iter__(self) -> Iterator[bytes]:
        """The text's bytes in chunks."""
        with self._open() as file:
            while chunk := file.read(CHUNK):
                yield chunk
