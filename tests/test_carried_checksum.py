"""A run that goes on takes over the checksum of what is stored: only what it does not cover is read again."""

from __future__ import annotations

import hashlib
import logging
import os
import random

import pytest

from datasets import Dataset
from manifest import sha256
from manifest.checksums import Digest
from manifest.journal import state_id
from manifest.sha256 import Sha256, is_state
from manifest.store import ManifestStore
from pipeline import carried
from pipeline.carried import StateWriter
from pipeline.choosing import open_dataset
from support.archives import MB, some_members, tar_of, zip_of
from support.bench import Bench
from support.fake_gcs_requests import flipped
from support.source_server import Plan

MEMBERS = some_members(1200, 80_000)  # six pieces of 8 MB
PACKS = {"a.tar": tar_of, "a.zip": zip_of}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is written after each piece."""
    monkeypatch.setattr(carried, "MIN_STATE_SECONDS", 0)
    monkeypatch.setattr(carried, "PART_SHARE", 0)


def broken(bench: Bench, name: str, damage: bytes | None = None) -> Dataset:
    """A run that ends after four to six of nine pieces, which can have other bytes than the source has later."""
    archive = PACKS[name]([*MEMBERS])
    dataset = bench.dataset(True, **{name.replace(".", "_"): archive})
    bench.server.plan(f"/{name}", Plan(body=damage), times=7)
    bench.server.plan(f"/{name}", Plan(status=404))
    assert bench.extract(dataset).state == "incomplete"
    bench.server.heal()
    bench.server.requests.clear()
    return dataset


def journal_of(bench: Bench) -> list[str]:
    return [each.name for each in bench.bucket.list("_extraction/mini/journal/")]


@pytest.mark.parametrize("name", PACKS)
def test_what_is_covered_is_not_read_again(bench: Bench, name: str) -> None:
    dataset = broken(bench, name)
    assert f"_extraction/mini/journal/{name}/sha256-state.json" in journal_of(bench)
    result = bench.extract(dataset)
    size = dataset.archives[0].size or 0
    assert result.state == "complete" and size - 50 * MB < result.fetched < size - 7 * MB
    assert bench.metadata()["sources"][0]["sha256_check"] == "matches"  # type: ignore[index]
    assert bench.objects() == dict(MEMBERS)


def test_all_is_covered_and_nothing_is_read_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The run ends after its last piece, before it has compared."""
    caplog.set_level(logging.INFO, "spotted")
    dataset = bench.dataset(True, a_tar=tar_of([*MEMBERS, ("../refused", b"")]))
    assert bench.extract(dataset).status == 3
    bench.bucket.delete(["_extraction/mini/journal/a.tar/sha256.json"])
    caplog.clear()
    result = bench.extract(dataset)
    assert result.status == 3 and result.fetched < 17 * MB  # at most what follows the last state
    assert "sha256 matches" in caplog.text and "as an earlier run found" not in caplog.text


@pytest.mark.parametrize("place", [0.01, 0.9])
def test_a_bit_that_flipped_in_what_is_covered_is_found(bench: Bench, place: float) -> None:
    archive = tar_of([*MEMBERS])
    victim = archive.index(MEMBERS[round(150 * place)][1]) + 999  # in the first piece
    dataset = broken(bench, "a.tar", flipped(archive, victim))
    with pytest.raises(Exception, match="expected sha256 .*: not the published archive"):
        bench.extract(dataset)
    assert not [name for name in journal_of(bench) if "/a.tar/" in name and not name.endswith("/")]
    assert bench.extract(dataset).state == "complete" and bench.objects() == dict(MEMBERS)


@pytest.mark.parametrize("change", ["an object is lost", "the source has another version", "the entry is damaged"])
def test_a_state_of_something_else_does_not_count(bench: Bench, change: str) -> None:
    dataset = broken(bench, "a.tar")
    state = "_extraction/mini/journal/a.tar/sha256-state.json"
    if change == "an object is lost":
        bench.bucket.delete([f"mini/{MEMBERS[0][0]}"])
    elif change == "the entry is damaged":
        bench.bucket.put(state, (bench.bucket.get(state) or b"").replace(b'"size":', b'"size": 1'))
    else:
        bench.server.plan("/a.tar", Plan(etag='"2"'))
    result = bench.extract(dataset)
    assert result.state == "complete" and result.fetched >= len(bench.server.files["/a.tar"])
    assert bench.objects() == dict(MEMBERS)


def test_without_openssl_all_is_read_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sha256, "LIBRARY", "libnone.so")
    dataset = broken(bench, "a.tar")
    assert not [name for name in journal_of(bench) if "sha256-state" in name]
    result = bench.extract(dataset)
    assert result.state == "complete" and result.fetched >= len(bench.server.files["/a.tar"])


def test_a_state_has_nothing_that_is_not_compared_yet(bench: Bench) -> None:
    """The digest has the bytes of a unit before they are compared with those that were stored."""
    store = ManifestStore(bench.bucket, "mini")
    run = open_dataset(broken(bench, "a.tar"), bench.job(), store)
    entries, digest = store.journal(), Digest()
    before = entries.pop(state_id("a.tar"))
    ends = [unit.work.span.stop for unit in run.planned[0].units if unit.work.span and unit.id in entries]
    assert len(ends) > 1 and before.size > ends[0]
    digest.states = {max(each.link.end, end): b"state" for each, end in zip(entries.values(), ends, strict=False)}
    StateWriter(store).write(run.planned[0], entries, {run.planned[0].units[1].id}, digest)
    assert store.journal()[state_id("a.tar")].size == max(entries[run.planned[0].units[0].id].link.end, ends[0])


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
