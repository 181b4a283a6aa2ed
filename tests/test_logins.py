"""Each kind of login that is no key: both libraries write with it, and what is wrong with one is said in a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_gcs import GcsFront
from support.fake_google import Google
from support.fake_tokens import AUDIENCE, REFRESH, SUBJECT, TARGET
from support.program import Cli, message

USER = {"type": "authorized_user", "client_id": "id", "client_secret": "secret", "refresh_token": REFRESH}
IMPERSONATION = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{TARGET}:generateAccessToken"
IMPERSONATED = {
    "type": "impersonated_service_account", "service_account_impersonation_url": IMPERSONATION, "delegates": [],
    "source_credentials": USER,
}  # fmt: skip
WORKLOAD = {
    "type": "external_account", "audience": AUDIENCE, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token", "credential_source": {"file": "token"},
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "a user's": USER,
    "impersonation": IMPERSONATED,
    "workload identity": WORKLOAD,
    "workload identity and impersonation": {**WORKLOAD, "service_account_impersonation_url": IMPERSONATION},
}


@pytest.fixture
def google(front: GcsFront, tmp_path: Path) -> Iterator[Google]:
    (tmp_path / "token").write_text(SUBJECT)
    with Google(front, tmp_path) as google:
        front.accepts = google.accepts
        yield google


def login(google: Google, fields: dict[str, Any]) -> dict[str, str]:
    """What gcloud auth application-default login leaves, in the folder of gcloud's configuration."""
    if "credential_source" in fields:
        fields = {**fields, "credential_source": {"file": str(google.folder / "token")}}
    (google.folder / "application_default_credentials.json").write_text(json.dumps(fields))
    google.tokens.is_intermediate = "service_account_impersonation_url" in fields
    return {**google.environment, "CLOUDSDK_CONFIG": str(google.folder)}


@pytest.mark.parametrize("kind", KINDS)
def test_both_libraries_write_with_it(cli: Cli, front: GcsFront, google: Google, bucket: str, kind: str) -> None:
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", GCP_PROJECT="mine", **login(google, KINDS[kind]))
    assert done.returncode == 0, done.stderr
    assert front.counts["xml.put"] and front.counts["json.upload"] and front.projects == ["mine"]
    hosts = {asked.partition(".")[0] for asked in google.tokens.asked}
    expected = {"oauth2" if "workload" not in kind else "sts"}
    assert hosts == expected | ({"iamcredentials"} if "impersonation" in kind else set())


def test_the_quota_project_of_a_login_pays_for_the_requests_of_both(
    cli: Cli, front: GcsFront, google: Google, bucket: str
) -> None:
    front.create_bucket(bucket)
    front.requester_pays.add(bucket)
    environment = login(google, {**USER, "quota_project_id": "of-the-login"})
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", **environment)
    assert (done.returncode, front.payers) == (0, {"of-the-login"}), done.stderr


@pytest.mark.parametrize(
    ("kind", "wrong", "expected"),
    [
        ("a user's", {"refresh_token": "old"}, "invalid_grant"),
        (
            "workload identity",
            {"audience": "//iam.googleapis.com/another"},
            "The subject token is not of this provider",
        ),
        ("impersonation", {}, "iam.serviceAccounts.getAccessToken"),
    ],
)
def test_one_that_is_refused_is_one_line(
    cli: Cli, google: Google, bucket: str, kind: str, wrong: dict[str, str], expected: str
) -> None:
    google.tokens.may_impersonate = False
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", **login(google, {**KINDS[kind], **wrong}))
    assert done.returncode == 1 and expected in message(done)
