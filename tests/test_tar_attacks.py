"""Tars that hold what is not stored, and tars made to harm the reader."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import ArchiveError
from support.archives import MB, SPANS, File, Got, extract, frugal
from support.attacks import ATTACKS, HUGE, REFUSED
from support.tars import END, SPARSE, block, extended, member, pack_pax, padded, record


@pytest.mark.parametrize("span", [512, 1 << 20])
@pytest.mark.parametrize(("reason", "entry"), REFUSED.values(), ids=REFUSED)
def test_what_a_tar_may_hold_and_we_do_not_store(reason: str, entry: bytes, span: int) -> None:
    before, refused, after = extract(member("a", b"1") + entry + member("b", b"2") + END, span)
    assert (before, after) == (Got("a", 1, b"1"), Got("b", 1, b"2"))
    assert (refused.name, refused.data, refused.refusal, refused.damaged) == ("s", None, reason, False)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_soon(name: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(member("before") + ATTACKS[name] + (b"" if name.endswith("after the end") else END))
    with frugal(), pytest.raises(ArchiveError, match=r"memory\.bin|extended header"):
        extract(packed, 1 << 20)


KIND_LETTERS = st.sampled_from([bytes([letter]) for letter in b"\x000123456 7SLKxgXDVQ"])
FIELDS = st.one_of(st.integers(0, 3000).map(lambda size: b"%011o\0" % size), st.binary(min_size=12, max_size=12))
KEYS = st.sampled_from(["path", "size", "hdrcharset", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.realsize", "a"])
RECORDS = st.lists(st.builds(record, KEYS, st.text("0123456789,-xé ", max_size=9)), max_size=5).map(b"".join)
BODIES = st.one_of(RECORDS, RECORDS.map(padded), st.binary(max_size=40).map(padded), st.just(b"\0" * 1024))
BLOCKS = st.builds(
    lambda kind, size, body, rest: (
        block(b"a", size or len(body), kind, magic=b"ustar  " if rest else b"ustar\x0000", rest=rest) + padded(body)
    ),
    KIND_LETTERS,
    st.none() | FIELDS,
    BODIES,
    st.binary(max_size=240),
)


@settings(max_examples=300, deadline=None)
@given(blocks=st.lists(BLOCKS, max_size=6), span=st.sampled_from(SPANS), ended=st.booleans())
def test_whatever_headers_say(blocks: list[bytes], span: int, ended: bool) -> None:
    try:
        found = extract(member("first", b"1") + b"".join(blocks) + (END if ended else b""), span)
    except ArchiveError:
        return
    assert found[0] == Got("first", 1, b"1")


@pytest.mark.parametrize("kind", [b"x", b"g"])
@pytest.mark.parametrize("digits", [19, 25, 400])
def test_a_pax_record_longer_than_any_memory(digits: int, kind: bytes) -> None:
    packed = member("a") + extended(kind, b"9" * digits + b" path=b\n") + member("c") + END
    if kind == b"x":
        assert [bool(got.refusal) for got in extract(packed)] == [False, True]
        return
    with pytest.raises(ArchiveError, match=r"memory\.bin: bad pax header before byte 1,536"):
        extract(packed)


@pytest.mark.parametrize("kind", [b"0", b"Q"], ids=["file", "unknown type"])
def test_a_member_of_a_compressed_tar_that_never_ends(kind: bytes) -> None:
    packed = gzip.compress(member("a", b"1") + block(b"b", HUGE, kind) + bytes(2000) + member("c") + END)
    with pytest.raises(ArchiveError, match=r"memory\.bin: cut off"):
        extract(packed)


def test_a_name_in_an_error_is_short_and_draws_nothing() -> None:
    name = "\x1b[2J" + "x" * 5000
    with pytest.raises(ArchiveError) as caught:
        extract(pack_pax([File(name, bytes(9000))])[:-9000])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    assert "\\x1b[2Jxxx" in str(caught.value)


def test_a_sparse_map_without_end() -> None:
    """A map of pax is not read: the file is refused. One of GNU is gone through block by block."""
    keys = {"major": "1", "minor": "0", "name": "s", "realsize": "1"}
    header = extended(b"x", b"".join(record(f"GNU.sparse.{key}", value) for key, value in keys.items()))
    packed = member("a", b"1") + header + block(b"s", 1 << 30) + b"44444444\n" + b"999\n" * 1_100_000
    with frugal(), pytest.raises(ArchiveError, match=r"memory\.bin: cut off"):
        extract(gzip.compress(packed, 1), chunk=MB)
    endless = block(b"s", 0, b"S", magic=b"ustar  ", rest=SPARSE + b"\1") + (bytes(504) + b"\1" + bytes(7)) * 9000
    with frugal(), pytest.raises(ArchiveError, match=r"more than 4,194,304 bytes of headers for one member"):
        extract(gzip.compress(member("a", b"1") + endless, 1), chunk=MB)


def test_global_headers_by_the_thousand() -> None:
    """They change no byte and no name, so they do no harm; for tarfile each member after them took 0.01 seconds."""
    many = extended(b"g", b"".join(record(f"k{number}", "v") for number in range(1001)))
    with frugal():
        assert len(extract(many + member("a") * 1000 + END)) == 1000
