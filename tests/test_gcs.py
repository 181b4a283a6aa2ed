"""One contract for all buckets: a directory, and the API of a real emulator."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import pytest

from errors import BucketError, MemberError, UsageError
from gcs import Destination, bucket_and_prefix, open_bucket
from storage.bucket import Bucket
from storage.directory import FolderBucket
from storage.names import PARTIAL_PREFIX, object_name
from support.fake_gcs import GcsFront

JPEG = b"\xff\xd8\xff" + bytes(5000)


@pytest.fixture
def api(front: GcsFront, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    return open_bucket(Destination(f"gs://test-{uuid.uuid4().hex[:12]}", "api"))


@pytest.fixture
def below(api: Bucket, front: GcsFront) -> Bucket:
    """A prefix of a bucket, with no rights on anything else."""
    api.ready()
    front.confine(api.url.removeprefix("gs://"), "a team/Fila é~#[1]%20/")
    return open_bucket(Destination(f"{api.url}/a team/Fila é~#[1]%20", "api"))


@pytest.fixture(params=["folder", "api", "below"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    kind = request.param
    found: Bucket = FolderBucket(tmp_path / "out") if kind == "folder" else request.getfixturevalue(kind)
    found.ready()
    return found


def names(bucket: Bucket, prefix: str) -> list[str]:
    return sorted(stored.name for stored in bucket.list(prefix) if not stored.name.endswith("/"))


def test_what_is_put_is_listed_and_read_back(bucket: Bucket) -> None:
    bucket.put("stanford/Images/Fila Braziliero/é~#[1]%20.jpg", JPEG, "image/jpeg")
    (stored,) = [stored for stored in bucket.list("stanford/") if not stored.name.endswith("/")]
    assert (stored.name, stored.size) == ("stanford/Images/Fila Braziliero/é~#[1]%20.jpg", len(JPEG))
    assert stored.crc32c in (google_crc32c.value(JPEG), None)
    assert bucket.get(stored.name) == JPEG


def test_the_api_lists_the_checksum(api: Bucket) -> None:
    api.ready()
    api.put("a/b", JPEG)
    assert [stored.crc32c for stored in api.list("a/")] == [google_crc32c.value(JPEG)]


def test_chunks_become_one_object(bucket: Bucket) -> None:
    chunks = [bytes([number]) * (1 << 20) for number in range(20)]
    bucket.put("large", iter(chunks), "application/octet-stream")
    assert bucket.get("large") == b"".join(chunks)


def test_an_empty_object(bucket: Bucket) -> None:
    bucket.put("a/empty", b"")
    assert bucket.get("a/empty") == b""


def test_putting_again_replaces(bucket: Bucket) -> None:
    for data in (b"first and longer", b"second"):
        bucket.put("a/x", data)
    assert bucket.get("a/x") == b"second"
    assert names(bucket, "a/") == ["a/x"]


def test_chunks_that_fail_leave_nothing(bucket: Bucket) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(9 << 20)
        raise MemberError("damaged")

    bucket.put("a/other", b"1")
    with pytest.raises(MemberError, match="damaged"):
        bucket.put("a/x", chunks())
    assert names(bucket, "a/") == ["a/other"]


def test_placeholders(bucket: Bucket) -> None:
    bucket.put("a/b/", b"")
    bucket.put("a/b/", b"")
    assert "a/b/" in [stored.name for stored in bucket.list("a/")]


def test_nothing_under_a_prefix(bucket: Bucket) -> None:
    bucket.put("ab/x", b"1")
    assert list(bucket.list("a/")) == []
    assert bucket.get("a/none") is None


def test_delete(bucket: Bucket) -> None:
    for name in ("a/x", "a/y", "b/z"):
        bucket.put(name, b"1")
    bucket.delete(["a/x", "b/z", "a/was never there"])
    assert names(bucket, "a/") == ["a/y"]


def test_many_pages_and_pieces(api: Bucket) -> None:
    from concurrent.futures import ThreadPoolExecutor

    api.ready()
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda number: api.put(f"m/{number:05d}", b"1"), range(2100)))
    expected = [f"m/{number:05d}" for number in range(2100)]
    assert names(api, "m/") == expected
    for marks in (expected[::300], [*expected[7::90], "z"], ["a", "b"], ["m/00700x"]):
        assert [stored.name for stored in api.list("m/", marks)] == expected


# ── ready ────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_bucket_is_created_as_it_should_be(
    api: Bucket, front: GcsFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCS_REGION", "europe-west4")
    api.ready()
    asked = front.created[-1]
    assert front.counts["json.bucket.create"] == 1 and asked["location"].lower() == "europe-west4"
    access = asked["iamConfiguration"]
    assert access["uniformBucketLevelAccess"]["enabled"] and access["publicAccessPrevention"] == "enforced"


def test_the_region_is_us_central1_unless_set(api: Bucket, front: GcsFront) -> None:
    api.ready()
    assert front.created[-1]["location"].lower() == "us-central1"


def test_object_rights_alone_are_enough(api: Bucket, front: GcsFront) -> None:
    api.ready()
    front.deny("json.bucket.get", "json.bucket.create")
    api.ready()
    api.put("a", b"1")
    assert front.counts["json.list"] == 1


def test_two_runs_that_create_it_at_once(api: Bucket, front: GcsFront) -> None:
    front.create_bucket(api.url.removeprefix("gs://"))
    front.fail("json.bucket.get", 404)  # it came between this run's look and its attempt to create it
    api.ready()
    assert front.counts["json.bucket.create"] == 1


def test_no_right_to_create_says_what_to_run(api: Bucket, front: GcsFront) -> None:
    front.deny("json.bucket.create")
    with pytest.raises(BucketError, match=r"roles/storage.admin.*gcloud storage buckets create gs://test-"):
        api.ready()


def test_no_right_to_list_says_which_role(api: Bucket, front: GcsFront) -> None:
    api.ready()
    front.deny("json.bucket.get", "json.list")
    with pytest.raises(BucketError, match="roles/storage.objectAdmin"):
        api.ready()


def test_no_right_to_write_ends_everything(api: Bucket, front: GcsFront) -> None:
    api.ready()
    front.deny("xml.put")
    with pytest.raises(BucketError, match="cannot write"):
        api.put("a", b"1")


def test_a_policy_that_refuses_a_new_object_is_not_another_run(api: Bucket, front: GcsFront) -> None:
    """412 is also orgPolicyConstraintFailed (https://cloud.google.com/storage/docs/json_api/v1/status-codes)."""
    api.ready()
    front.fail("xml.put", 412)
    with pytest.raises(MemberError, match="412"):
        api.create("a/x", JPEG)
    api.create("a/x", JPEG)


def test_a_bucket_that_is_gone_ends_everything(api: Bucket) -> None:
    with pytest.raises(BucketError, match="cannot write"):
        api.put("a", b"1")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_refusals_are_tried_again(api: Bucket, front: GcsFront, status: int) -> None:
    api.ready()
    front.fail("xml.put", status, times=2)
    api.put("a", JPEG)
    assert api.get("a") == JPEG


@pytest.mark.parametrize("answer", ["drop", "commit_then_fail"])
def test_a_connection_that_breaks_before_or_after_the_object_is_stored(
    api: Bucket, front: GcsFront, answer: str
) -> None:
    api.ready()
    getattr(front, answer)("xml.put", times=2)
    api.put("a/x", JPEG)
    assert names(api, "a/") == ["a/x"] and api.get("a/x") == JPEG


# ── directories ──────────────────────────────────────────────────────────────────────────────────


def test_a_directory_under_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BucketError, match="expected a directory that can be written"):
        FolderBucket(tmp_path / "file" / "out").ready()


