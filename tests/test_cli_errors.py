"""What goes wrong is one line that says what and where, and an exit status."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from pathlib import Path

from sources import sample
from storage.names import PARTIAL_PREFIX
from support.archives import some_members, tar_of
from support.miniature import sums
from support.program import Cli, command, message
from support.source_server import Plan, SourceServer


def test_no_credentials_is_one_line_and_who_is_silent_is_asked_twice_for_them(cli: Cli, mirror: SourceServer) -> None:
    mirror.plan("/", Plan(stall=60))
    here = mirror.url.removeprefix("http://")  # in place of the metadata server, which Google's own machines have
    begin = time.monotonic()
    done = cli("-a", "--sample", "--to", "gs://spot-raw-data", GCE_METADATA_IP=here, GCE_METADATA_HOST=here)
    assert time.monotonic() - begin < 30 and [request.path for request in mirror.requests] == ["/", "/"]
    assert done.returncode == 1
    assert "gcloud auth application-default login" in message(done)


def test_an_unreachable_source(cli: Cli, tmp_path: Path) -> None:
    done = cli("-d", "stanford", "--mirror", "http://127.0.0.1:9", "--to", tmp_path / "out")
    assert done.returncode == 1
    assert "Connection refused" in message(done) and "http://127.0.0.1:9/" in message(done)


def test_a_web_page_instead_of_an_archive(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/low-resolution.zip"] = sample.HTML
    done = cli("-b", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 1
    assert f"{mirror.url}/low-resolution.zip: expected a file, got an HTML page" in message(done)
    states = [line.split()[:2] for line in done.stdout.splitlines()[1:]]
    assert states == [["stanford", "complete"], ["tsinghua", "failed"]]


def test_the_published_pins_hold_for_a_mirror_without_its_own(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    del mirror.files["/SHA256SUMS"]
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 1
    assert "images.tar: expected 793,579,520 bytes, got " in message(done)


def test_a_checksum_that_differs(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/SHA256SUMS"] = re.sub(rb"^.{64}", b"0" * 64, mirror.files["/SHA256SUMS"])
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 1
    assert f"images.tar: expected sha256 {'0' * 64}, got " in message(done)


def test_a_truncated_archive(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/lists.tar"] = mirror.files["/lists.tar"][:1000]
    mirror.files["/SHA256SUMS"] = b""
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 1
    assert re.search(r"lists.tar: .*(cut off|end of the file)", message(done))


def test_hostile_members(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/lists.tar"] = tar_of([("../../evil", b"1"), ("/abs", b"2"), ("good.mat", b"3")])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "deep" / "out")
    assert done.returncode == 3
    assert "stanford: missing stanford/lists/../../evil: a name that leads out of its folder" in done.stderr
    assert "stanford: missing stanford/lists/abs: an absolute name" in done.stderr
    assert (tmp_path / "deep/out/stanford/lists/good.mat").read_bytes() == b"3"
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil", "abs")] and not Path("/abs").exists()


def test_a_destination_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    done = cli("-a", "--sample", "--to", "/proc/spotted")
    assert done.returncode == 1 and "/proc/spotted: expected a directory that can be written" in message(done)


def test_a_full_disk(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    full = tmp_path / "full"
    full.mkdir()
    mirror.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in some_members(300, 20_000)])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    inside = shlex.join(command("-d", "stanford", "--mirror", mirror.url, "--to", full))
    script = (
        f"mount -t tmpfs -o size=1m tmpfs {shlex.quote(str(full))} && {inside}; status=$?; ls -AR {full}; exit $status"
    )
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "No space left on device" in message(done)
    assert "stanford" in done.stdout and PARTIAL_PREFIX not in done.stdout


def test_too_many_photos_gone_is_incomplete(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    for path in [path for path in mirror.files if path.endswith("_0.png")]:
        del mirror.files[path]
    done = cli("-i", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[1].split()[:2] == ["austin", "incomplete"]
    assert not (tmp_path / "out/_extraction/austin/manifest.csv").exists()
