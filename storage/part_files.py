"""Bytes become a file by way of another name, so that no file is ever half written."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from storage.names import PARTIAL_PREFIX

CHUNK = 1 << 20  # bytes of a file that are in memory when it is read


def part_name() -> str:
    """The name of a file that is being written, which no other thread, process or container uses."""
    return PARTIAL_PREFIX + secrets.token_hex(8)


def chunks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


@contextlib.contextmanager
def removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def open_for_writing(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o666)


def fill(file: int, chunks: Iterable[bytes]) -> None:
    try:
        for chunk in chunks:
            _write_all(file, chunk)
    finally:
        os.close(file)  # on a mount this is the upload, and can fail


def _write_all(descriptor: int, chunk: bytes) -> None:
    written = os.write(descriptor, chunk)
    while written < len(chunk):
        written += os.write(descriptor, memoryview(chunk)[written:])
