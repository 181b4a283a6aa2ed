"""An archive becomes spans, and a span becomes members; knows no network and no bucket.

`plan` cuts a tar or zip into spans that can be read in any order and in parallel, each about SPAN bytes of the
archive; a compressed tar is one span. `members` reads one span. Each span of a tar fills a `SpanBoundary`, and
`broken_link` proves from all of them that no member was missed or invented.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from archives import tar
from archives import zip as zip_archive
from archives.compressed_tar import read_compressed, read_extents
from archives.decompress import FORMATS
from archives.spans import LIMITS, SPAN, Limits, Member, Reader, Span, SpanBoundary, check_unpacked
from archives.tar_headers import BLOCK, parse
from errors import ArchiveError

# Spans of a tar that is long, and those of it that are cut in half: its connections then end at about one time, each
# with a short span instead of some with a long one. From slow sources a run is 2 % shorter.
LONG, LAST = 32, 8

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


def plan(reader: Reader, span: int = SPAN, limits: Limits = LIMITS) -> list[Span]:
    """Cut the archive into spans, in file order.

    Raises ArchiveError when it is neither tar nor zip, or would unpack to more than the limits allow.
    """
    most = limits.most(reader.size)
    kind = _kind(bytes(reader.read(0, min(reader.size, BLOCK))[:BLOCK]))
    if kind == "tar":
        check_unpacked(reader.name, reader.size, most)
        return [Span(kind, *ends) for ends in itertools.pairwise([*_starts(reader.size, span), reader.size])]
    if kind == "zip" or (not kind and zip_archive.is_zip(reader)):  # a zip may stand after anything
        spans = zip_archive.plan(reader, span)
        check_unpacked(
            reader.name, sum(entry.size for each in spans for entry in each.entries if not entry.refusal), most
        )
        return spans
    if kind:
        return [Span(kind, 0, reader.size, most=most)]
    what, cure = _foreign(reader), "unpack it, pack the files as tar, tar.gz or zip, and give these with --mirror"
    if what:
        raise ArchiveError(f"{reader.name}: expected a tar or zip archive, got {what}: {cure}")
    raise ArchiveError(f"{reader.name}: expected a tar or zip archive, got something else")


def _foreign(reader: Reader) -> str:
    """The name of another format, by its magic number; "" if unknown."""
    for name, at, magics in FOREIGN:
        begin = at if at >= 0 else max(reader.size + at, 0)
        found = bytes(reader.read(begin, min(begin + 8, reader.size))[:8]) if begin < reader.size else b""
        if found.startswith(magics):
            return name
    return ""


def _starts(size: int, span: int) -> Iterator[int]:
    """Where the spans of a tar of so many bytes begin."""
    whole, half = size // span, max(span // 2 // BLOCK, 1) * BLOCK
    turn = (whole - LAST) * span if whole >= LONG else size
    return itertools.chain(range(0, turn, span), range(turn, size, half))


def _kind(head: bytes) -> str:
    magics = {b"PK\3\4": "zip", b"PK\5\6": "zip"} | {each.magic: kind for kind, each in FORMATS.items()}
    if parse(head) or head == bytes(BLOCK):  # first: a member's name may begin with any magic
        return "tar"
    return next((kind for magic, kind in magics.items() if head.startswith(magic)), "")


def members(reader: Reader, span: Span, link: SpanBoundary) -> Iterator[Member]:
    """The members of one span, in file order; `link` is filled in by the time the last one is out.

    A large member's chunks are consumed before the next member, or not at all.
    Raises ArchiveError when the bytes are not what the format demands.
    """
    if span.extents:
        return read_extents(reader, span)
    if span.kind == "tar":
        return tar.read_span(reader, span, link)
    if span.kind == "zip":
        return zip_archive.read_span(reader, span)
    return read_compressed(reader, span, link)
