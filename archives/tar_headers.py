"""Parse the headers of a tar's members; the format of each header decides the meaning of its fields.

v7 (Unix, 1979) has names of 100 bytes. ustar (POSIX.1-1988) has a prefix to the name; GNU's own format has times and a
sparse map in that place, and star's has times in its last bytes. Longer names come in extended headers before the
member: GNU's L and K, and pax records (POSIX.1-2001). Only fields that change a byte or a name are read: an owner, a
mode, a time or a device number may be broken.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from archives.archive_file import ArchiveFile
from archives.spans import MAX_HEADER_BYTES, MAX_HEADERS_BYTES, Pax
from errors import ArchiveError, escaped

BLOCK = 512
REGULAR = b"0"
FILES = frozenset({REGULAR, b"\0", b"7"})  # 7: contiguous, on systems that had such files
FOLDERS = (b"5", b"D")  # D: GNU's dump of a folder, whose data are the names in it
HARD_LINK, SYMBOLIC_LINK, SPARSE, CONTINUED = b"1", b"2", b"S", b"M"
DEVICES = (b"3", b"4", b"6")
WITHOUT_DATA = (HARD_LINK, SYMBOLIC_LINK, *DEVICES, b"5")  # their size field counts only where no header follows
LONG_NAME, LONG_LINK, GLOBAL = b"L", b"K", b"g"
PAX = (b"x", b"X")  # X: Solaris, before the standard
PASSED_OVER = (b"V", b"A")  # a volume's label, and Solaris' access lists
LINKS = frozenset({HARD_LINK, SYMBOLIC_LINK})
EXTENDED = (LONG_NAME, LONG_LINK, GLOBAL, *PAX, *PASSED_OVER)  # what stands before the header of a member
PAX_THAT_MATTERS = ("path", "linkpath", "size", "GNU.sparse.", "SCHILY.realsize", "SUN.holesdata")
SPARSE_KEYS = PAX_THAT_MATTERS[3:]
SPARSE_GOES_ON = 504  # the byte of a block of a sparse map that says so

_CHECKSUM = re.compile(rb"[ \t]*([0-7]{1,8})(?:[ \0].*)?", re.DOTALL)
_OCTAL = re.compile(rb"[ \t]*([0-7]*)(?:[ \0].*)?", re.DOTALL)
_RECORD = re.compile(rb" *([0-9]{1,7}) ([^=\n]*)=")
_MINUS = bytes(range(128, 256))


class Header(NamedTuple):
    """One block with a right checksum."""

    name: bytes
    size: int | None  # bytes; None where the field is no number
    kind: bytes  # one byte
    link: bytes
    is_posix: bool  # ustar, pax or star
    is_extended: bool = False  # blocks with the rest of a sparse map follow
    real_size: int | None = None  # bytes of a sparse file with its holes


class TarEntry(NamedTuple):
    """A member by all of its headers; offsets and sizes in bytes."""

    name: str
    size: int
    kind: bytes
    link: str
    is_sparse: bool
    offset: int  # where the data begin
    end: int  # where the data end; the next header is at the next full block
    damage: str = ""  # the beginning of a bad pax record, which may have another name and size

    @property
    def is_folder(self) -> bool:
        return self.kind in FOLDERS or (not self.size and self.kind in FILES and self.name.endswith("/"))


def tar_refusal(entry: TarEntry) -> str:
    """Return why a member is not stored; "" if it can be."""
    if entry.damage:
        return f"bad pax header: {entry.damage}"
    if entry.is_sparse:
        return "a sparse file: its holes would have to be written out"
    if entry.kind in LINKS:
        return f"a {'symbolic' if entry.kind == SYMBOLIC_LINK else 'hard'} link to {escaped(entry.link)!r}"
    if entry.kind == CONTINUED:
        return "the rest of a file that begins in another volume of the archive"
    if entry.kind not in FILES:
        return "a device or pipe" if entry.kind in DEVICES else f"of unknown tar type {entry.kind!r}"
    return ""


def parse(block: bytes) -> Header | None:
    """Return the header in a block; None if its checksum is wrong.

    Some old writers summed signed bytes, so both sums are accepted (POSIX.1-2001, pax, "ustar").
    """
    found = _CHECKSUM.fullmatch(block, 148, 156)
    if not found or len(block) != BLOCK:
        return None
    wrong = int(found[1], 8) - _sum(block) + sum(block[148:156]) - 8 * ord(" ")
    if wrong and wrong != -256 * (BLOCK - len((block[:148] + block[156:]).translate(None, _MINUS)) - 8):
        return None
    kind, name = block[156:157], block[:100].partition(b"\0")[0]
    link = block[157:257].partition(b"\0")[0] if kind in LINKS else b""
    is_posix = block[257:262] == b"ustar" and block[262:265] != b"  \0"  # which is GNU's magic number
    if is_posix and block[345]:
        prefix = block[345 : 476 if _is_star(block) else 500].partition(b"\0")[0]  # times follow at byte 476 in star's
        name = prefix.removesuffix(b"/") + b"/" + name
    if kind == SPARSE:
        return Header(name, number(block[124:136]), kind, link, is_posix, *_sparse(block))
    return Header(name, number(block[124:136]), kind, link, is_posix)


def _sum(block: bytes) -> int:
    """Add up the bytes of a block in a fifth of the time of sum().

    The lower half of an Adler-32 is the sum plus 1, modulo 65,521, which 256 bytes do not reach (RFC 1950).
    """
    return (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2


def _is_star(block: bytes) -> bool:
    return block[508:512] == b"tar\0"


def _sparse(block: bytes) -> tuple[bool, int | None]:
    # GNU tar, src/tar.h: struct oldgnu_header and struct star_in_header
    more, real_size = (355, block[452:464]) if _is_star(block) else (482, block[483:495])
    return block[more] not in (0, ord("0")), number(real_size)


def number(field: bytes) -> int | None:
    """Parse a number in octal digits, or in binary if the first bit is set (GNU and star, for 8 GiB and more)."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if value >> (bits - 1) else value
    found = _OCTAL.fullmatch(field)
    return int(found[1] or b"0", 8) if found else None


