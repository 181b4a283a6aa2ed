"""Tars read in spans: where a span's first header is, and where the archive ends."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import re
from collections.abc import Callable

import pytest

from archives import kinds
from archives.spans import SpanBoundary
from archives.tar import Tar
from errors import ArchiveError
from support.archive_kinds import COMPRESSED, KINDS, SOUND, TARS, needed
from support.archives import SPANS, File, Got, Memory, extract, flipped, taken, truth
from support.attacks import FALSE_STARTS
from support.tars import BLOCK, END, extended, member, record


@pytest.mark.parametrize("span", [512, 1024, 1536])
@pytest.mark.parametrize("name", FALSE_STARTS)
def test_a_member_that_looks_like_headers(name: str, span: int) -> None:
    sound = [File("before", b"b" * 300), File("inner.tar", FALSE_STARTS[name]), File("after", b"a" * 1300)]
    assert extract(KINDS["ustar"].pack(sound), span) == [Got(file.name, len(file.data), file.data) for file in sound]


def test_a_false_start_is_seen_only_by_the_chain() -> None:
    reader = Memory(KINDS["ustar"].pack([File("inner.tar", FALSE_STARTS["a tar"]), File("after")]))
    spans, links = kinds.plan(reader, 1024), list[SpanBoundary]()
    for span in spans:
        links.append(SpanBoundary())
        found = [taken(got) for got in span.kind.members(reader, span, links[-1])]
        if span.start == 2048:
            assert found[0].name == "inner/1"
    broken = Tar().broken_link(reader.name, spans, links)
    assert broken == (2, None)


@pytest.mark.parametrize("span", SPANS)
def test_global_headers_reach_every_span(span: int) -> None:
    name = extended(b"g", record("path", "renamed") + record("comment", "c"))
    packed = member("a", b"1") + name + member("b", b"2") + member("c", bytes(3000)) + member("d") + END
    assert [got.name for got in extract(packed, span)] == ["a", "renamed", "renamed", "renamed"]
    assert extract(packed, span) == truth(packed)


@pytest.mark.parametrize("span", SPANS)
def test_every_bit_of_a_header_counts(span: int) -> None:
    sound = [File("a", b"1" * 600), File("b", b"2" * 600), File("c", b"3" * 600)]
    packed = KINDS["ustar"].pack(sound)
    right = truth(packed)
    at = 3 * BLOCK  # the header of b; tarfile takes it for the archive's end when it is damaged
    reasons = []
    for bit in range(0, 8 * BLOCK, 3):
        try:
            found = extract(flipped(packed, 8 * at + bit), span)
        except ArchiveError as error:
            reasons.append(str(error))
        else:
            assert found == right
            assert bit // 8 in range(148, 156)  # the checksum itself, written in another way
    assert reasons
    assert all(re.search(r"memory\.bin: .* at byte 1,?536", reason) for reason in reasons)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("name", TARS)
def test_a_tar_without_its_end(name: str, span: int, caplog: pytest.LogCaptureFixture) -> None:
    """Neither GNU tar nor bsdtar asks for it, and no member is missing."""
    packed = KINDS[name].pack(SOUND)
    right = truth(packed)
    whole = packed[: needed(packed) - BLOCK]
    assert extract(whole + bytes(BLOCK), span) == right
    assert not caplog.text
    for rest in (b"", bytes(100)):
        assert extract(whole + rest, span) == right
    assert "without blocks of zeros; every member is whole" in caplog.text


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(
    "rest",
    [
        random.Random(6).randbytes(3000),
        b"x",
        KINDS["gnu"].pack([File("second/a", bytes(3000)), File("second/b")]),
        member("second/a", bytes(3000))[:-BLOCK],
        member("second/a") + random.Random(7).randbytes(3000),
        extended(b"L", b"second"),
        bytes(20 * BLOCK),
    ],
    ids=["noise", "one byte", "a tar", "a cut-off tar", "a broken tar", "half a header", "zeros"],
)
def test_what_follows_the_end_is_no_member(rest: bytes, span: int) -> None:
    packed = KINDS["gnu"].pack(SOUND)
    right = truth(packed)
    assert extract(packed[: needed(packed) + BLOCK] + rest, span) == right


def test_two_members_of_one_name() -> None:
    packed = member("a", b"1") + member("a", b"2") + END
    assert [got.data for got in extract(packed, 512)] == [b"1", b"2"]


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_file_that_is_no_tar(name: str) -> None:
    kinds: dict[str, Callable[[bytes], bytes]] = {
        "tar.gz": gzip.compress,
        "tar.bz2": bz2.compress,
        "tar.xz": lzma.compress,
    }
    for data in (b"", b"just a text", random.Random(8).randbytes(3000)):
        with pytest.raises(ArchiveError, match=r"memory\.bin"):
            extract(kinds[name](data))


@pytest.mark.parametrize("name", COMPRESSED)
def test_bits_flipped_in_a_compressed_tar(name: str) -> None:
    packed = KINDS[name].pack([File("a", random.Random(9).randbytes(300)), File("b", b"b" * 900)])
    right = truth(packed)
    passed = 0
    for bit in range(0, 8 * len(packed), 5):
        try:
            assert extract(flipped(packed, bit)) == right
            passed += 1
        except ArchiveError:
            pass
    assert passed < 30  # gzip's header has a time and a system, which mean nothing here
