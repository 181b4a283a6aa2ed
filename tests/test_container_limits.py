"""What a container may lack: a disk to write to, threads, a key file that its plain user may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.containers import IMAGE, docker, members, options
from support.fake_gcs import GcsFront

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("image")]
KEY, PLACE = '{"type": "authorized_user"}', "/keys/key.json"
SHOWN = 'key=$GOOGLE_APPLICATION_CREDENTIALS; id -u; cat "$key"; stat -c " %a %u" "$key"; cat /keys/key.json'


def test_roots_key_is_handed_on_and_nothing_runs_as_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "key.json").write_text(KEY)
    place = ["--volume", f"{tmp_path}:/keys"]
    made = "chown 0:0 /keys/key.json && chmod 0600 /keys/key.json"
    assert docker("run", "--rm", *place, "--entrypoint", "sh", "--user", "0", IMAGE, "-c", made).returncode == 0
    environment = ["--env", f"GOOGLE_APPLICATION_CREDENTIALS={PLACE}"]
    done = docker("run", "--rm", *place, *environment, IMAGE, "bash", "-c", SHOWN)
    assert done.stdout == f"1000\n{KEY} 400 1000\n", done.stderr
    assert "/keys/key.json: Permission denied" in done.stderr
    status = (tmp_path / "key.json").stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, 0)  # the container did not become its owner


@pytest.mark.parametrize("start", [(IMAGE,), ("--entrypoint", "python", IMAGE, "/app/cli.py")], ids=["", "by itself"])
def test_a_container_without_a_disk(front: GcsFront, bucket: str, start: tuple[str, ...]) -> None:
    """The image's entrypoint knows a folder in memory; without it the tool finds that, and says so."""
    run = ["run", "--rm", "--read-only", *options(front, bucket, SPOTTED_VIA="api")]
    done = docker(*run, *start, "-d", "stanford")
    assert done.returncode == 0, done.stderr
    said = "no folder for temporary files can be written: they go to /dev/shm" in done.stderr
    assert said == (len(start) > 1)
    assert "_extraction/stanford/manifest.csv" in front.objects(bucket)


@pytest.mark.parametrize("limit", [15, 40, 300])
def test_few_processes_and_threads(front: GcsFront, bucket: str, limit: int) -> None:
    """A real cgroup's: one line, or all is done; and the same command without the limit completes it."""
    run = [*options(front, bucket, SPOTTED_VIA="api"), IMAGE, "-d", "stanford"]
    done = docker("run", "--rm", "--pids-limit", str(limit), *run)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "error: this machine allows no more threads" in done.stderr, done.stderr
    assert docker("run", "--rm", *run).returncode == 0
    assert len(members(front, bucket)) > 30
