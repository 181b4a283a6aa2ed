"""Buckets that let nothing be replaced or removed: a retention policy, a hold, an account without that right."""

from __future__ import annotations

import json
import re

import google_crc32c
import pytest

from commands.repair import repair
from errors import ExtractionError, KeptError
from gcs import Destination, open_bucket
from manifest.journal import JournalEntry
from manifest.records import FAILED, Row, Rows
from manifest.store import ManifestStore
from storage.bucket import Bucket
from support.archives import some_members, tar_of
from support.bench import Bench
from support.fake_gcs import GcsFront
from support.program import Cli

MB = 1 << 20
PHOTO = b"\xff\xd8\xff" + bytes(1000)


@pytest.fixture
def kept(front: GcsFront, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket with a retention policy."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    front.create_bucket(bucket)
    front.keeping.add(bucket)
    return open_bucket(Destination(f"gs://{bucket}", "api"))


@pytest.fixture
def kept_bench(api_bench: Bench, front: GcsFront) -> Bench:
    front.keeping.add(api_bench.bucket.url.removeprefix("gs://"))
    return api_bench


# ── the whole program ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_hidden", [False, True], ids=["described", "not described"])
def test_a_run_is_complete_and_so_is_the_next(cli: Cli, front: GcsFront, bucket: str, is_hidden: bool) -> None:
    front.create_bucket(bucket)
    front.keeping.add(bucket)
    if is_hidden:
        front.deny("json.bucket.get")
    for _ in range(2):
        done = cli("-a", "--sample", "--to", f"gs://{bucket}", STORAGE_EMULATOR_HOST=front.url)
        assert done.returncode == 0, done.stderr
        assert [line.split()[1] for line in done.stdout.splitlines()[1:]] == ["complete"] * 3
        assert done.stderr.count("objects stay behind, for they may not be removed") == 3
        assert ("it has a retention policy of 315,360,000 s" in done.stderr) != is_hidden
    checked = cli("-a", "--verify", "--to", f"gs://{bucket}", STORAGE_EMULATOR_HOST=front.url)
    assert checked.returncode == 0, checked.stdout


def test_an_account_that_may_only_create_objects(cli: Cli, front: GcsFront, bucket: str) -> None:
    """Google refuses its removals also of what does not exist; nothing may be taken for complete because of it."""
    front.create_bucket(bucket)
    front.deny("xml.delete", "json.delete")
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 0, done.stderr
    # An entry and a checksum of each archive, what was there before, and on a slow machine parts.
    assert re.search(r"\b([7-9]|1\d) objects stay behind", done.stderr), done.stderr


def test_force_says_that_it_cannot_and_the_next_dataset_is_tried(cli: Cli, front: GcsFront, bucket: str) -> None:
    front.create_bucket(bucket)
    front.keeping.add(bucket)
    where = ("--sample", "--to", f"gs://{bucket}")
    assert cli("-d", "stanford", *where, STORAGE_EMULATOR_HOST=front.url).returncode == 0
    before = front.objects(bucket)
    done = cli("-d", "stanford", "-d", "tsinghua", "--force", *where, STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 1 and "manifest.csv says that the dataset is complete, and may not be" in done.stderr
    assert "tsinghua: complete" in done.stderr
    assert before.items() <= front.objects(bucket).items()


@pytest.mark.parametrize(("via", "status"), [("mount", 1), ("auto", 0)])
def test_it_is_not_written_through_a_mount(cli: Cli, front: GcsFront, bucket: str, via: str, status: int) -> None:
    front.create_bucket(bucket)
    front.keeping.add(bucket)
    where = ("--via", via, "--to", f"gs://{bucket}")
    done = cli("-d", "stanford", "--sample", *where, STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == status and "expected --via api" in done.stderr
    assert not [name for name in front.objects(bucket) if ".spotted-part-" in name]


def test_check_says_so(cli: Cli, front: GcsFront, bucket: str) -> None:
    front.create_bucket(bucket)
    front.keeping.add(bucket)
    done = cli("--check", "--to", f"gs://{bucket}", "--sample", "-d", "stanford", STORAGE_EMULATOR_HOST=front.url)
    assert "not tried, for it has a retention policy" in done.stdout
    assert front.objects(bucket) == {}


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ({"defaultEventBasedHold": True}, "it puts a hold on each new object"),
        ({"versioning": {"enabled": True}}, "keeps old versions of what is replaced or removed"),
    ],
)
def test_what_the_description_says(
    cli: Cli, front: GcsFront, bucket: str, described: dict[str, object], says: str
) -> None:
    front.create_bucket(bucket)
    front.described = described
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 0 and says in done.stderr


# ── single objects ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["a/small", "a/folder/"])
def test_the_same_object_again_is_as_good_as_stored(kept: Bucket, front: GcsFront, name: str) -> None:
    data = b"" if name.endswith("/") else PHOTO
    for _ in range(2):
        kept.put(name, data)
    assert front.puts[name] == 1


def test_the_same_large_object_again(kept: Bucket, front: GcsFront) -> None:
    chunks = [bytes([number]) * MB for number in range(20)]
    for _ in range(2):
        kept.put("a/large", iter(chunks))
    assert front.puts["a/large"] == 1 and kept.get("a/large") == b"".join(chunks)
    with pytest.raises(KeptError, match="a/large: an object with other bytes is there"):
        kept.put("a/large", iter(chunks[1:]))


def test_another_object_of_the_name_is_one_members_trouble(kept: Bucket) -> None:
    kept.put("a/x", PHOTO)
    for other in (PHOTO + b"1", b"\0" + PHOTO[1:]):
        with pytest.raises(KeptError, match="may not be replaced.*retention policy"):
            kept.put("a/x", other)
    assert kept.get("a/x") == PHOTO


def test_an_answer_that_was_lost_after_the_object_was_stored(kept: Bucket, front: GcsFront) -> None:
    front.commit_then_fail("xml.put", times=1)
    kept.put("a/x", PHOTO)
    assert front.objects(kept.url.removeprefix("gs://"))["a/x"] == (len(PHOTO), google_crc32c.value(PHOTO))


def test_what_is_kept_is_answered(kept: Bucket) -> None:
    kept.put("a/x", PHOTO)
    assert list(kept.delete(["a/x", "a/none"])) == ["a/x"]


def test_a_folder_that_another_program_put_with_bytes_is_one_all_the_same(
    cli: Cli, kept: Bucket, front: GcsFront
) -> None:
    where = ("-d", "stanford", "--sample", "--to", kept.url)
    for name in ("_extraction/", "stanford/", "stanford/Images/"):
        kept.put(name, b"made by another program")
    for options in ((), (), ("--verify",), ("--repair",)):
        done = cli(*where, *options, STORAGE_EMULATOR_HOST=front.url)
        assert done.returncode == 0, done.stderr


# ── the journal and the manifest ─────────────────────────────────────────────────────────────────


def rows(*paths: str) -> Rows:
    return Rows.of([Row(path, 1, 2, "http://x/a.tar", 0) for path in paths])


def test_of_several_entries_of_a_unit_the_last_counts(kept: Bucket) -> None:
    store = ManifestStore(kept, "mini")
    for number in range(12):
        store.write(JournalEntry("a.tar/1", f"version {number}", rows("mini/x")))
        store.write(JournalEntry("a.tar/1", f"version {number}", rows("mini/x")))  # a run that is repeated adds none
    assert {unit: entry.fingerprint for unit, entry in store.journal().items()} == {"a.tar/1": "version 11"}
    assert len([*kept.list("_extraction/mini/journal/")]) == 12


def test_what_is_forgotten_does_not_count(kept: Bucket) -> None:
    store = ManifestStore(kept, "mini")
    for unit in ("a.tar/1", "a.tar/2"):
        store.write(JournalEntry(unit, "version", rows("mini/x")))
    store.discard(["a.tar/1"])
    found = store.journal()
    assert found["a.tar/1"].fingerprint == "" and found["a.tar/2"].fingerprint == "version"


def test_failures_of_an_earlier_run_are_followed_by_newer_ones(kept: Bucket) -> None:
    store, row = ManifestStore(kept, "mini"), Row("mini/x", 0, 0, "http://x", 0, FAILED, "first")
    for failures in ([row], [row._replace(reason="second")], []):
        store.write_failures(failures)
        assert [each.reason for each in store.failures()] == [each.reason for each in failures]


def metadata(number: int) -> dict[str, object]:
    return {"dataset": "mini", "sample": False, "sources": [], "gone": 0, "finished": str(number)}


def test_a_run_that_was_stopped_between_the_two_files_of_the_manifest(kept: Bucket, front: GcsFront) -> None:
    store = ManifestStore(kept, "mini")
    front.fail("xml.put", 404, name="_extraction/mini/manifest.csv")
    with pytest.raises(ExtractionError):
        store.commit(rows("mini/x"), [], metadata(1))
    store.commit(rows("mini/x"), [], metadata(2))
    found = store.manifest()
    assert found and found[1]["finished"] == "1" and len(found[0]) == 1


def test_a_manifest_of_other_objects_is_passed_over(kept: Bucket, front: GcsFront) -> None:
    store = ManifestStore(kept, "mini")
    front.fail("xml.put", 404, name="_extraction/mini/manifest.csv")
    with pytest.raises(ExtractionError):
        store.commit(rows("mini/x"), [], metadata(1))
    store.commit(rows("mini/y"), [], metadata(2))
    found = store.manifest()
    assert found and found[1]["finished"] == "2" and [row.path for row in found[0]] == ["mini/y"]


# ── a run after an interruption ──────────────────────────────────────────────────────────────────


def test_a_run_goes_on_where_another_was_stopped(kept_bench: Bench, front: GcsFront) -> None:
    members = some_members(900, 40_000)
    dataset = kept_bench.dataset(a_tar=tar_of(members), pin=True)
    front.fail("xml.put", 404, after=500)
    with pytest.raises(ExtractionError, match="cannot write"):
        kept_bench.extract(dataset)
    before = front.puts.copy()
    assert kept_bench.extract(dataset).state == "complete"
    assert kept_bench.objects() == dict(members)
    assert max(front.puts[f"mini/{name}"] for name, _ in members) == 1 and front.puts.total() > before.total()


def test_a_wrong_object_in_the_way_is_listed_and_the_others_are_stored(kept_bench: Bench) -> None:
    kept_bench.bucket.put("mini/f1/1.jpg", b"somebody else's")
    members = some_members(20, 1000)
    result = kept_bench.extract(kept_bench.dataset(a_tar=tar_of(members)))
    assert result.state == "incomplete" and {row.path for row in result.missing} == {"mini/f1/1.jpg"}
    assert "may not be replaced" in result.missing[0].reason
    assert len(kept_bench.objects()) == 20


def test_repair_stores_what_is_missing_and_says_what_it_cannot_replace(
    api_bench: Bench,
    front: GcsFront,
    caplog: pytest.LogCaptureFixture,
) -> None:
    members = some_members(20, 1000)
    dataset = api_bench.dataset(a_tar=tar_of(members))
    assert api_bench.extract(dataset).state == "complete"
    api_bench.bucket.delete(["mini/f1/1.jpg", "mini/f2/"])
    api_bench.bucket.put("mini/f2/2.jpg", b"another")
    front.keeping.add(api_bench.bucket.url.removeprefix("gs://"))
    with caplog.at_level("WARNING", "spotted"):
        found = repair(dataset, api_bench.job())
    assert [row.path for row in found.missing] == ["mini/f2/2.jpg"]
    assert "mini/f2/2.jpg cannot be repaired" in caplog.text and "may not be replaced" in caplog.text
    assert json.loads(api_bench.bucket.get("_extraction/mini/manifest.json") or b"{}")["objects"] == 20
