"""The kinds of archive that the readers must read alike."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tarfile
import zipfile
from typing import NamedTuple

from support.archives import File, Pack
from support.tars import BLOCK, END, pack_compressed, pack_tar, pack_v7
from support.zips import _Cp437Info, _Pipe, pack_zip


class Kind(NamedTuple):
    """A kind of archive: how it is written, and what its names are made of."""

    pack: Pack
    letters: str = "ab/. -_é漢ß"
    longest: int = 24


KINDS = {
    "v7": Kind(pack_v7),
    "ustar": Kind(pack_tar(tarfile.USTAR_FORMAT)),
    "gnu": Kind(pack_tar(tarfile.GNU_FORMAT), longest=300),
    "pax": Kind(pack_tar(tarfile.PAX_FORMAT), longest=300),
    "pax-global": Kind(pack_tar(tarfile.PAX_FORMAT, {"comment": "x" * 700, "mtime": "1.5"}), longest=300),
    "tar.gz": Kind(pack_compressed(gzip.compress)),
    "tar.bz2": Kind(pack_compressed(bz2.compress)),
    "tar.xz": Kind(pack_compressed(lzma.compress)),
    "zip-stored": Kind(pack_zip(zipfile.ZIP_STORED)),
    "zip-deflated": Kind(pack_zip()),
    "zip-descriptors": Kind(pack_zip(out=_Pipe)),
    "zip-zip64": Kind(pack_zip(limit=100)),
    "zip-cp437": Kind(pack_zip(info=_Cp437Info), letters="ab/. -_éä"),
    "zip-comment": Kind(pack_zip(zipfile.ZIP_STORED, comment=b"a comment")),
    "zip-after-junk": Kind(lambda files: b"#!/bin/sh\nexit\n" * 99 + pack_zip()(files)),
}
PLAIN = [KINDS[name].pack for name in ("v7", "ustar", "gnu", "pax", "pax-global")]
TARS = ["v7", "ustar", "gnu", "pax", "pax-global"]
COMPRESSED = ["tar.gz", "tar.bz2", "tar.xz"]
ZIPS = [name for name in KINDS if name.startswith("zip")]


SOUND = [
    File("a/"),
    File("a/empty"),
    File("a/short", b"short"),
    File("a/é", bytes(range(256)) * 2),
    File("a/zeros", bytes(2000)),
    File("b/long", random.Random(3).randbytes(5000)),
]


def needed(packed: bytes) -> int:
    """How many bytes an archive cannot do without: a zip's comment and a tar's padding can be missing."""
    if b"PK\5\6" in packed:
        return packed.rindex(b"PK\5\6") + 22
    if packed.endswith(END):
        return (len(packed.rstrip(b"\0")) // BLOCK + 2) * BLOCK
    return len(packed)
