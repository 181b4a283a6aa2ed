"""The image on the real engine: what Google's buckets and logins ask of it, and a mount as its users see it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import requests

from support.containers import DOCKER, FUSE, IMAGE, docker, options
from support.fake_gcs import GcsFront
from support.program import ROOT

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("image")]


@pytest.mark.parametrize("via", ["api", "mount"])
def test_a_mount_with_gcsfuses_defaults_shows_all_folders_and_json_is_json(
    front: GcsFront, bucket: str, via: str
) -> None:
    at = f"/gcs/{bucket}"
    mount = f"gcsfuse --anonymous-access --custom-endpoint {front.url}/storage/v1/ {bucket} {at}"
    script = (
        f"python cli.py -d austin && mkdir -p {at} && {mount} >/dev/null && LC_ALL=C ls {at} {at}/_extraction/austin"
    )
    done = docker("run", "--rm", *FUSE, *options(front, bucket, SPOTTED_VIA=via), IMAGE, "bash", "-ec", script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{at}:\n_extraction\naustin\n" in done.stdout and "\nmanifest.csv\n" in done.stdout
    listed = requests.get(f"{front.url}/storage/v1/b/{bucket}/o?prefix=austin/annotations/1", timeout=60).json()[
        "items"
    ]
    assert {each["contentType"] for each in listed} == {"application/json"}


def test_a_mount_that_is_kept(front: GcsFront, bucket: str) -> None:
    at = f"/gcs/{bucket}"
    run = "python cli.py -d stanford"
    script = f"{run} --keep-mount && ls {at}/stanford && {run} && fusermount3 -u {at}"
    done = docker("run", "--rm", *FUSE, *options(front, bucket), IMAGE, "bash", "-ec", script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nAnnotation\nImages\nlists\n" in done.stdout
    assert f"stays mounted at {at}; to unmount it: fusermount3 -u {at}" in done.stderr


@pytest.mark.parametrize("via", ["api", "mount"])
def test_a_bucket_whose_requester_pays(front: GcsFront, bucket: str, via: str) -> None:
    """GCSFuse's requests too."""
    front.create_bucket(bucket)
    front.requester_pays.add(bucket)
    environment = options(front, bucket, SPOTTED_VIA=via, SPOTTED_BILLING_PROJECT="payer")
    done = docker("run", "--rm", *FUSE, *environment, IMAGE, "-d", "stanford")
    assert (done.returncode, front.payers) == (0, {"payer"}), done.stderr


def test_a_login_of_gcloud_that_is_mounted(front: GcsFront, bucket: str, tmp_path: Path) -> None:
    """Only its owner may read it, and the tool runs as another user."""
    login = tmp_path / "application_default_credentials.json"
    login.write_text(
        json.dumps({"type": "authorized_user", "client_id": "1", "client_secret": "2", "refresh_token": "3"})
    )
    login.chmod(0o600)
    show = "from storage.credentials import credentials_and_origin; print(credentials_and_origin()[0].refresh_token)"
    mounted = ("--volume", f"{tmp_path}:/root/.config/gcloud:ro")
    assert docker("run", "--rm", *mounted, IMAGE, "python", "-c", show).stdout == "3\n"
    done = docker("run", "--rm", "--network", "none", IMAGE, "-d", "stanford", "--sample", "--to", f"gs://{bucket}")
    assert "in this container, mount the login: --volume ~/.config/gcloud:/root/.config/gcloud:ro" in done.stderr


@pytest.mark.parametrize("folder", ["CLOUDSDK_CONFIG", "HOME"])
def test_compose_mounts_the_login(tmp_path: Path, folder: str) -> None:
    plugins = os.environ.get("DOCKER_CONFIG", f"{os.environ['HOME']}/.docker")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "DOCKER_CONFIG": plugins,
        folder: str(tmp_path),
    }
    shown = subprocess.run([DOCKER, "compose", "--profile", "run", "config", "--format", "json"], cwd=ROOT, text=True,
                           env=environment, capture_output=True, check=True)  # fmt: skip
    source = tmp_path if folder == "CLOUDSDK_CONFIG" else tmp_path / ".config/gcloud"
    for name in ("worker", "extract"):
        volumes = json.loads(shown.stdout)["services"][name]["volumes"]
        assert (str(source), "/root/.config/gcloud") in {(each["source"], each["target"]) for each in volumes}
