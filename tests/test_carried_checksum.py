"""A run that goes on takes over the checksum of what is stored: only what it does not cover is read again."""

from __future__ import annotations

import hashlib
import logging
import os
import random
from dataclasses import replace

import pytest

from datasets import Dataset
from manifest import sha256
from manifest.checksums import Digest
from manifest.journal import JournalEntry
from manifest.sha256 import Sha256, is_state
from manifest.store import ManifestStore
from pipeline.carried import Frontier
from pipeline.choosing import open_dataset
from support.archives import MB, some_members, tar_of, zip_of
from support.bench import Bench
from support.fake_gcs_requests import flipped
from support.source_server import Plan

MEMBERS = some_members(1200, 80_000)  # six pieces of 8 MB
PACKS = {"a.tar": tar_of, "a.zip": zip_of}


def broken(bench: Bench, name: str, damage: bytes | None = None, at: float = 0.5) -> Dataset:
    """A run without the piece at this share of the archive; the source can have other bytes than it has later."""
    archive = PACKS[name]([*MEMBERS])
    dataset = bench.dataset(True, **{name.replace(".", "_"): archive})
    bench.server.files[f"/{name}"] = damage or archive
    bench.server.plan(f"/{name}", Plan(drip=0.001))  # so that it is read in stripes, of which one is missing
    bench.server.plan_at(f"/{name}", int(at * len(archive)), Plan(status=404))
    assert bench.extract(dataset).state == "incomplete"
    bench.server.heal()
    bench.server.files[f"/{name}"] = archive
    bench.server.requests.clear()
    return dataset


def states_of(bench: Bench) -> list[int]:
    """The positions of the states in the journal."""
    entries = ManifestStore(bench.bucket, "mini").journal().values()
    return sorted(entry.state.position for entry in entries if entry.state)


def journal_of(bench: Bench) -> list[str]:
    return [each.name for each in bench.bucket.list("_extraction/mini/journal/")]


@pytest.mark.parametrize("name", PACKS)
def test_what_is_covered_is_not_read_again(bench: Bench, name: str) -> None:
    dataset = broken(bench, name)
    size, position = dataset.archives[0].size or 0, states_of(bench)[-1]
    assert 4 * MB < position < size / 2
    result = bench.extract(dataset)
    assert result.state == "complete" and abs(result.fetched - (size - position)) < MB
    assert bench.metadata()["sources"][0]["sha256_check"] == "matches"  # type: ignore[index]
    assert bench.objects() == dict(MEMBERS)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("name", PACKS)
def test_what_is_covered_within_a_piece_is_not_read_again(bench: Bench, name: str, lost: bool) -> None:
    dataset = broken(bench, name, at=0.1)  # in the first piece, of which the beginning is stored
    size, position = dataset.archives[0].size or 0, states_of(bench)[0]
    assert 0 < position < 8 * MB
    bench.bucket.delete([f"mini/{MEMBERS[0][0]}"] if lost else [])
    result = bench.extract(dataset)
    assert result.state == "complete" and abs(result.fetched - (size if lost else size - position)) < MB / 4
    assert bench.metadata()["sources"][0]["sha256_check"] == "matches"  # type: ignore[index]
    assert bench.objects() == dict(MEMBERS)


def test_a_bit_that_flipped_in_what_is_covered_of_a_piece_is_found(bench: Bench) -> None:
    archive = tar_of([*MEMBERS])
    dataset = broken(bench, "a.tar", flipped(archive, archive.index(MEMBERS[3][1]) + 99), at=0.1)
    assert states_of(bench)[0] > archive.index(MEMBERS[4][1])
    with pytest.raises(Exception, match="expected sha256 .*: not the published archive"):
        bench.extract(dataset)
    assert bench.extract(dataset).state == "complete" and bench.objects() == dict(MEMBERS)


