"""Buckets with a hierarchical namespace: how they are made and recognised, their rate, and folders without objects."""

from __future__ import annotations

import json

import pytest
import requests
from google.auth.credentials import AnonymousCredentials

from commands import costs
from gcs import Destination, open_bucket, ready
from storage.api import ApiBucket
from storage.bucket import Terms
from storage.rate_limit import WriteLimits
from support.fake_gcs import GcsFront
from support.program import Cli


@pytest.fixture
def url(front: GcsFront, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    return f"gs://{bucket}"


@pytest.fixture
def hierarchical(front: GcsFront, bucket: str, url: str) -> str:
    front.create_bucket(bucket)
    front.hierarchical.add(bucket)
    return url


def placeholders(front: GcsFront) -> list[str]:
    return [name for name in front.puts if name.endswith("/")]


@pytest.mark.parametrize(
    "how", [("--hierarchical", {}), ("", {"SPOTTED_HIERARCHICAL": "1"}), ("", {"GCS_HIERARCHICAL": "1"})]
)
def test_a_new_bucket(cli: Cli, front: GcsFront, url: str, how: tuple[str, dict[str, str]]) -> None:
    options = [how[0]] if how[0] else []
    done = cli("-a", "--sample", "--to", url, *options, STORAGE_EMULATOR_HOST=front.url, **how[1])
    assert done.returncode == 0 and "with a hierarchical namespace" in done.stderr
    assert front.created[-1]["hierarchicalNamespace"] == {"enabled": True}
    assert front.created[-1]["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"]
    assert placeholders(front) == []


def test_one_that_is_there_needs_no_option(cli: Cli, front: GcsFront, hierarchical: str) -> None:
    done = cli("-a", "--sample", "--to", hierarchical, STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 0 and "8 times the initial write rate" in done.stderr and placeholders(front) == []
    for look in (["--verify"], ["--repair"], []):
        assert cli("-a", "--sample", "--to", hierarchical, *look, STORAGE_EMULATOR_HOST=front.url).returncode == 0
    assert placeholders(front) == []


def test_a_flat_one_stays_flat_and_is_missed_for_it(cli: Cli, front: GcsFront, bucket: str, url: str) -> None:
    front.create_bucket(bucket)
    done = cli("-d", "stanford", "--sample", "--hierarchical", "--to", url, STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 0 and "exists without a hierarchical namespace" in done.stderr
    assert "stanford/" in placeholders(front)


@pytest.mark.parametrize("denied", [[], ["json.bucket.get"]], ids=["by its description", "by its layout"])
def test_how_it_is_recognised(front: GcsFront, hierarchical: str, denied: list[str]) -> None:
    front.deny(*denied)
    with ready(Destination(hierarchical), "api") as opened:
        assert opened.destination.terms.is_hierarchical and opened.bucket.has_folders
    assert front.counts["json.bucket.layout"] == len(denied)


def test_a_layout_that_may_not_be_read_either_is_taken_for_a_flat_one(front: GcsFront, hierarchical: str) -> None:
    front.deny("json.bucket.get", "json.bucket.layout")
    with ready(Destination(hierarchical), "api") as opened:
        assert not opened.destination.terms.is_hierarchical and not opened.bucket.has_folders


def test_a_worker_asks_nothing(front: GcsFront, hierarchical: str) -> None:
    with ready(Destination(hierarchical), "api") as opened:
        front.reset()
        open_bucket(opened.destination).put("a", b"1")
    assert front.counts.keys() == {"xml.put"}


def test_it_begins_at_8000_writes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr("storage.api.credentials_and_origin", lambda _: (AnonymousCredentials(), ""))
    assert ApiBucket("abc", terms=Terms(is_hierarchical=True)).limiter.rate() == pytest.approx(8000, rel=0.01)
    assert ApiBucket("abc", limits=WriteLimits(500), terms=Terms(is_hierarchical=True)).limiter.rate() == pytest.approx(
        500, rel=0.01
    )


def test_the_plan_has_its_rate_its_prices_and_no_placeholders(cli: Cli, front: GcsFront, bucket: str, url: str) -> None:
    def plan(*options: str) -> dict[str, dict[str, float]]:
        where = ("--plan", "--log-format", "json", "-a", "--sample", "--to", url)
        done = cli(*where, *options, STORAGE_EMULATOR_HOST=front.url)
        assert done.returncode == 0, done.stderr
        found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
        return found

    flat, new = plan(), plan("--hierarchical")
    assert front.created == []
    front.create_bucket(bucket)
    assert plan("--hierarchical") == flat  # it is there already, and is flat
    front.hierarchical.add(bucket)
    assert plan() == new
    rates: list[object] = [each["objects_a_second"] for each in (flat, new)]
    assert rates == [1000, 8000]
    assert new["api"]["class_a"] == flat["api"]["class_a"] - 20
    calls = int(new["api"]["class_a"]), int(new["api"]["class_b"])
    assert round(costs.dollars(*calls), 4) < new["api"]["dollars"] == round(costs.dollars(*calls, True), 4)


def test_plan_says_so(cli: Cli, front: GcsFront, hierarchical: str) -> None:
    done = cli("--plan", "-a", "--sample", "--to", hierarchical, STORAGE_EMULATOR_HOST=front.url)
    assert "hierarchical namespace" in done.stderr and "8,000 objects/s" in done.stdout


# ── what the tests' server refuses ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "more", [{}, {"iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}}, "versioning": {"enabled": True}}]
)
def test_it_goes_with_uniform_access_and_without_versions(
    front: GcsFront, bucket: str, more: dict[str, object]
) -> None:
    asked = {"name": bucket, "hierarchicalNamespace": {"enabled": True}, **more}
    assert requests.post(f"{front.url}/storage/v1/b", json=asked, timeout=10).status_code == 400
    assert not front.has_bucket(bucket)
