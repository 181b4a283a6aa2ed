"""One contract for all kinds of archive, with Python's own tarfile and zipfile as the judges."""

from __future__ import annotations

import io
import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archives import kinds
from archives.spans import Buffer, SpanBoundary
from errors import ArchiveError
from support.archive_kinds import COMPRESSED, KINDS, PLAIN, SOUND, TARS, Kind, needed
from support.archives import SPANS, File, Got, Memory, extract, truth
from support.tars import BLOCK, END, pack_tar, padded

SIZES = st.one_of(st.sampled_from([0, 1, 511, 512, 513, 1024, 4096, 9000]), st.integers(0, 3000))
INNER = pack_tar(tarfile.GNU_FORMAT)([File("inner/a", b"a" * 700), File("inner/b" * 30, b"b" * 100), File("inner/c")])
DATA = st.one_of(
    st.builds(lambda size, seed: random.Random(seed).randbytes(size), SIZES, st.integers(0, 9)),
    SIZES.map(bytes),
    st.sampled_from([INNER, padded(INNER[: 2 * BLOCK]) + END]),
)


def files(kind: Kind) -> st.SearchStrategy[list[File]]:
    names = st.text(kind.letters, min_size=1, max_size=kind.longest).filter(
        lambda name: (
            not name.startswith("/") and "//" not in name and len(name.encode()) <= (900, 99)[kind.longest < 99]
        )
    )
    pax = st.sampled_from([(), (("comment", "y" * 600),), (("mtime", "3.25"), ("SCHILY.xattr.user.a", "é"))])
    file = st.builds(lambda name, data, pax: File(name, b"" if name[-1] == "/" else data, pax), names, DATA, pax)
    some = st.lists(file, min_size=1, max_size=8, unique_by=lambda file: file.name.rstrip("/"))
    return some.filter(lambda found: not any(is_above(each, found) for each in found))


def is_above(file: File, others: list[File]) -> bool:
    """Whether it is empty and others are below it: in a zip it is then a folder, which zipfile leaves open."""
    return (
        not file.data
        and any(other.name.startswith(f"{file.name.rstrip('/')}/") for other in others)
        and not file.name.endswith("/")
    )


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.mark.parametrize("name", KINDS)
def test_spans_yield_what_is_in_the_archive(name: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(data=st.data(), span=st.sampled_from(SPANS), seed=st.integers(0, 5))
    def holds(data: st.DataObject, span: int, seed: int) -> None:
        packed = KINDS[name].pack(data.draw(files(KINDS[name])))
        assert extract(packed, span, seed=seed) == truth(packed)

    holds()


@pytest.mark.parametrize("chunk", [1, 7, 65536])
def test_chunks_may_have_any_size(kind: Kind, chunk: int) -> None:
    packed = kind.pack(SOUND)
    assert (
        extract(packed, 1024, chunk) == truth(packed) == [Got(file.name, len(file.data), file.data) for file in SOUND]
    )


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("chunk", [1, 7, 65536])
def test_large_members_come_in_chunks(kind: Kind, chunk: int) -> None:
    packed = kind.pack(SOUND)
    assert extract(packed, 512, chunk) == truth(packed)
    reader = Memory(packed, chunk)
    for span in kinds.plan(reader, 512):
        for member in span.kind.members(reader, span, SpanBoundary()):
            assert isinstance(member.data, Buffer) == (member.size <= 600)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("name", TARS + COMPRESSED)  # of a zip, a large member is alone in its span
def test_large_members_need_not_be_taken(name: str) -> None:
    reader = Memory(KINDS[name].pack(SOUND))
    spans = kinds.plan(reader, 1 << 20)
    names = [member.name for span in spans for member in span.kind.members(reader, span, SpanBoundary())]
    assert names == [file.name for file in SOUND]


def test_an_archive_of_folders(kind: Kind) -> None:
    assert extract(kind.pack([File("a/"), File("a/b/")])) == [Got("a/", 0, b""), Got("a/b/", 0, b"")]


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_archive(name: str) -> None:
    assert extract(KINDS[name].pack([])) == []


def test_a_cut_off_archive(kind: Kind) -> None:
    """What is left of a tar that is cut off between two members is a whole tar: no byte of them is missing."""
    packed = kind.pack(SOUND)
    right, whole = truth(packed), ends(packed) if kind.pack in PLAIN else set()
    for length in {*range(0, needed(packed), 97), *range(0, needed(packed), BLOCK), needed(packed) - 1}:
        if length in whole:
            assert extract(packed[:length], 1024) == right[: len(extract(packed[:length], 1 << 20))] != []
            continue
        with pytest.raises(ArchiveError, match=r"memory\.bin"):
            extract(packed[:length], 1024)


def ends(packed: bytes) -> set[int]:
    """The lengths to which a tar can be cut so that each of its members is whole or not there at all."""
    found = set[int]()
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for info in tar:
            end = info.offset_data + info.size
            found |= {*range(end, -(-end // BLOCK) * BLOCK + 1)}
    return found | {*range(max(found), needed(packed))}


@pytest.mark.parametrize(
    "data", [b"", b"x", b"GIF89a" * 99, random.Random(4).randbytes(3000), b"\n" * 512, b"PK" * 300]
)
def test_neither_tar_nor_zip(data: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"memory\.bin: expected a tar or zip archive"):
        extract(data)