def test_all_is_covered_and_nothing_is_read_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The run ends after its last piece, before it has compared."""
    caplog.set_level(logging.INFO, "spotted")
    dataset = bench.dataset(True, a_tar=tar_of([*MEMBERS, ("../refused", b"")]))
    assert bench.extract(dataset).status == 3
    bench.bucket.delete(["_extraction/mini/journal/a.tar/sha256.json"])
    caplog.clear()
    rest, result = len(bench.server.files["/a.tar"]) - states_of(bench)[-1], bench.extract(dataset)
    assert result.status == 3 and rest <= result.fetched < rest + MB
    assert "sha256 matches" in caplog.text and "as an earlier run found" not in caplog.text


@pytest.mark.parametrize("place", [0.01, 0.7])
def test_a_bit_that_flipped_in_what_is_covered_is_found(bench: Bench, place: float) -> None:
    archive = tar_of([*MEMBERS])
    victim = archive.index(MEMBERS[round(150 * place)][1]) + 999  # in the first piece
    dataset = broken(bench, "a.tar", flipped(archive, victim))
    with pytest.raises(Exception, match="expected sha256 .*: not the published archive"):
        bench.extract(dataset)
    assert not [name for name in journal_of(bench) if "/a.tar/" in name and not name.endswith("/")]
    assert bench.extract(dataset).state == "complete" and bench.objects() == dict(MEMBERS)


@pytest.mark.parametrize("change", ["an object is lost", "the source has another version", "the state is damaged"])
def test_a_state_of_something_else_does_not_count(bench: Bench, change: str) -> None:
    dataset = broken(bench, "a.tar")
    if change == "an object is lost":
        bench.bucket.delete([f"mini/{MEMBERS[0][0]}"])
    elif change == "the state is damaged":
        for name in journal_of(bench):
            if data := bench.bucket.get(name):
                entry = JournalEntry.decode(data)
                entry = replace(entry, state=entry.state and entry.state._replace(state="00"))
                bench.bucket.put(name, entry.encode())
    else:
        bench.server.plan("/a.tar", Plan(etag='"2"'))
    result = bench.extract(dataset)
    assert result.state == "complete" and result.fetched >= len(bench.server.files["/a.tar"])
    assert bench.objects() == dict(MEMBERS)


def test_without_openssl_all_is_read_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sha256, "LIBRARY", "libnone.so")
    dataset = broken(bench, "a.tar")
    assert states_of(bench) == []
    result = bench.extract(dataset)
    assert result.state == "complete" and result.fetched >= len(bench.server.files["/a.tar"])


def test_a_state_has_nothing_that_is_not_compared_yet(bench: Bench) -> None:
    """The digest has the bytes of a unit before they are compared with those that were stored."""
    dataset = broken(bench, "a.tar")
    entries = ManifestStore(bench.bucket, "mini").journal()
    each = open_dataset(dataset, bench.job()).planned[0]
    first, ends, digest = Frontier(each), [], Digest()
    while first.advance(entries):
        ends.append(first.point.position)
    assert len(ends) > 2
    digest.states = dict.fromkeys(ends, b"state")
    frontier, unread = Frontier(each), {each.units[1].id, each.units[2].id}
    found = [frontier.follow(entries, unread, digest).state for _ in range(2)]
    unread.remove(each.units[1].id)
    found.append(frontier.follow(entries, unread, digest).state)
    assert [state and state.position for state in found] == [ends[0], ends[0], ends[1]]


# ── the checksum alone ───────────────────────────────────────────────────────────────────────────


def test_a_state_goes_on_where_it_was_taken() -> None:
    data, rng = os.urandom(300_000), random.Random(1)
    for cut in (0, 1, 63, 64, 65, 100_000, 299_999, 300_000):
        first = Sha256()
        at = 0
        while at < cut:
            step = min(rng.randrange(1, 70_000), cut - at)
            first.update(memoryview(bytearray(data[at : at + step])))  # writable, as the memory of a span is
            at += step
        state = first.state()
        assert is_state(state) and first.hexdigest() == hashlib.sha256(data[:cut]).hexdigest()
        second = Sha256(state)
        second.update(memoryview(data)[cut:])
        assert second.hexdigest() == second.hexdigest() == hashlib.sha256(data).hexdigest()


def test_a_digest_keeps_the_states_at_its_marks_in_any_order() -> None:
    data, digest = os.urandom(1000), Digest()
    for mark in (300, 700):
        digest.mark(mark)
    digest.feed(300, data[300:700])
    assert digest.states == {}
    digest.feed(0, data[:300])
    assert digest.states.keys() == {300, 700}
    again = Digest(300, digest.states[300])
    again.feed(250, data[250:])  # what is known already is passed over
    assert again.position == 1000 and Sha256(digest.states[700]).state() == digest.states[700]
    assert again._hash.hexdigest() == hashlib.sha256(data).hexdigest()


def test_no_state_is_of_another_form() -> None:
    assert not is_state(b"") and not is_state(bytes(111))
