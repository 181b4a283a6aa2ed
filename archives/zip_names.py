"""Decode the names of a zip's records: encoding, separators, folders."""

from __future__ import annotations

import logging
import re
import stat
import unicodedata
import zlib
from collections.abc import Sequence

from archives.zip_directory import Record, fields

log = logging.getLogger("spotted")

UTF_8 = 0x800  # flag (APPNOTE.TXT 4.4.4)
UNICODE_PATH = 0x7075  # extra field of Info-ZIP (4.6.9)
BACKSLASHED = {0, 6, 10, 11, 14}  # FAT, HPFS, NTFS (11 as Info-ZIP has it), VFAT (4.4.2)
UNIX = {3, 19}  # these keep st_mode in the upper half of the external attributes (4.4.15); 19 is macOS
MSDOS_FOLDER = 0x10


def names(archive: str, records: Sequence[Record]) -> list[str]:
    """Return each record's name; a folder's ends with "/". Guesses are logged once."""
    found = list(map(_decoded, records))
    _report(archive, records, found)
    if any("\\" in name for name in found):
        found = _with_slashes(archive, records, found)
    empty = {
        name for record, name in zip(records, found, strict=True) if _is_empty(record) and name and name[-1] != "/"
    }
    if empty:
        above = empty & _folders(found)
        found = [
            name + "/" if name in empty and _is_empty(record) and (name in above or _is_folder(record)) else name
            for record, name in zip(records, found, strict=True)
        ]
    return found


def _folders(found: Sequence[str]) -> set[str]:
    """Return all folders that contain other names."""
    folders = {name.rpartition("/")[0] for name in found}
    return {folder[: match.start()] for folder in folders for match in re.finditer("/|$", folder)}


def _decoded(record: Record) -> str:
    raw = record.raw_name
    if b"up" in record.extra and (name := _unicode_path(record)):
        return name
    if raw.isascii():
        return raw.partition(b"\0")[0].decode("ascii")  # a NUL ends a name, as all readers have it
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("utf-8", "surrogateescape") if record.flags & UTF_8 else raw.decode("cp437")
    return name.partition("\0")[0]


def _unicode_path(record: Record) -> str:
    """Return the name of Info-ZIP's field, if it is UTF-8 and its CRC-32 is that of the raw name; else ""."""
    field = next((data for kind, data in fields(record.extra) if kind == UNICODE_PATH), b"")
    is_meant = field[:5] == b"\1" + zlib.crc32(record.raw_name).to_bytes(4, "little")
    try:
        return field[5:].decode().partition("\0")[0] if is_meant else ""
    except UnicodeDecodeError:
        return ""


def _report(archive: str, records: Sequence[Record], found: list[str]) -> None:
    odd = [(record, name) for record, name in zip(records, found, strict=True) if not name.isascii()]
    guessed = sum(not record.flags & UTF_8 and record.raw_name.decode("cp437") == name for record, name in odd)
    if guessed:
        log.warning("%s: %d names are neither ASCII nor UTF-8; they are read as code page 437", archive, guessed)
    decomposed = sum(not unicodedata.is_normalized("NFC", name) for _, name in odd)
    if decomposed:
        log.info("%s: %d names have decomposed letters (NFD), and are kept so", archive, decomposed)


def _with_slashes(archive: str, records: Sequence[Record], found: list[str]) -> list[str]:
    """Turn backslashes into slashes if the maker's system uses them, or if no name has a slash (against 4.4.17)."""
    has_none = not any("/" in name for name in found)
    out = [
        name.replace("\\", "/") if has_none or record.system in BACKSLASHED else name
        for record, name in zip(records, found, strict=True)
    ]
    count = sum(new != old for new, old in zip(out, found, strict=True))
    if count:
        log.warning("%s: %d names have backslashes; they are read as slashes", archive, count)
    return out


def _is_empty(record: Record) -> bool:
    return not (record.size and record.packed)


def _is_folder(record: Record) -> bool:
    if mode := unix_mode(record):
        return stat.S_ISDIR(mode)
    return bool(record.attributes & MSDOS_FOLDER)


def unix_mode(record: Record) -> int:
    """Return its st_mode; 0 if its maker has none."""
    return record.attributes >> 16 if record.system in UNIX else 0