def padded(size: int) -> int:
    """Round a size up to full blocks."""
    return -(-size // BLOCK) * BLOCK


def parse_pax(body: bytes, found: dict[str, str]) -> str:
    """Add the records of a pax header that matter, and return the beginning of the first that is damaged, or "".

    A record is its length, a space, key, "=", value, line end.
    """
    begin = 0
    while begin < len(body) and body[begin]:
        match = _RECORD.match(body, begin)
        end = begin + int(match[1]) if match else 0
        if not match or not match.end() < end <= len(body) or body[end - 1] != ord("\n"):
            return escaped(str(body[begin : begin + 40]))
        key = match[2].decode("utf-8", "surrogateescape")
        if key.startswith(PAX_THAT_MATTERS):
            found[key] = body[match.end() : end - 1].decode("utf-8", "surrogateescape")
        begin = end
    return ""


def _size(archive: str, value: str, at: int) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", value):
        raise ArchiveError(f"{archive}: the pax header before byte {at:,} has an impossible size: {escaped(value)}")
    return int(value)


def _name(pax: str | None, long: bytes | None, short: bytes) -> str:
    # An empty pax value deletes the record (POSIX.1-2001, pax); GNU's long name counts also where it is empty.
    return pax or (short if long is None else long).decode("utf-8", "surrogateescape")


class HeaderReader:
    """Reads the headers of one archive; `pax` are the global records in force."""

    def __init__(self, file: ArchiveFile, pax: Pax) -> None:
        self.archive, self.read_bytes, self.pax = file.name, file.read, pax

    def read(self, start: int) -> tuple[TarEntry | None, int]:
        """Return the member whose headers begin at `start`, and the position of the next header.

        Returns None and the position if there is no header. Raises ArchiveError for damaged or oversized headers.
        """
        header, at = parse(self.read_bytes(start, start + BLOCK)), start + BLOCK
        if header and header.kind in FILES and header.size and header.size > 0 and not self.pax:  # almost all: be quick
            name, size = header.name.decode("utf-8", "surrogateescape"), header.size
            if not name.endswith("/"):
                return TarEntry(name, size, header.kind, "", False, at, at + size), at + padded(size)
        return self._read(header, start)

    def _read(self, header: Header | None, start: int) -> tuple[TarEntry | None, int]:
        at, own, long, damage = start, dict[str, str](), dict[bytes, bytes](), ""
        while header:
            at += BLOCK
            if header.kind not in EXTENDED:
                entry = self._entry(header, at, dict(self.pax) | own, long)
                return entry._replace(damage=damage), entry.offset + padded(entry.end - entry.offset)
            is_bare = header.kind in PASSED_OVER and not self._has_data(header.size, at)
            body = b"" if is_bare else self._body(header, at)
            at += padded(len(body))
            self._check_length(start, at)
            if header.kind in (LONG_NAME, LONG_LINK):
                long[header.kind] = body.partition(b"\0")[0]
            elif header.kind == GLOBAL:
                pax = dict(self.pax)
                if bad := parse_pax(body, pax):
                    raise ArchiveError(f"{self.archive}: bad pax header before byte {at:,}: {bad}")
                self.pax = tuple(sorted(pax.items()))
            elif header.kind not in PASSED_OVER:
                damage = parse_pax(body, own) or damage
            header = parse(self.read_bytes(at, at + BLOCK))
        if own or long or damage or (at > start and not self.read_bytes(at, at + 1)):
            raise ArchiveError(f"{self.archive}: cut off: an extended header without its member at byte {start:,}")
        return None, at

    def _check_length(self, start: int, at: int) -> None:
        if at - start > MAX_HEADERS_BYTES:
            raise ArchiveError(f"{self.archive}: more than {MAX_HEADERS_BYTES:,} bytes of headers for one member")

    def _body(self, header: Header, at: int) -> bytes:
        size = self._checked(header.size, at)
        if size > MAX_HEADER_BYTES:
            raise ArchiveError(
                f"{self.archive}: an extended header of {size:,} bytes at byte {at:,}; at most {MAX_HEADER_BYTES:,}"
                " are read"
            )
        body = self.read_bytes(at, at + size)
        if len(body) < size:
            raise ArchiveError(
                f"{self.archive}: cut off: an extended header at byte {at:,} has {len(body):,} of {size:,} bytes"
            )
        return body

    def _checked(self, size: int | None, at: int) -> int:
        if size is None or size < 0:
            raise ArchiveError(f"{self.archive}: the tar header before byte {at:,} has an impossible size")
        return size

    def _entry(self, header: Header, at: int, pax: Mapping[str, str], long: Mapping[bytes, bytes]) -> TarEntry:
        name = _name(pax.get("path"), long.get(LONG_NAME), header.name)
        link = _name(pax.get("linkpath"), long.get(LONG_LINK), header.link)
        at = self._after_map(at) if header.is_extended else at
        kind, size = header.kind, 0
        has_none = kind in WITHOUT_DATA or (kind in FILES and name.endswith("/"))
        has_data = not has_none or self._has_data(pax.get("size") or header.size, at)
        if kind == HARD_LINK and header.is_posix and has_data:
            kind = REGULAR
        if has_data:
            size = _size(self.archive, pax["size"], at) if pax.get("size") else self._checked(header.size, at)
        if kind == SPARSE or (pax and any(key.startswith(SPARSE_KEYS) for key in pax)):
            said = pax.get("GNU.sparse.realsize") or pax.get("GNU.sparse.size")
            real_size = _size(self.archive, said, at) if said else max(header.real_size or 0, 0) or size
            return TarEntry(pax.get("GNU.sparse.name") or name, real_size, kind, link, True, at, at + size)
        return TarEntry(name, size, kind, link, False, at, at + size)

    def _after_map(self, start: int) -> int:
        """Return the end of the blocks that continue a sparse map; each says whether another one follows."""
        at, block = start, b""
        while not block or block[SPARSE_GOES_ON] not in (0, ord("0")):
            block = self.read_bytes(at, at + BLOCK)
            if len(block) < BLOCK:
                raise ArchiveError(f"{self.archive}: cut off: a sparse map without end at byte {start:,}")
            at += BLOCK
            self._check_length(start, at)
        return at

    def _has_data(self, size: str | int | None, at: int) -> bool:
        """Return whether data follow a link, a folder or a device, which usually have none (pax can add a link's).

        Most writers' sizes mean nothing here; as in libarchive, there are no data if a header follows.
        """
        block = self.read_bytes(at, at + BLOCK) if size else b""
        return any(block) and parse(block) is None