def test_a_name_that_the_file_system_refuses_is_one_members_trouble(tmp_path: Path) -> None:
    with pytest.raises(MemberError, match="name too long"):
        FolderBucket(tmp_path).put("a/" + "x" * 300, b"1")
    assert not list(tmp_path.glob(f"**/{PARTIAL_PREFIX}*"))


def test_a_file_that_another_run_takes_for_a_left_over_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, removed = os.rename, list[str]()

    def after_it_was_removed(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if not removed:
            removed.append(source)
            os.unlink(source, dir_fd=src_dir_fd)
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", after_it_was_removed)
    FolderBucket(tmp_path).put("a/b", b"1")
    assert (tmp_path / "a/b").read_bytes() == b"1" and len(removed) == 1
    with pytest.raises(MemberError, match="No such file"):  # a stream cannot be written again; the next run does it
        removed.clear()
        FolderBucket(tmp_path).put("a/c", iter([b"1"]))
    assert os.listdir(tmp_path / "a") == ["b"]


def test_a_file_and_a_folder_of_one_name(tmp_path: Path) -> None:
    bucket = FolderBucket(tmp_path)
    bucket.put("a", b"1")
    with pytest.raises(MemberError):
        bucket.put("a/b", b"2")
    assert bucket.get("a") == b"1"


# ── names ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Images/a.jpg", "p/Images/a.jpg"),
        ("./Images//a.jpg", "p/Images/a.jpg"),
        ("Images/./x/", "p/Images/x/"),
        ("Fila Braziliero/é.jpg", "p/Fila Braziliero/é.jpg"),
        ("..a/b..", "p/..a/b.."),
    ],
)
def test_member_names_become_object_names(name: str, expected: str) -> None:
    assert object_name("p/", name) == (expected, "")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "..",
        "/etc/passwd",
        "C:/x",
        "c:\\x",
        "a\\..\\x",
        "a\nb",
        "a\rb",
        "a\0b",
        "a\x7f",
        "é" * 512,
        "a\udc80",
    ],
)
def test_hostile_names_are_refused(name: str) -> None:
    assert object_name("p/", name)[1]


REFUSED = ["ab", "UPPER", "a b", "-a-b", "goog-x", "1.2.3.4", "a" * 64, "", "/a"]


@pytest.mark.parametrize("name", [f"gs://{name}" for name in REFUSED])
def test_bucket_names_that_gcs_refuses(name: str) -> None:
    with pytest.raises(UsageError, match="not a bucket name"):
        bucket_and_prefix(name)


@pytest.mark.parametrize("name", ["gs://spot-raw-data", "gs://a_b.c1", "gs://abc/"])
def test_bucket_names_that_gcs_takes(name: str) -> None:
    assert bucket_and_prefix(name) == (name.removeprefix("gs://").rstrip("/"), "")


@pytest.mark.parametrize("prefix", ["team", "team/dogs", "team/Fila Braziliero/é~#[1]%20?*", "my_extraction"])
def test_a_prefix(prefix: str) -> None:
    assert bucket_and_prefix(f"gs://abc/{prefix}") == bucket_and_prefix(f"gs://abc/{prefix}/") == ("abc", f"{prefix}/")


@pytest.mark.parametrize(
    "prefix", ["/team", "a//b", "./a", "a/../b", "..", "a\\b", "a\nb", "a" * 1025, "_extraction", "a/_extraction/b"]
)
def test_prefixes_that_are_refused(prefix: str) -> None:
    with pytest.raises(UsageError, match="not a prefix that objects can have"):
        bucket_and_prefix(f"gs://abc/{prefix}")
