"""Buckets with a customer's key, whose listings have no checksums."""

from __future__ import annotations

import pytest

from gcs import Destination, open_bucket
from support.fake_gcs import GcsFront
from support.program import Cli

PHOTO = "stanford/Images/n02085620-Chihuahua/n02085620_1.jpg"


@pytest.fixture
def encrypted(front: GcsFront, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    front.create_bucket(bucket)
    front.encrypted.add(bucket)
    return bucket


def test_other_bytes_of_the_same_size_are_seen(cli: Cli, front: GcsFront, encrypted: str) -> None:
    where = ("-d", "stanford", "--sample", "--to", f"gs://{encrypted}")
    front.corrupt("xml.put", PHOTO)
    done = cli(*where, STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 0 and "storing 1 objects again" in done.stderr, done.stderr
    right = front.objects(encrypted)
    open_bucket(Destination(f"gs://{encrypted}")).put(PHOTO, bytes(right[PHOTO][0]))
    for options, status in (("--verify",), 3), ((), 0), (("--verify",), 0):
        assert cli(*where, *options, STORAGE_EMULATOR_HOST=front.url).returncode == status
    assert front.objects(encrypted)[PHOTO] == right[PHOTO]


def test_what_may_not_be_replaced_is_recognised(front: GcsFront, encrypted: str) -> None:
    front.keeping.add(encrypted)
    kept = open_bucket(Destination(f"gs://{encrypted}"))
    for _ in range(2):
        kept.put("a/x", b"the same")
    assert front.puts["a/x"] == 1
