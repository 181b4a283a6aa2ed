"""The canary: the front refuses what Google Cloud Storage refuses, stores what it takes, and misbehaves as planned."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import quote

import google.api_core.exceptions
import google_crc32c
import obstore
import pytest
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from obstore.store import GCSStore

from storage.api_errors import status_of
from support.fake_gcs import GcsFront
from support.fake_gcs_client import BUCKET, crc32c, upload
from support.fake_gcs_requests import CHUNK
from support.program import product_files

BAD_NAMES = ["", "x" * 1025, "ü" * 513, "a\nb", "a\rb", ".", "..", ".well-known/acme-challenge/token"]
GOOD_NAMES = ["plain.jpg", "deep/er/ü ñ?#%20&+=.jpg", "/".join(["x" * 204] * 5), "...", "folder/", "folder/in it"]
BAD_BUCKETS = [
    "ab",
    "x" * 64,
    "Capital",
    "-a-b",
    "abc-",
    "a..b",
    "a b c",
    "192.168.1.1",
    "goog-x",
    "my-g00gle",
    "ü-ü-ü",
    "",
]
APIS = ["xml", "media", "multipart", "resumable"]


@pytest.fixture(scope="module")
def running() -> Iterator[GcsFront]:
    with GcsFront() as front:
        front.create_bucket(BUCKET)
        yield front


@pytest.fixture
def front(running: GcsFront) -> Iterator[GcsFront]:
    running.reset()
    yield running
    running.reset()


@pytest.fixture
def store(front: GcsFront) -> GCSStore:
    key = {
        "gcs_base_url": front.url,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    return GCSStore(
        BUCKET,
        service_account_key=json.dumps(key),
        client_options={"allow_http": True},
        retry_config={
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=20),
            "backoff": {
                "init_backoff": timedelta(milliseconds=10),
                "max_backoff": timedelta(milliseconds=20),
                "base": 2,
            },
        },
    )


@pytest.fixture
def bucket(front: GcsFront, monkeypatch: pytest.MonkeyPatch) -> Iterator[storage.Bucket]:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    client = storage.Client(project="test", credentials=AnonymousCredentials())
    yield client.bucket(BUCKET)
    client.close()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name)[:30])
def test_refuses_object_names_that_gcs_refuses(front: GcsFront, api: str, name: str) -> None:
    before = front.objects(BUCKET)
    assert upload(front, api, name).status_code == 400
    assert front.objects(BUCKET) == before
    assert not front.puts


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("name", GOOD_NAMES, ids=lambda name: name[:30])
def test_takes_object_names_that_gcs_takes(front: GcsFront, api: str, name: str) -> None:
    data = f"{api} {name}".encode()
    assert upload(front, api, name, data).status_code == 200
    assert front.objects(BUCKET)[name] == (len(data), google_crc32c.value(data))
    assert front.puts == {name: 1}
    assert requests.get(f"{front.url}/{BUCKET}/{quote(name, safe='')}").content == data


@pytest.mark.parametrize("name", BAD_BUCKETS)
def test_refuses_bucket_names_that_gcs_refuses(front: GcsFront, name: str) -> None:
    assert requests.post(f"{front.url}/storage/v1/b", json={"name": name}).status_code == 400


@pytest.mark.parametrize("api", APIS)
def test_refuses_wrong_checksums(front: GcsFront, api: str) -> None:
    md5 = base64.b64encode(hashlib.md5(b"data").digest()).decode()
    right, wrong = crc32c(b"data"), crc32c(b"other")
    for key, value in (
        ("x-goog-hash", f"crc32c={wrong}"),
        ("x-goog-hash", f"crc32c={right},md5=AA=="),
        ("Content-MD5", wrong),
    ):
        assert upload(front, api, "checked", headers={key: value}).status_code == 400
    assert "checked" not in front.objects(BUCKET)
    assert (
        upload(front, api, "checked", headers={"x-goog-hash": f"crc32c={right}", "Content-MD5": md5}).status_code == 200
    )
    assert requests.delete(f"{front.url}/{BUCKET}/checked").status_code == 204


def test_refuses_wrong_checksums_in_metadata(front: GcsFront, bucket: storage.Bucket) -> None:
    blob = bucket.blob("in-metadata")
    blob.crc32c = crc32c(b"other")
    with pytest.raises(google.api_core.exceptions.BadRequest):
        blob.upload_from_string(b"data", checksum=None)
    assert "in-metadata" not in front.objects(BUCKET)


@pytest.mark.parametrize("api", APIS)
def test_preconditions(front: GcsFront, api: str) -> None:
    name = f"conditional-{api}"
    assert upload(front, api, name, b"1", generation="0").status_code == 200
    assert upload(front, api, name, b"22", generation="0").status_code == 412
    assert front.objects(BUCKET)[name][0] == 1
    url = f"{front.url}/{BUCKET}/{name}"
    generation = requests.get(url).headers["x-goog-generation"]
    assert requests.get(f"{url}?generation={generation}").content == b"1"
    assert upload(front, api, name, b"333", generation=generation).status_code == 200
    assert requests.get(f"{url}?generation={generation}").status_code == 404
    assert (front.puts, front.gets) == ({name: 2}, {name: 3})


@pytest.mark.parametrize("api", APIS)
def test_a_missing_bucket_is_404(front: GcsFront, api: str) -> None:
    answer = upload(front, api, "name", bucket="no-such-bucket")
    assert answer.status_code == 404
    assert api != "xml" or "<Code>NoSuchBucket</Code>" in answer.text


def test_what_the_front_does_not_have_is_501(front: GcsFront) -> None:
    assert requests.get(f"{front.url}/{BUCKET}?list-type=2").status_code == 501
    assert requests.post(f"{front.url}/storage/v1/b/{BUCKET}/o/a/rewriteTo/b/{BUCKET}/o/b").status_code == 501
    assert upload(front, "xml", "a/../../b").status_code == 501  # fake-gcs-server would write outside its folder
    assert front.counts["other"] == 2


def test_xml_answers(front: GcsFront) -> None:
    url = f"{front.url}/{BUCKET}/answers"
    put = requests.put(url, data=b"data", headers={"Content-Type": "image/jpeg"})
    assert f"crc32c={crc32c(b'data')}" in put.headers["x-goog-hash"]
    head, get = requests.head(url), requests.get(url)
    for answer in (head, get):
        for name in ("ETag", "x-goog-generation", "x-goog-hash"):
            assert answer.headers[name] == put.headers[name]
        assert answer.headers["Content-Length"] == "4"
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert "GMT" in answer.headers["Last-Modified"]
    assert (get.content, head.content) == (b"data", b"")
    assert requests.get(url, headers={"Range": "bytes=1-2"}).content == b"at"
    assert requests.delete(url).status_code == 204
    for method in ("GET", "HEAD", "DELETE"):
        answer = requests.request(method, url)
        assert answer.status_code == 404
        assert method == "HEAD" or "<Code>NoSuchKey</Code>" in answer.text


def test_obstore(front: GcsFront, store: GCSStore) -> None:
    data, name = bytes(range(256)) * 9000, "obstore/ü ñ?#%20&+.jpg"  # over a mebibyte
    stored = obstore.put(store, name, data, attributes={"Content-Type": "image/jpeg"}, use_multipart=False)
    got = obstore.get(store, name)
    assert (bytes(got.bytes()), got.attributes["Content-Type"]) == (data, "image/jpeg")
    assert got.meta["e_tag"] == stored["e_tag"] == obstore.head(store, name)["e_tag"]
    assert front.objects(BUCKET)[name] == (len(data), google_crc32c.value(data))
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, name, b"", mode="create", use_multipart=False)
    obstore.delete(store, name)
    with pytest.raises(FileNotFoundError):
        obstore.get(store, name)
    assert front.counts == {"xml.put": 2, "xml.get": 2, "xml.head": 1, "xml.delete": 1}


@pytest.mark.parametrize("status", [400, 413, 429, 500, 503])
def test_the_status_is_in_obstores_message_alone(front: GcsFront, store: GCSStore, status: int) -> None:
    """No attribute of its errors has it. One place reads the message."""
    assert [path.name for path in product_files() if "status code" in path.read_text()] == ["http_status.py"]
    public = {name for name in dir(obstore.exceptions.GenericError) if not name.startswith("_")}
    assert public == {"add_note", "args", "with_traceback"}
    front.fail("xml.put", status, times=3)  # it is tried twice more
    with pytest.raises(obstore.exceptions.GenericError) as caught:
        obstore.put(store, "a/x", b"", use_multipart=False)
    assert status_of(caught.value) == status


def test_google_cloud_storage(front: GcsFront, bucket: storage.Bucket) -> None:
    assert bucket.exists()
    bucket.blob("google/a").upload_from_string(b"data", content_type="image/png")
    bucket.blob("google/folder/").upload_from_string(b"")
    with bucket.blob("google/b").open("wb", chunk_size=CHUNK, content_type="image/jpeg") as file:
        file.write(b"x" * 3 * CHUNK)
        file.write(b"end")
    listed = {blob.name: (blob.size, blob.content_type) for blob in bucket.list_blobs(prefix="google/", page_size=1)}
    big = 3 * CHUNK + 3
    assert listed["google/a"] == (4, "image/png")
    assert listed["google/b"] == (big, "image/jpeg")
    assert listed["google/folder/"][0] == 0
    assert bucket.blob("google/b").download_as_bytes() == b"x" * 3 * CHUNK + b"end"
    assert front.objects(BUCKET)["google/b"] == (big, google_crc32c.value(b"x" * 3 * CHUNK + b"end"))
    assert [blob.name for blob in bucket.list_blobs(prefix="google/folder/")] == ["google/folder/"]
    for name in listed:
        bucket.blob(name).delete()
    with pytest.raises(google.api_core.exceptions.NotFound):
        bucket.blob("google/a").delete()
    del front.counts["json.bucket.get"]  # the library asks for buckets by itself, in a thread
    uploads = {"json.upload": 2, "json.resumable": 1, "json.chunk": 4}
    assert front.counts == {**uploads, "json.list": 4, "json.media": 1, "json.delete": 4}


def test_a_resumable_upload_left_by_an_exception_is_no_object(front: GcsFront, bucket: storage.Bucket) -> None:
    with pytest.raises(ZeroDivisionError), bucket.blob("left").open("wb", chunk_size=CHUNK) as file:
        file.write(b"x" * 2 * CHUNK)
        _ = 1 / 0
    assert "left" not in front.objects(BUCKET)


def test_a_chunk_sent_again_counts_once(front: GcsFront, bucket: storage.Bucket) -> None:
    front.commit_then_fail("json.chunk", status=503, times=2)
    with bucket.blob("again").open("wb", chunk_size=CHUNK) as file:
        file.write(b"x" * CHUNK + b"end")
    assert front.objects(BUCKET)["again"] == (CHUNK + 3, google_crc32c.value(b"x" * CHUNK + b"end"))


def test_resumable_uploads_keep_to_their_offsets(front: GcsFront) -> None:
    start = requests.post(f"{front.url}/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&name=offsets")
    url = start.headers["Location"]

    def put(data: bytes, content_range: str) -> requests.Response:
        return requests.put(url, data=data, headers={"Content-Range": content_range}, allow_redirects=False)

    assert put(b"x" * CHUNK, f"bytes 0-{CHUNK - 1}/*").status_code == 308
    assert put(b"x", f"bytes {CHUNK}-{CHUNK}/*").status_code == 400  # no multiple of 256 KiB, and not the last
    assert put(b"x" * CHUNK, f"bytes {2 * CHUNK}-{3 * CHUNK - 1}/*").status_code == 400  # a gap
    asked = put(b"", "bytes */*")
    assert (asked.status_code, asked.headers["Range"]) == (308, f"bytes=0-{CHUNK - 1}")
    assert "offsets" not in front.objects(BUCKET)
    assert put(b"end", f"bytes {CHUNK}-{CHUNK + 2}/{CHUNK + 3}").status_code == 200
    assert front.objects(BUCKET)["offsets"][0] == CHUNK + 3


def test_a_resumable_upload_as_gos_client_sends_it(front: GcsFront) -> None:
    """By POST, without 308, its end known only afterwards: so writes GCSFuse a file of whole blocks."""
    start = requests.post(f"{front.url}/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&name=from-go")

    def post(data: bytes, content_range: str) -> requests.Response:
        headers = {"Content-Range": content_range, "X-GUploader-No-308": "yes"}
        return requests.post(start.headers["Location"], data=data, headers=headers)

    went_on = post(b"x" * CHUNK, f"bytes 0-{CHUNK - 1}/*")
    assert (went_on.status_code, went_on.headers["X-HTTP-Status-Code-Override"]) == (200, "308")
    assert "from-go" not in front.objects(BUCKET)
    ended = post(b"", f"bytes */{CHUNK}")
    assert (ended.status_code, ended.json()["size"]) == (200, str(CHUNK))
    assert "X-HTTP-Status-Code-Override" not in ended.headers
    assert front.counts == {"json.resumable": 1, "json.chunk": 2}
    assert front.objects(BUCKET)["from-go"] == (CHUNK, google_crc32c.value(b"x" * CHUNK))


def test_delay(front: GcsFront) -> None:
    front.delay = 0.3
    begin = time.monotonic()
    assert upload(front, "xml", "slow").status_code == 200
    assert time.monotonic() - begin >= 0.3


@pytest.mark.parametrize("api", ["xml", "media"])
def test_fail(front: GcsFront, api: str) -> None:
    kind = "xml.put" if api == "xml" else "json.upload"
    front.fail(kind, 429, times=2, headers={"Retry-After": "7"})
    front.fail(kind, 400, name="one")
    answers = [upload(front, api, name) for name in ("f1", "f2", "f3", "one", "one")]
    assert [answer.status_code for answer in answers] == [429, 429, 200, 400, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert front.puts == {"f3": 1, "one": 1}
    assert front.counts[kind] == 5


def test_drop_stores_nothing(front: GcsFront) -> None:
    front.drop("xml.put")
    with pytest.raises(requests.ConnectionError, match="reset"):
        upload(front, "xml", "dropped")
    assert "dropped" not in front.objects(BUCKET)
    assert front.counts == {"xml.put": 1}
    assert not front.puts


@pytest.mark.parametrize("status", [None, 503])
def test_commit_then_fail_stores(front: GcsFront, status: int | None) -> None:
    name = f"committed-{status}"
    front.commit_then_fail("xml.put", status=status)
    if status is None:
        with pytest.raises(requests.ConnectionError, match="reset"):
            upload(front, "xml", name)
    else:
        assert upload(front, "xml", name).status_code == status
    assert name in front.objects(BUCKET)
    assert front.puts == {name: 1}


def test_corrupt_changes_a_bit_of_the_next_body(front: GcsFront) -> None:
    front.corrupt("xml.put", name="bad")
    assert upload(front, "xml", "good", b"data").status_code == upload(front, "xml", "bad", b"data").status_code == 200
    objects = front.objects(BUCKET)
    assert objects["good"][1] == google_crc32c.value(b"data") and objects["bad"][1] == google_crc32c.value(b"daua")


def test_limit_refuses_what_is_beyond_it_in_a_second(front: GcsFront) -> None:
    front.limit("xml.put", 3)
    statuses = [upload(front, "xml", f"limited-{number}").status_code for number in range(8)]
    assert set(statuses) == {200, 429} and statuses.count(429) == front.refused["xml.put"]
    assert statuses[:3] == [200] * 3 or statuses.count(200) > 3  # the clock's second may end in between
    assert front.puts.total() == statuses.count(200)


def test_deny(front: GcsFront, store: GCSStore, bucket: storage.Bucket) -> None:
    front.deny("json.bucket.get", "json.bucket.create", "json.list", "xml.put", "xml.get")
    with pytest.raises(google.api_core.exceptions.Forbidden):
        bucket.exists()
    with pytest.raises(google.api_core.exceptions.Forbidden):
        bucket.client.create_bucket("denied-bucket")
    with pytest.raises(google.api_core.exceptions.Forbidden):
        list(bucket.list_blobs())
    with pytest.raises(obstore.exceptions.PermissionDeniedError):
        obstore.put(store, "denied", b"", use_multipart=False)
    with pytest.raises(obstore.exceptions.PermissionDeniedError):
        obstore.get(store, "denied")
    assert "denied" not in front.objects(BUCKET)
    assert front.counts["xml.put"] == front.counts["xml.get"] == 1  # obstore does not try again
    front.reset()
    assert bucket.exists()


@pytest.mark.parametrize("status", [429, 503, None])
def test_obstore_sends_a_put_again(front: GcsFront, store: GCSStore, status: int | None) -> None:
    name = f"sent-again-{status}"
    front.fail("xml.put", status, times=2) if status else front.drop("xml.put", times=2)
    obstore.put(store, name, b"data", use_multipart=False)
    assert front.counts == {"xml.put": 3}
    assert front.puts == {name: 1}


def test_reset_keeps_objects(front: GcsFront) -> None:
    upload(front, "xml", "kept")
    front.fail("xml.put", 500)
    front.delay = 9
    front.reset()
    assert upload(front, "xml", "kept-too").status_code == 200
    assert {"kept", "kept-too"} <= front.objects(BUCKET).keys()
    assert front.puts == {"kept-too": 1}
