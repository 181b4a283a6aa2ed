"""The project that a new bucket belongs to: where it is taken from, and that Google refuses a bucket without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from storage.credentials import project
from support.fake_gcs import GcsFront
from support.fake_google import Google
from support.program import Cli

NAMES = ("GCP_PROJECT", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS",
         "STORAGE_EMULATOR_HOST", "CLOUDSDK_CONFIG")  # fmt: skip


@pytest.fixture
def google(front: GcsFront, tmp_path: Path) -> Iterator[Google]:
    with Google(front, tmp_path) as google:
        front.accepts = google.accepts
        yield google


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"GCP_PROJECT": "mine", "GOOGLE_CLOUD_PROJECT": "another"}, "mine"),
        ({"GOOGLE_CLOUD_PROJECT": "another"}, "another"),
        ({"GCP_PROJECT": "", "GOOGLE_CLOUD_PROJECT": "another"}, "another"),
        ({"GCP_PROJECT": ""}, "test-project"),  # as compose.yaml sends it
        ({}, "test-project"),
    ],
)
def test_where_it_is_taken_from(
    cli: Cli, google: Google, front: GcsFront, bucket: str, named: dict[str, str], expected: str
) -> None:
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", **{**google.environment, **named})
    assert done.returncode == 0, done.stderr
    assert front.projects == [expected]


def test_none_at_all_is_one_line(cli: Cli, google: Google, front: GcsFront, bucket: str) -> None:
    google.project = None
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", **google.environment)
    assert done.returncode == 1 and not front.has_bucket(bucket)
    assert "Required parameter: project" in done.stderr and "(GCP_PROJECT)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bucket_that_is_there_needs_none(cli: Cli, google: Google, front: GcsFront, bucket: str) -> None:
    google.project = None
    front.create_bucket(bucket)
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", **google.environment)
    assert done.returncode == 0, done.stderr


def test_an_emulator_needs_none(cli: Cli, front: GcsFront, bucket: str) -> None:
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 0 and front.has_bucket(bucket)


def test_a_key_file_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    fields = {
        "type": "service_account", "project_id": "of-the-key", "private_key_id": "1", "private_key": key.decode(),
        "client_email": "a@example.com", "token_uri": "https://oauth2.googleapis.com/token",
    }  # fmt: skip
    (tmp_path / "key.json").write_text(json.dumps(fields))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    assert project() == "of-the-key"
    monkeypatch.setenv("GCP_PROJECT", "mine")
    assert project() == "mine"
