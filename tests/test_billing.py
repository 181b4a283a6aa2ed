"""Who pays for the requests, and what a new bucket gets: storage class, encryption key; what that costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import costs
from commands.command_line import parse
from errors import UsageError
from gcs import Destination, open_bucket
from storage.bucket import Terms
from storage.resumable_upload import CHUNK_BYTES
from support.fake_gcs import GcsFront
from support.fake_google import Google
from support.program import Cli, message

KEY = "projects/p/locations/us-central1/keyRings/ring/cryptoKeys/key"
PAYER = ("--billing-project", "payer")


@pytest.fixture
def google(front: GcsFront, tmp_path: Path) -> Iterator[Google]:
    with Google(front, tmp_path) as google:
        front.accepts = google.accepts
        yield google


@pytest.fixture
def paid(front: GcsFront, bucket: str) -> str:
    """A bucket whose requests must name who pays."""
    front.create_bucket(bucket)
    front.requester_pays.add(bucket)
    return f"gs://{bucket}"


# ── who pays ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("commands", [("--check", "--plan", "", "--verify", "--repair"), ("--workers 2",)])
def test_every_request_of_a_job_names_who_pays(
    cli: Cli, front: GcsFront, google: Google, paid: str, commands: tuple[str, ...]
) -> None:
    for command in commands:
        done = cli("-d", "oxford", "--sample", "--to", paid, *PAYER, *command.split(), **google.environment)
        assert done.returncode == 0, done.stdout + done.stderr
    assert front.payers == {"payer"} and front.counts["json.upload"] and front.counts["xml.put"]


def test_requests_of_every_kind(front: GcsFront, bucket: str, paid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    there = open_bucket(Destination(paid, terms=Terms("payer")))
    there.ready()
    there.put("large", iter([b"1" * CHUNK_BYTES, b"2"]))
    there.put("folder/", b"")
    there.put("small", b"1")
    assert there.get("small") == b"1" and len(list(there.list(""))) == 3
    with there.lease("lock"):
        there.delete(["large", "folder/", "small"])
    assert front.payers == {"payer"} and front.objects(bucket) == {}
    assert {"json.resumable", "json.chunk", "json.upload", "json.delete"} < front.counts.keys()


def test_an_emulator_gets_the_project_too(cli: Cli, front: GcsFront, paid: str) -> None:
    done = cli("-d", "stanford", "--sample", "--to", paid, *PAYER, STORAGE_EMULATOR_HOST=front.url)
    assert (done.returncode, front.payers) == (0, {"payer"}), done.stderr


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({"GOOGLE_CLOUD_QUOTA_PROJECT": "quota"}, (), "quota"),
        ({"GOOGLE_CLOUD_QUOTA_PROJECT": "quota", "SPOTTED_BILLING_PROJECT": "mine"}, (), "mine"),
        ({"GOOGLE_CLOUD_QUOTA_PROJECT": "quota"}, PAYER, "payer"),
    ],
)
def test_where_it_is_taken_from(
    cli: Cli,
    front: GcsFront,
    google: Google,
    paid: str,
    environment: dict[str, str],
    options: tuple[str],
    expected: str,
) -> None:
    done = cli("-d", "stanford", "--sample", "--to", paid, *options, **google.environment, **environment)
    assert (done.returncode, front.payers) == (0, {expected}), done.stderr


@pytest.mark.parametrize("command", [(), ("--verify",), ("--check",)])
def test_where_nothing_is_given_one_line_says_what_to_give(
    cli: Cli, google: Google, paid: str, command: tuple[str, ...]
) -> None:
    done = cli("-d", "stanford", "--sample", "--to", paid, *command, **google.environment)
    assert done.returncode == 1 and "requester pays" in done.stdout + done.stderr
    assert "--billing-project" in (done.stdout if command == ("--check",) else message(done))


def test_a_project_that_may_not_be_billed(cli: Cli, front: GcsFront, google: Google, paid: str) -> None:
    front.foreign_projects.add("payer")
    done = cli("-d", "stanford", "--sample", "--to", paid, *PAYER, **google.environment)
    assert done.returncode == 1
    assert "may not have a project billed: grant it roles/serviceusage.serviceUsageConsumer" in message(done)


# ── what a new bucket gets ───────────────────────────────────────────────────────────────────────


def test_a_new_bucket_has_the_class_and_the_key(cli: Cli, front: GcsFront, google: Google, bucket: str) -> None:
    terms = ("--storage-class", "NEARLINE", "--kms-key", KEY)
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", *terms, **google.environment)
    assert done.returncode == 0, done.stderr
    (asked,) = front.created
    assert (asked["storageClass"], asked["encryption"]) == ("NEARLINE", {"defaultKmsKeyName": KEY})


def test_one_without_them_asks_for_neither(cli: Cli, front: GcsFront, google: Google, bucket: str) -> None:
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", **google.environment)
    assert done.returncode == 0 and not {"storageClass", "encryption"} & front.created[0].keys()


def test_one_that_is_there_keeps_its_own_and_a_line_says_how_that_is_changed(
    cli: Cli, front: GcsFront, google: Google, bucket: str
) -> None:
    front.create_bucket(bucket)
    front.described = {"storageClass": "COLDLINE", "encryption": {"defaultKmsKeyName": KEY}}
    where = ("-d", "stanford", "--sample", "--to", f"gs://{bucket}", "--kms-key", KEY)
    done = cli(*where, "--storage-class", "NEARLINE", **google.environment)
    assert done.returncode == 0
    assert "exists, and new objects get its own storage class (COLDLINE)" in done.stderr
    assert f"gcloud storage buckets update gs://{bucket} --default-storage-class=NEARLINE" in done.stderr
    assert "encryption key" not in done.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--kms-key", "key"), "expected projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY, got 'key'"),
        ((*PAYER[:1], "a\nb"), r"expected the ID of a project, got 'a\nb'"),
        (("--storage-class", "cold"), "invalid choice: 'cold'"),
    ],
)
def test_wrong_values(cli: Cli, options: tuple[str, ...], expected: str) -> None:
    done = cli("-a", *options)
    assert done.returncode == 2 and expected in done.stderr


def test_a_wrong_quota_project_is_named() -> None:
    with pytest.raises(UsageError, match="GOOGLE_CLOUD_QUOTA_PROJECT: expected the ID of a project, got 'My Project'"):
        parse(["-a"], {"GOOGLE_CLOUD_QUOTA_PROJECT": "My Project"})


# ── what it costs ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("storage_class", costs.PRICES)
def test_the_plan_has_the_prices_of_the_class(cli: Cli, front: GcsFront, bucket: str, storage_class: str) -> None:
    where = ("-a", "--sample", "--plan", "--to", f"gs://{bucket}")
    options = (*where, "--storage-class", storage_class)
    if storage_class == "COLDLINE":  # of a bucket that is there
        front.create_bucket(bucket)
        front.described = {"storageClass": storage_class}
        options = (*where, "--storage-class", "ARCHIVE")
    done = cli(*options, "--log-format", "json", STORAGE_EMULATOR_HOST=front.url)
    plan = json.loads(done.stdout.splitlines()[-1])
    a, b = int(plan["api"]["class_a"]), int(plan["api"]["class_b"])
    assert plan["storage_class"] == storage_class
    assert plan["api"]["dollars"] == round(costs.dollars(a, b, storage_class=storage_class), 4)
    said = cli(*options, STORAGE_EMULATOR_HOST=front.url).stdout
    price = costs.PRICES[storage_class]
    assert (f"is charged for {price.days} days at least" in said) == (storage_class != "STANDARD")
