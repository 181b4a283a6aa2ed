"""Large members on their way: uploads that end early, chunks that are refused, and what ends a run."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from errors import BucketError, MemberError, UploadLostError
from gcs import Destination, open_bucket
from storage.bucket import Bucket
from support.archives import some_members, tar_of, zip_of
from support.bench import Bench
from support.fake_gcs import GcsFront
from support.program import ROOT, Cli, clean_environment, message

MB = 1 << 20
LARGE = random.Random(5).randbytes(20 * MB)


@pytest.fixture
def stored(front: GcsFront, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    front.create_bucket(bucket)
    return open_bucket(Destination(f"gs://{bucket}", "api"))


def chunks(data: bytes = LARGE) -> list[bytes]:
    return [data[start : start + MB] for start in range(0, len(data), MB)]


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_upload_begins_anew_where_its_bytes_can_be_had_again(
    stored: Bucket, front: GcsFront, status: int, after: int
) -> None:
    front.fail("json.chunk", status, after=after)
    stored.put("a", chunks())
    assert stored.get("a") == LARGE and front.counts["json.resumable"] == 2


def test_else_it_says_so_and_leaves_nothing(stored: Bucket, front: GcsFront) -> None:
    front.fail("json.chunk", 410, after=1)
    with pytest.raises(UploadLostError, match="410"):
        stored.put("a", iter(chunks()))
    assert stored.get("a") is None


def test_it_does_not_begin_anew_for_ever(stored: Bucket, front: GcsFront) -> None:
    front.fail("json.chunk", 410, times=100)
    with pytest.raises(UploadLostError):
        stored.put("a", chunks())
    assert front.counts["json.resumable"] == 3


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("answer", ["fail", "commit_then_fail"])
def test_trouble_of_the_server_in_the_middle(stored: Bucket, front: GcsFront, status: int, answer: str) -> None:
    getattr(front, answer)("json.chunk", status=status, after=1)
    stored.put("a", iter(chunks()))
    assert stored.get("a") == LARGE


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_a_member_whose_upload_ended_early_is_read_and_stored_again(
    api_bench: Bench,
    front: GcsFront,
    pack: object,
) -> None:
    assert callable(pack)
    members = [*some_members(20, 1000), ("large.bin", LARGE)]
    front.fail("json.chunk", 410, after=1, name="mini/large.bin")
    key = "a_tar" if pack is tar_of else "a_zip"
    result = api_bench.extract(api_bench.dataset(pin=True, **{key: pack(members)}))
    assert (result.state, front.counts["json.resumable"]) == ("complete", 2)
    assert api_bench.objects() == dict(members)
    assert max(front.puts[f"mini/{name}"] for name, _ in members) == 1


def test_one_that_never_arrives_is_missing(api_bench: Bench, front: GcsFront) -> None:
    front.fail("json.chunk", 410, times=100)
    result = api_bench.extract(api_bench.dataset(a_tar=tar_of([("a.jpg", b"1"), ("large.bin", LARGE)])))
    assert result.state == "incomplete" and [row.path for row in result.missing] == ["mini/large.bin"]


def test_a_refused_chunk_leaves_nothing_for_the_garbage_collector(front: GcsFront, bucket: str, tmp_path: Path) -> None:
    front.create_bucket(bucket)
    front.fail("json.chunk", 400, times=100)
    front.drop("json.cancel", times=100)
    script = (
        "import gc, sys; from gcs import *; from errors import MemberError\n"
        "sys.unraisablehook = lambda each: print('unraisable', each.exc_value)\n"
        f"stored = open_bucket(Destination('gs://{bucket}'))\n"
        f"for size in (1, 9, 20):\n"
        "    try: stored.put('a', iter([bytes(1 << 20)] * size))\n"
        "    except MemberError as error: print('refused', error)\n"
        "gc.collect()\n"
    )
    environment = clean_environment(tmp_path, {"STORAGE_EMULATOR_HOST": front.url})
    # -X dev has Python 3.11 and 3.12 say what 3.13 always says.
    command = [sys.executable, "-X", "dev", "-W", "ignore", "-c", script]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("refused 400") == 3 and not done.stderr, done.stderr
    assert "unraisable" not in done.stdout


# ── refusals that are meant for all ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [400, 412])
@pytest.mark.parametrize("is_large", [False, True])
def test_a_few_refusals_alike_end_everything(stored: Bucket, front: GcsFront, status: int, is_large: bool) -> None:
    kind = "json.resumable" if is_large else "xml.put"
    front.fail(kind, status, times=1000)
    for number in range(7):
        with pytest.raises(MemberError):
            stored.put(f"a/{number}", iter([b"1"]) if is_large else b"1")
    with pytest.raises(BucketError, match="refuses one object after the other"):
        stored.put("a/7", iter([b"1"]) if is_large else b"1")


def test_what_is_stored_between_them_shows_that_they_are_not(stored: Bucket, front: GcsFront) -> None:
    front.fail("xml.put", 400, times=1000, name="a/bad")
    for _ in range(5):
        for _ in range(7):
            with pytest.raises(MemberError):
                stored.put("a/bad", b"1")
        stored.put("a/good", b"1")


def test_refusals_of_other_kinds_are_not_alike(stored: Bucket, front: GcsFront) -> None:
    for status in (400, 412, 413) * 5:
        front.fail("xml.put", status)
        with pytest.raises(MemberError):
            stored.put("a", b"1")


def test_a_disabled_key_ends_the_run_with_one_error(cli: Cli, front: GcsFront, bucket: str) -> None:
    front.create_bucket(bucket)
    front.fail("xml.put", 400, times=10_000, after=1)  # what is there at the beginning
    front.fail("json.upload", 400, times=10_000, after=1)  # the lease
    done = cli("-a", "--sample", "--to", f"gs://{bucket}", STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 1 and done.stderr.count("error:") == 1
    # An object of the journal is refused once, photos several times, before the run ends.
    assert re.search("refuses one object after the other|cannot be written: status code: 400", message(done))
    assert "tsinghua" not in done.stderr.partition("\n")[2] and {*front.objects(bucket)} == {
        "_extraction/stanford/journal/begun.json"
    }


def test_a_single_refused_member_is_one_row(api_bench: Bench, front: GcsFront) -> None:
    front.fail("xml.put", 400, times=100, name="mini/f3/3.jpg")
    members = some_members(20, 1000)
    result = api_bench.extract(api_bench.dataset(a_tar=tar_of(members)))
    assert result.state == "incomplete" and [row.path for row in result.missing] == ["mini/f3/3.jpg"]
    assert len(api_bench.objects()) == 19


def test_chunks_are_not_asked_for_after_a_refusal(stored: Bucket, front: GcsFront) -> None:
    asked = list[int]()

    def endless() -> Iterator[bytes]:
        for number in range(1000):
            asked.append(number)
            yield bytes(MB)

    front.fail("json.resumable", 400)
    with pytest.raises(MemberError):
        stored.put("a", endless())
    assert len(asked) <= 16
