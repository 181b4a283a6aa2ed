"""Zips as Python's zipfile writes them, in its several forms."""

from __future__ import annotations

import io
import zipfile

import pytest

from support.archives import File, Got, Pack


class _Pipe(io.BytesIO):
    """Output that cannot be sought: zipfile writes data descriptors after the members."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise io.UnsupportedOperation

    tell = seek


class _Cp437Info(zipfile.ZipInfo):
    """A name as DOS wrote it, without the flag for UTF-8."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802  # the name is zipfile's
        return self.filename.encode("cp437"), self.flag_bits & ~0x800


def pack_zip(
    method: int = zipfile.ZIP_DEFLATED,
    *,
    out: type[io.BytesIO] = io.BytesIO,
    info: type[zipfile.ZipInfo] = zipfile.ZipInfo,
    limit: int = zipfile.ZIP64_LIMIT,
    comment: bytes = b"",
) -> Pack:
    def pack(files: list[File]) -> bytes:
        target = out()
        with pytest.MonkeyPatch.context() as patch, zipfile.ZipFile(target, "w") as archive:
            patch.setattr(zipfile, "ZIP64_LIMIT", limit)
            archive.comment = comment
            for file in files:
                entry = info(file.name)
                entry.compress_type = zipfile.ZIP_STORED if entry.is_dir() else method
                entry.comment = comment
                with archive.open(entry, "w", force_zip64=limit < 1000) as member:
                    member.write(file.data)
            archive.close()
        return target.getvalue()

    return pack


def zipped(method: int = zipfile.ZIP_STORED) -> bytes:
    return pack_zip(method)([File(name, name.encode() * 300) for name in ("one", "six", "two")])


RIGHT = [Got(name, 900, name.encode() * 300) for name in ("one", "six", "two")]
SECOND = 30 + 3 + 900  # bytes to the second member's local header, when members are stored
