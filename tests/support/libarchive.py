"""What libarchive, which bsdtar is made of, takes out of a tar: a judge in this process, for thousands of inputs.

Debian's package libarchive-tools brings it (.ci/packages).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

_LIBRARY = ctypes.CDLL("libarchive.so.13")
_TEXTS = ("archive_entry_pathname", "archive_entry_hardlink", "archive_entry_symlink", "archive_error_string")
_POINTERS = ("archive_read_new",)
for _name in _TEXTS:
    getattr(_LIBRARY, _name).restype = ctypes.c_char_p
for _name in _POINTERS:
    getattr(_LIBRARY, _name).restype = ctypes.c_void_p
_LIBRARY.archive_read_data.restype = ctypes.c_ssize_t

END, WARN = 1, -20  # archive.h: ARCHIVE_EOF, ARCHIVE_WARN; what is below is an error
FOLDER, FILE = 0o040000, 0o100000


class Found(NamedTuple):
    """A member as libarchive reads it."""

    name: str
    data: bytes
    kind: int  # of file, as in a mode; 0 for a hard link
    link: str


def members(packed: bytes) -> tuple[list[Found], str]:
    """All that libarchive finds, and the error that ended it, or ""."""
    found: list[Found] = []
    with _opened(packed) as archive:
        entry = ctypes.c_void_p()
        while (status := _LIBRARY.archive_read_next_header(archive, ctypes.byref(entry))) >= WARN:
            if status == END:
                return found, ""
            data, error = _data(archive)
            if error:
                break
            found.append(_found(entry, data))
        return found, (_LIBRARY.archive_error_string(archive) or b"?").decode(errors="replace")


@contextmanager
def _opened(packed: bytes) -> Iterator[ctypes.c_void_p]:
    archive = ctypes.c_void_p(_LIBRARY.archive_read_new())
    _LIBRARY.archive_read_support_filter_gzip(archive)
    _LIBRARY.archive_read_support_filter_bzip2(archive)
    _LIBRARY.archive_read_support_filter_xz(archive)
    _LIBRARY.archive_read_support_format_tar(archive)
    try:
        _LIBRARY.archive_read_open_memory(archive, packed, ctypes.c_size_t(len(packed)))
        yield archive
    finally:
        _LIBRARY.archive_read_free(archive)


def _data(archive: ctypes.c_void_p) -> tuple[bytes, bool]:
    buffer, found = ctypes.create_string_buffer(1 << 16), bytearray()
    while (size := _LIBRARY.archive_read_data(archive, buffer, ctypes.c_size_t(len(buffer)))) > 0:
        found += buffer.raw[:size]
        if len(found) > 64 << 20:  # holes of a sparse file
            return b"", True
    return bytes(found), size < 0


def _found(entry: ctypes.c_void_p, data: bytes) -> Found:
    name, link = _LIBRARY.archive_entry_pathname(entry), _LIBRARY.archive_entry_hardlink(entry)
    kind = 0 if link is not None and not data else _LIBRARY.archive_entry_filetype(entry) & 0o170000
    return Found(_text(name), data, kind, _text(link or _LIBRARY.archive_entry_symlink(entry)))


def _text(name: bytes | None) -> str:
    return (name or b"").decode("utf-8", "surrogateescape")
