"""docker-shell.sh from a clean checkout on the real engine, and what it asks Docker for."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from support.containers import DOCKER, FUSE, IMAGE, docker, members, wait_until
from support.fake_gcs import GcsFront
from support.program import ROOT

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("image")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a clone of this state of the repository has, in a folder whose name has a space."""
    state = git("stash", "create").decode().strip() or "HEAD"  # with what is not committed yet
    folder = tmp_path / "a clean checkout"
    with tarfile.open(fileobj=io.BytesIO(git("archive", state))) as archive:
        archive.extractall(folder, filter="data")
    shutil.copy(os.environ["BUILD_CA"], folder / "docker")
    return folder


def git(*arguments: str) -> bytes:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    return subprocess.run(["git", *identity, *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def shell(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "docker-shell.sh", *arguments], cwd=checkout, env=clean(environment), capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=600, check=False,
    )  # fmt: skip


def clean(more: dict[str, str]) -> dict[str, str]:
    """This environment without what names a cloud; the engine of the tests has no network of its own."""
    named = ("SPOTTED_", "GCS_", "GCP_", "GOOGLE_", "CLOUDSDK_", "REQUESTS_CA", "SSL_CERT", "CURL_CA")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(named)}
    return {**kept, "IMAGE": f"{IMAGE}-shell", "DOCKER_RUN_ARGS": "--network host", **more}


def asked(checkout: Path, *arguments: str, **environment: str) -> list[list[str]]:
    """The command lines that docker gets, each as a list of its arguments."""
    teller = checkout.parent / "docker says"
    teller.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" --end--\n")
    teller.chmod(0o755)
    done = shell(checkout, *arguments, DOCKER=str(teller), DOCKER_BUILD_ARGS="", DOCKER_RUN_ARGS="", **environment)
    assert done.returncode == 0, done.stderr
    return [part.splitlines() for part in done.stdout.split("--end--\n") if part]


def has(line: list[str], *wanted: str) -> bool:
    return any(tuple(line[at : at + len(wanted)]) == wanted for at in range(len(line)))


