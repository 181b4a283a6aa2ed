"""A bucket that answers oddly: any listing, description or answer to a put ends in a right result or one error."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from errors import BucketError, MemberError
from gcs import Destination, open_bucket
from storage.api import ApiBucket
from storage.bucket import Stored
from support.fake_gcs import GcsFront
from support.program import Cli

SLOW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
CRC = base64.b64encode(b"\0\0\0\1").decode()


@pytest.fixture
def odd(front: GcsFront, bucket: str, monkeypatch: pytest.MonkeyPatch) -> ApiBucket:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    front.create_bucket(bucket)
    found = open_bucket(Destination(f"gs://{bucket}", "api"))
    assert isinstance(found, ApiBucket)
    return found


def listed(bucket: ApiBucket, front: GcsFront, *pages: Any) -> list[Stored]:
    """What becomes of these pages."""
    front._plans.clear()
    for page in pages:
        front.answer("json.list", 200, page if isinstance(page, bytes) else json.dumps(page).encode())
    return list(bucket.list("a/"))


# ── listings ─────────────────────────────────────────────────────────────────────────────────────


def test_what_is_zero_may_be_left_out(odd: ApiBucket, front: GcsFront) -> None:
    """As Google's own testbench does for empty objects."""
    items = [{"name": "a/0"}, {"name": "a/1", "size": "0"}, {"name": "a/2", "size": "5"}]
    found = listed(odd, front, {"items": [*items, {"name": "a/3", "size": 5, "crc32c": CRC}]})
    assert found == [Stored("a/0", 0, 0), Stored("a/1", 0, 0), Stored("a/2", 5, None), Stored("a/3", 5, 1)]


def test_an_empty_page_with_a_next_one(odd: ApiBucket, front: GcsFront) -> None:
    assert listed(odd, front, {"nextPageToken": "x"}, {"items": [{"name": "a/0"}]}) == [Stored("a/0", 0, 0)]


@pytest.mark.parametrize(
    "item",
    [
        {}, {"size": "1"}, {"name": 7}, {"name": ""}, {"name": None}, "a/x", None, 5, [],
        {"name": "a/x", "size": "much"}, {"name": "a/x", "size": -1}, {"name": "a/x", "size": None},
        {"name": "a/x", "size": "1", "crc32c": "?"}, {"name": "a/x", "size": "1", "crc32c": "AAAA"},
        {"name": "a/x", "size": "1", "crc32c": 5}, {"name": "b/x", "size": "1"},
    ],
)  # fmt: skip
def test_an_odd_item_is_one_clear_error(odd: ApiBucket, front: GcsFront, item: object) -> None:
    with pytest.raises(BucketError, match="cannot be listed"):
        listed(odd, front, {"items": [item]})


@pytest.mark.parametrize(
    "page", [b"", b"<html>", b"{", b"[]", b"5", b"null", b'"x"', b'{"items": 5}', b'{"items": {"a": 1}}', b"\xff\xfe"]
)
def test_an_odd_page_is_one_clear_error(odd: ApiBucket, front: GcsFront, page: bytes) -> None:
    with pytest.raises(BucketError, match="listed|its listing is not"):
        listed(odd, front, page)


@pytest.mark.parametrize("tokens", ["xx", "xyxy", "xyzxyz"])
def test_a_listing_without_end(odd: ApiBucket, front: GcsFront, tokens: str) -> None:
    with pytest.raises(BucketError, match="the listing begins again"):
        listed(odd, front, *({"nextPageToken": token} for token in tokens))


@pytest.mark.parametrize("names", [["a/y", "a/x"], ["a/x", "a/x"]])
def test_a_listing_out_of_order(odd: ApiBucket, front: GcsFront, names: list[str]) -> None:
    with pytest.raises(BucketError, match="out of order"):
        listed(odd, front, {"items": [{"name": name, "size": "1"} for name in names]})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["a/x", "1", CRC, "AAAAAA=="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
items = st.fixed_dictionaries(
    {}, optional={"name": values | st.text().map("a/".__add__), "size": values, "crc32c": values, "other": values}
)
pages = st.fixed_dictionaries(
    {},
    optional={
        "items": values | st.lists(items | values, max_size=4),
        "nextPageToken": values | st.sampled_from(["x", "y"]),
        "prefixes": values,
    },
)


@SLOW
@given(st.lists(pages | values | st.binary(max_size=30), min_size=1, max_size=3))
def test_any_listing(odd: ApiBucket, front: GcsFront, answers: list[Any]) -> None:
    try:
        found = listed(odd, front, *answers, *[{}] * 3)
    except BucketError as error:
        one_line(odd, error)
    else:
        names = [stored.name for stored in found]
        assert names == sorted(set(names)) and all(name.startswith("a/") for name in names)
        assert all(stored.size >= 0 and stored.crc32c in (None, 0, 1) for stored in found)


def one_line(bucket: ApiBucket, error: BucketError) -> None:
    """An error as a user reads it."""
    assert str(error).startswith(bucket.url) and "\n" not in str(error)


# ── descriptions and puts ────────────────────────────────────────────────────────────────────────

statuses = st.sampled_from([200, 201, 204, 302, 304, 308, 400, 401, 403, 404, 409, 410, 412, 413, 499])
bodies = st.binary(max_size=60) | (pages | values).map(lambda value: json.dumps(value).encode())
headers = st.dictionaries(
    st.sampled_from(["Location", "Range", "ETag", "X-Goog-Generation", "x-goog-hash", "Content-Encoding"]),
    st.sampled_from(["", "x", "bytes=0-5", "bytes=0-262143", "bytes=0-99999999999", "crc32c=AAAA", '"1"']),
    max_size=2,
)  # fmt: skip


@SLOW
@given(statuses, bodies, headers)
def test_any_description(odd: ApiBucket, front: GcsFront, status: int, body: bytes, more: dict[str, str]) -> None:
    front._plans.clear()
    front.answer("json.bucket.get", status, body, 1, more)
    try:
        look = odd.probe()
    except BucketError as error:
        one_line(odd, error)
    else:
        assert look.exists in (True, False)


KINDS = ["xml.put", "json.upload", "json.resumable", "json.chunk"]


@settings(SLOW, max_examples=40)
@given(st.sampled_from(KINDS), st.integers(0, 1), statuses, bodies, headers)
def test_any_answer_to_a_put(
    odd: ApiBucket, front: GcsFront, kind: str, after: int, status: int, body: bytes, more: dict[str, str]
) -> None:
    """It says that it is stored, which the listing proves or not, or raises; and the next one is stored."""
    name = "a/folder/" if kind == "json.upload" else "a/x"
    data = {"xml.put": b"1", "json.upload": b""}.get(kind)
    front._plans.clear()
    odd.delete([name])
    front.answer(kind, status, body, 1, more)
    front._plans[-1].after = after
    for _ in range(2):
        with contextlib.suppress(MemberError, BucketError):
            odd.put(name, iter([bytes(9 << 20)]) if data is None else data)
    odd.put(name, iter([bytes(9 << 20)]) if data is None else data)
    assert name in {stored.name for stored in odd.list("a/")}


def test_a_listing_of_nonsense_is_one_line_to_the_user(cli: Cli, front: GcsFront, bucket: str) -> None:
    front.create_bucket(bucket)
    front.answer("json.list", 200, b'{"items": [{"size": 5}]}', times=100)
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: gs://{bucket}: cannot be listed: not an object")
