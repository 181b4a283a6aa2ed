"""Archives with every type and format of member, read as Python's tarfile and zipfile read them."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable

import pytest

from errors import ArchiveError
from support.archives import extract, frugal, truth
from support.reference_archives import RECURSION, STORED, TAR, ZIPS, shipped

ALL_TARS = {"every type and format": TAR, **shipped("testtar.tar")}
ALL_ZIPS = ZIPS | shipped("exe_with_z64", "exe_with_zip", "zip_cp437_header.zip", "zipdir.zip", "zipdir_backslash.zip")
ALL_RECURSIONS = {"a record of no length": RECURSION, **shipped("recursion.tar")}


@pytest.mark.parametrize("span", [512, 4096, 1 << 20])
@pytest.mark.parametrize("packed", ALL_ZIPS.values(), ids=ALL_ZIPS)
def test_zips_of_all_origins_are_read_as_zipfile_reads_them(packed: bytes, span: int) -> None:
    right = [got._replace(name=got.name.replace("\\", "/")) for got in truth(packed)]
    assert extract(packed, span) == right != []


@pytest.mark.parametrize("span", [512, 4096, 1 << 20])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["tar", "gz", "xz"])
@pytest.mark.parametrize("packed", ALL_TARS.values(), ids=ALL_TARS)
def test_every_type_and_format_of_tar_is_read_as_tarfile_reads_it(
    packed: bytes, pack: Callable[[bytes], bytes], span: int
) -> None:
    found, right = extract(pack(packed), span), truth(packed)
    assert [(got.name, got.size) for got in found] == [
        (each.name.rstrip("/") + "/" * got.name.endswith("/"), each.size * (not got.name.endswith("/")))
        for got, each in zip(found, right, strict=True)
    ]
    assert all(got == each for got, each in zip(found, right, strict=True) if not got.refusal)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        stored = [info.isdir() or (info.isreg() and not info.issparse()) for info in archive]
    assert [not got.refusal for got in found] == stored
    assert packed is not TAR or sum(stored) == STORED


@pytest.mark.parametrize("packed", ALL_RECURSIONS.values(), ids=ALL_RECURSIONS)
def test_a_pax_record_that_leads_to_itself_ends(packed: bytes) -> None:
    with frugal(), pytest.raises(ArchiveError, match=r"memory\.bin: bad pax header before byte 1,024"):
        extract(packed)
