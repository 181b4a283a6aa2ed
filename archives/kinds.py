"""The registry of archive kinds, and the recognition of an archive by its bytes."""

from __future__ import annotations

from archives.archive_kind import ArchiveKind
from archives.compressed_tar import CompressedTar
from archives.decompress import FORMATS
from archives.spans import LIMITS, SPAN_BYTES, Limits, Reader, Span
from archives.tar import Tar
from archives.tar_headers import BLOCK
from archives.zip import Zip
from errors import ArchiveError

# The first that recognises an archive reads it. Tar comes first: its first member's name may begin with any magic
# number. Zip comes last: any bytes may precede one.
KINDS: tuple[ArchiveKind, ...] = (Tar(), *map(CompressedTar, FORMATS), Zip())

# Formats that are not read, but named in the error: their magic numbers, and at which byte (negative: from the end).
FOREIGN = (
    ("a Zstandard file (.zst)", 0, (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16)))),
    ("a 7z archive", 0, (b"7z\xbc\xaf\x27\x1c",)),
    ("a RAR archive", 0, (b"Rar!\x1a\x07",)),
    ("a file of compress (.Z)", 0, (b"\x1f\x9d", b"\x1f\xa0")),
    ("an lzip file (.lz)", 0, (b"LZIP",)),
    ("an LZ4 file (.lz4)", 0, (b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18")),
    ("an lzop file (.lzo)", 0, (b"\x89LZO\0\r\n\x1a",)),
    ("an LZMA file (.lzma)", 0, (b"\x5d\0\0",)),
    ("a cpio archive", 0, (b"070701", b"070702", b"070707", b"\xc7\x71", b"\x71\xc7")),
    ("an ar archive", 0, (b"!<arch>\n",)),
    ("a xar archive", 0, (b"xar!",)),
    ("a cabinet file (.cab)", 0, (b"MSCF",)),
    ("a disk image (.iso)", 32769, (b"CD001", b"NSR0", b"BEA01")),
    ("a disk image (.dmg)", -512, (b"koly",)),
)


def plan(reader: Reader, span: int = SPAN_BYTES, limits: Limits = LIMITS) -> list[Span]:
    """Cut the archive into spans of about `span` bytes, in file order.

    Raises ArchiveError when it is of no known kind, or would unpack to more than the limits allow.
    """
    head = bytes(reader.read(0, min(reader.size, BLOCK))[:BLOCK])
    kind = next((kind for kind in KINDS if kind.recognises(reader, head)), None)
    if kind:
        return kind.plan(reader, span, limits.most(reader.size))
    what, cure = _foreign(reader), "unpack it, pack the files as tar, tar.gz or zip, and give these with --mirror"
    if what:
        raise ArchiveError(f"{reader.name}: expected a tar or zip archive, got {what}: {cure}")
    got = "something else" if reader.size else "an empty file"
    raise ArchiveError(f"{reader.name}: expected a tar or zip archive, got {got}")


def _foreign(reader: Reader) -> str:
    """Return the name of an unsupported format, by its magic number; "" if unknown."""
    for name, at, magics in FOREIGN:
        begin = at if at >= 0 else max(reader.size + at, 0)
        found = bytes(reader.read(begin, min(begin + 8, reader.size))[:8]) if begin < reader.size else b""
        if found.startswith(magics):
            return name
    return ""
