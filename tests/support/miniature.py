"""The archives of the sample: what is in them, and their checksums."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile

from sources import sample
from support.source_server import SourceServer

DATA = {path: data for path, data in sample.sources().items() if not path.startswith("sites/")}


def expected_objects() -> dict[str, bytes]:
    """What a complete extraction of the miniature holds, taken apart with the standard library alone."""
    found: dict[str, bytes] = {}
    for name, prefix in (
        ("images.tar", "stanford/"),
        ("annotation.tar", "stanford/"),
        ("lists.tar", "stanford/lists/"),
    ):
        with tarfile.open(fileobj=io.BytesIO(DATA[name])) as archive:
            found |= {prefix + each.name: file.read() for each in archive if (file := archive.extractfile(each))}
    for name, prefix in (
        ("low-resolution.zip", "tsinghua/"),
        ("low-annotations.zip", "tsinghua/"),
        ("TrainValSplit.zip", "tsinghua/lists/"),
    ):
        with zipfile.ZipFile(io.BytesIO(DATA[name])) as archive_:
            found |= {prefix + each: archive_.read(each) for each in archive_.namelist() if not each.endswith("/")}
    return found


def sums(mirror: SourceServer) -> bytes:
    names = [name for name in list(mirror.files) if name.endswith((".tar", ".zip"))]
    return "".join(f"{hashlib.sha256(mirror.files[name]).hexdigest()}  {name[1:]}\n" for name in names).encode()
