"""The image as docs/kubernetes.md runs it: a plain user, nothing granted, a root file system that is read-only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from support.containers import IMAGE, docker, members, options
from support.fake_gcs import GcsFront
from support.program import ROOT

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("image")]
LOCKED = ("--user", "1000:1000", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@pytest.mark.parametrize("tmp", [(), ("--tmpfs", "/tmp")], ids=["nothing is writable", "with /tmp"])
def test_the_whole_job_into_a_bucket(front: GcsFront, bucket: str, tmp: tuple[str, ...]) -> None:
    where = options(front, bucket, SPOTTED_VIA="api")
    checked = docker("run", "--rm", *LOCKED, *tmp, *where, IMAGE, "--all", "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = docker("run", "--rm", *LOCKED, *tmp, *where, IMAGE, "--all")
    assert (done.returncode, done.stdout.count("complete")) == (0, 3), done.stderr
    assert {name.partition("/")[0] for name in members(front, bucket)} == {"stanford", "tsinghua", "austin"}
    again = docker("run", "--rm", *LOCKED, *tmp, *where, IMAGE, "--all", "--verify")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_whole_job_into_a_volume(tmp_path: Path, workers: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    spread = ("--workers", workers) if workers != "0" else ()
    run = ["run", "--rm", "--network", "host", *LOCKED, "--volume", f"{data}:/data", IMAGE, "--sample", "--to", "/data"]
    done = docker(*run, *spread)
    assert (done.returncode, done.stdout.count("complete")) == (0, 3), done.stderr
    assert (data / "stanford/Images").is_dir() and (data / "_extraction/stanford/card.html").stat().st_uid == 1000


def test_the_manifest_asks_for_no_more_than_is_tried_here() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.DOTALL)
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (1000, 1000)
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert container["args"][:2] == ["--all", "--to"] and container["args"][3:5] == ["--via", "api"]
    assert [each["mountPath"] for each in container["volumeMounts"]] == ["/tmp"]
