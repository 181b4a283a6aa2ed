"""Zips that are damaged, or say what is not so."""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import ArchiveError
from support.archives import File, Got, extract, flipped, frugal, replaced
from support.zips import RIGHT, SECOND, pack_zip, zipped


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (SECOND + 30 + 3 + 450, b"?"),
        (SECOND, b"PK\3\5"),
        (SECOND + 26, b"\x04"),
        (SECOND, bytes(900)),
    ],
    ids=["wrong CRC", "no local header", "a longer name", "zeros"],
)
@pytest.mark.parametrize(("fixture", "span"), [("tmp_path", 1), ("tmp_path", 1 << 20), ("small_limits", 512)])
def test_a_damaged_member_leaves_the_others(
    request: pytest.FixtureRequest, fixture: str, span: int, at: int, new: bytes
) -> None:
    request.getfixturevalue(fixture)
    first, second, third = extract(replaced(zipped(), at, new), span)
    assert (first, third) == (RIGHT[0], RIGHT[2])
    assert (second.name, second.data, second.damaged) == ("six", None, True)
    assert second.refusal.startswith("damaged")


@pytest.mark.parametrize(("at", "size"), [(20, 100), (24, 100), (16, 4), (20, -1), (24, -1)])
def test_a_directory_that_disagrees_with_the_member(at: int, size: int) -> None:
    packed = zipped(zipfile.ZIP_DEFLATED)
    at += packed.index(b"PK\1\2", packed.index(b"PK\1\2") + 1)
    new = struct.pack("<I", (struct.unpack_from("<I", packed, at)[0] + size) & 0xFFFFFFFF)
    first, second, third = extract(replaced(packed, at, new))
    assert (first, third) == (RIGHT[0], RIGHT[2])
    if (at, size) == (20, 100):  # what follows the member's deflated stream is not looked at
        assert second == RIGHT[1]
    assert second == RIGHT[1] or second.damaged


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (stat.S_IFLNK | 0o777, "a symbolic link"),
        (stat.S_IFBLK | 0o644, "a device, pipe or socket"),
        (stat.S_IFCHR | 0o644, "a device, pipe or socket"),
        (stat.S_IFSOCK | 0o644, "a device, pipe or socket"),
    ],
)
def test_entries_that_are_no_files(mode: int, reason: str) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"1")
        info = zipfile.ZipInfo("s")
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("b", b"2")
    assert extract(out.getvalue()) == [Got("a", 1, b"1"), Got("s", 11, None, reason), Got("b", 1, b"2")]


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile warns the writer
def test_of_entries_of_one_name_the_last_counts() -> None:
    packed = pack_zip()([File("a", b"1"), File("b", b"2"), File("a", b"3")])
    assert extract(packed) == [Got("b", 1, b"2"), Got("a", 1, b"3")]


def test_a_member_that_unpacks_to_more_than_it_says() -> None:
    packed = pack_zip()([File("bomb", bytes(100 << 20))])
    packed = replaced(packed, packed.index(b"PK\1\2") + 24, struct.pack("<I", 1000))
    with frugal(memory=8 << 20):
        [got] = extract(packed)
    assert (got.size, got.data, got.damaged) == (1000, None, True)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), span=st.sampled_from([1, 512, 1 << 20]), method=st.sampled_from([0, 8]))
def test_whatever_a_directory_says(data: st.DataObject, span: int, method: int) -> None:
    packed = zipped(method)
    directory = packed.index(b"PK\1\2")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(directory, len(packed) - 1))
        packed = replaced(packed, at, bytes([data.draw(st.integers(0, 255))]))
    try:
        found = extract(packed, span)
    except ArchiveError:
        return
    assert {got.data for got in found} <= {None, b"", *(right.data for right in RIGHT)}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bits_flipped_in_a_zip(method: int) -> None:
    packed = zipped(method)
    for bit in range(32, 8 * packed.index(b"PK\1\2"), 11):  # from behind the magic number
        found = extract(flipped(packed, bit), 512)
        assert [got.name for got in found] == ["one", "six", "two"]
        assert all(got in RIGHT or got.damaged for got in found)


def test_bits_flipped_in_a_directory() -> None:
    """Only a name can come out otherwise: nothing but the name itself says what it is."""
    packed = zipped()
    right = {got.name: got.data for got in RIGHT}
    names = {at for found in re.finditer(b"PK\x01\x02", packed) for at in range(found.end() + 42, found.end() + 45)}
    lost, refused = [], 0
    for bit in range(8 * packed.index(b"PK\1\2"), 8 * len(packed)):
        try:
            found = extract(flipped(packed, bit), 512)
        except ArchiveError:
            refused += 1
            continue
        wrong = [got for got in found if got.data not in (None, right.get(got.name))]
        if len(found) != 3 or (wrong and bit // 8 not in names):
            lost.append((bit // 8 - len(packed), bit % 8))
    assert not lost
    assert refused < 40  # in the end record, where nothing else says it


def test_a_name_that_is_not_the_utf_8_it_claims_to_be() -> None:
    packed = pack_zip()([File("a", b"1"), File("é", b"1")]).replace("é".encode(), b"\xff\xff")
    assert extract(packed) == [Got("a", 1, b"1"), Got("\udcff\udcff", 1, b"1")]  # which is no name of an object


def test_a_zip_of_several_disks_after_something_else() -> None:
    packed = b"#!/bin/sh\n" + zipped(zipfile.ZIP_STORED)
    at = packed.index(b"PK\5\6")
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at, 2)
    with pytest.raises(ArchiveError, match=r"memory\.bin: .* multiple disks"):
        extract(packed[:at] + locator + packed[at:])


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        (0x1, "encrypted (ZipCrypto)"),
        (0x20, "a patch to another file"),
        (0x40, "encrypted (PKWARE strong encryption)"),
        (0x2000, "encrypted (PKWARE strong encryption)"),
    ],
)
def test_flags_that_say_the_bytes_are_something_else(flag: int, reason: str) -> None:
    packed = zipped(zipfile.ZIP_STORED)
    packed = replaced(packed, packed.index(b"PK\1\2") + 8, struct.pack("<H", flag))
    assert extract(packed) == [Got("one", 900, None, reason), *RIGHT[1:]]
