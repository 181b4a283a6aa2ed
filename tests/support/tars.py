"""Tars written block by block, so that any field can say anything."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

from support.archives import File, Pack

BLOCK = 512


def block(
    name: bytes, size: int | bytes = 0, kind: bytes = b"0", *, magic: bytes = b"ustar\x0000", rest: bytes = b""
) -> bytes:
    """A tar header with a right checksum, regardless of its fields; `size` as bytes is put in as it is."""
    size = b"%011o\0" % size if isinstance(size, int) else size
    head = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size + b"00000000000\0" + b" " * 8 + kind
    head = (head + bytes(100) + magic.ljust(8, b"\0") + rest).ljust(BLOCK, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


END = bytes(2 * BLOCK)


def pack_tar(kind: int, pax: dict[str, str] | None = None) -> Pack:
    def pack(files: list[File]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind, pax_headers=pax) as archive:
            for file in files:
                info = tarfile.TarInfo(file.name)
                info.size, info.pax_headers = len(file.data), dict(file.pax)
                info.type = tarfile.DIRTYPE if file.name.endswith("/") else tarfile.REGTYPE
                archive.addfile(info, io.BytesIO(file.data))
        return out.getvalue()

    return pack


def pack_v7(files: list[File]) -> bytes:
    """Version 7 Unix: no magic, and a folder is a name that ends with a slash."""
    parts = [block(file.name.encode(), len(file.data), b"\0", magic=b"") + padded(file.data) for file in files]
    return b"".join(parts) + END


def pack_compressed(compress: Callable[[bytes], bytes]) -> Pack:
    return lambda files: compress(pack_tar(tarfile.GNU_FORMAT)(files))


def member(name: str, data: bytes = b"") -> bytes:
    return block(name.encode(), len(data)) + padded(data)


def extended(kind: bytes, data: bytes) -> bytes:
    """An extended header: of a long name (L), of one member (x), or of all that follow (g)."""
    return block(b"././@LongLink", len(data), kind) + padded(data)


def record(key: str, value: str) -> bytes:
    """A pax record, which begins with its own length."""
    tail = f" {key}={value}\n".encode()
    size = next(size for size in range(len(tail), len(tail) + 9) if len(b"%d" % size) + len(tail) == size)
    return b"%d" % size + tail


SPARSE = bytes(121) + b"00000000000\0" + b"00000000005\0" + bytes(72)  # of a GNU header, from byte 265 on
SPARSE_1_0 = [
    ("GNU.sparse.major", "1"),
    ("GNU.sparse.minor", "0"),
    ("GNU.sparse.name", "s"),
    ("GNU.sparse.realsize", "9"),
]
pack_pax = pack_tar(tarfile.PAX_FORMAT)


def mended(packed: bytes) -> bytes:
    """With the first header's checksum put right."""
    head = packed[:148] + b" " * 8 + packed[156:512]
    return head[:148] + b"%06o\0 " % sum(head) + head[156:] + packed[512:]


def changed(header: bytes, at: int, new: bytes) -> bytes:
    """A header with these bytes in it, and the checksum that is right for them."""
    header = header[:at] + new + header[at + len(new) :]
    head = header[:148] + b" " * 8 + header[156:BLOCK]
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def signed(header: bytes) -> bytes:
    """With the sum that some old writers made: of bytes that are below zero from 128 on."""
    total = sum(each - 256 * (each > 127) for each in header[:148] + b" " * 8 + header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:]