def test_the_sample_from_a_clean_checkout_ends_complete(front: GcsFront, bucket: str, checkout: Path) -> None:
    done = shell(checkout, "--sample", "--to", f"gs://{bucket}", STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("complete") == 3
    assert f"gs://{bucket}: writing through the mount at /gcs/{bucket}" in done.stderr
    assert {name.partition("/")[0] for name in members(front, bucket)} == {"stanford", "tsinghua", "austin"}


def test_configured_by_a_file_and_a_key_that_only_its_owner_may_read(
    front: GcsFront, bucket: str, checkout: Path
) -> None:
    key = checkout / "a key.json"
    key.write_text("{}")
    key.chmod(stat.S_IRUSR)
    text = f"# the bucket\nGCS_BUCKET='{bucket}'\nexport STORAGE_EMULATOR_HOST=\"{front.url}\"\nGCS_REGION=europe-west4"
    (checkout / ".env").write_text(text)
    name = bucket  # of the container, too
    front.delay = 0.2
    with subprocess.Popen(
        ["sh", "docker-shell.sh", "--sample"], cwd=checkout, stderr=subprocess.PIPE, text=True,
        env=clean({"GOOGLE_APPLICATION_CREDENTIALS": str(key), "DOCKER_RUN_ARGS": f"--network host --name {name}"}),
    ) as process:  # fmt: skip
        wait_until(lambda: sum(front.puts.values()) > 3 or process.poll() is not None)
        inspected = docker("inspect", name)
        front.delay = 0
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    (running,) = json.loads(inspected.stdout)
    granted = running["HostConfig"]
    assert (granted["Privileged"], granted["CapAdd"]) == (False, ["SYS_ADMIN"])
    assert [device["PathOnHost"] for device in granted["Devices"]] == ["/dev/fuse"]
    assert [(each["Source"], each["RW"]) for each in running["Mounts"]] == [(str(key), False)]
    assert front.created[0]["location"].lower() == "europe-west4"
    assert "stanford/Images/" in members(front, bucket)
    assert "a key" not in docker("history", "--no-trunc", f"{IMAGE}-shell").stdout


def test_a_shell_on_a_terminal(checkout: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["sh", "docker-shell.sh"], cwd=checkout, env=clean({}), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, b"python cli.py --version; exit 7\n")
        said = b""
        try:
            while more := os.read(ours, 65536):
                said += more
        except OSError:  # EIO: the other end is closed
            pass
        os.close(ours)
        assert process.wait(60) == 7
    assert b"spotted-data-extraction 1.0.0" in said


def test_what_docker_is_asked_for(checkout: Path) -> None:
    build, run = asked(checkout, "-a", "--to", "gs://b b", "it's", GCP_PROJECT="my project", SPOTTED_WRITE_RATE="9")
    assert build == ["build", "--tag", f"{IMAGE}-shell", "."]
    assert run[:2] == ["run", "--rm"]
    assert run[run.index(f"{IMAGE}-shell") + 1 :] == ["-a", "--to", "gs://b b", "it's"]
    assert has(run, *FUSE) and "--privileged" not in run and "--tty" not in run
    assert all(has(run, "--env", name) for name in ("SPOTTED_TO", "GCP_PROJECT", "SPOTTED_WRITE_RATE"))
    _, run = asked(checkout, "-a", PRIVILEGED="1")
    assert "--privileged" in run and "--cap-add" not in run
    _, run = asked(checkout, "-a", NO_FUSE="1")
    assert "--privileged" not in run and "--cap-add" not in run


def test_a_login_certificates_and_proxies_reach_the_container(checkout: Path) -> None:
    login = checkout.parent / "gcloud/application_default_credentials.json"
    login.parent.mkdir()
    login.write_text("{}")
    ca = checkout.parent / "ca.pem"
    ca.write_text("certificates")
    _, run = asked(checkout, CLOUDSDK_CONFIG=str(login.parent), CURL_CA_BUNDLE=str(ca), https_proxy="http://proxy:3128")
    assert has(run, "--volume", f"{login}:/run/secrets/key.json:ro")
    assert has(run, "--env", "GOOGLE_APPLICATION_CREDENTIALS=/run/secrets/key.json")
    assert has(run, "--volume", f"{ca}:/run/secrets/ca.crt:ro") and has(
        run, "--env", "SSL_CERT_FILE=/run/secrets/ca.crt"
    )
    assert has(run, "--env", "https_proxy")
    key = checkout / "key.json"
    key.write_text("{}")
    _, run = asked(checkout, CLOUDSDK_CONFIG=str(login.parent), GOOGLE_APPLICATION_CREDENTIALS=str(key))
    assert has(run, "--volume", f"{key}:/run/secrets/key.json:ro") and not [each for each in run if str(login) in each]


def test_compose_passes_on_the_same(checkout: Path) -> None:
    given = {
        "SSL_CERT_FILE": "/a/ca.pem",
        "https_proxy": "http://proxy:3128",
        "NO_PROXY": "inner",
        "GCS_BUCKET": "mine",
    }
    compose = [DOCKER, "compose", "--profile", "run", "config", "--format", "json"]
    done = subprocess.run(compose, cwd=checkout, env=clean(given), capture_output=True, text=True, check=True)
    services = json.loads(done.stdout)["services"]
    for name in ("worker", "extract"):
        environment = services[name]["environment"]
        assert environment["SSL_CERT_FILE"] == "/run/secrets/ca.crt" and environment["REQUESTS_CA_BUNDLE"] == ""
        assert (environment["HTTPS_PROXY"], environment["NO_PROXY"]) == ("http://proxy:3128", "inner")
        assert "/a/ca.pem" in [volume["source"] for volume in services[name]["volumes"]]
    assert services["extract"]["environment"]["SPOTTED_TO"] == "gs://mine"


def test_the_environment_wins_over_the_file(checkout: Path) -> None:
    (checkout / ".env").write_text("PRIVILEGED=1\nIMAGE=from-the-file\n")
    build, run = asked(checkout, PRIVILEGED="")
    assert build[-2] == f"{IMAGE}-shell" and "--privileged" not in run
    (checkout / ".env").write_text("PRIVILEGED=1\n")
    _, run = asked(checkout)
    assert "--privileged" in run


def test_a_key_file_that_is_not_there_is_one_line(checkout: Path) -> None:
    done = shell(checkout, "-a", GOOGLE_APPLICATION_CREDENTIALS="no key.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "GOOGLE_APPLICATION_CREDENTIALS: no key.json: no such file; give a service account's key file, or unset it\n"
    )
