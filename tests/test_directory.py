"""A directory destination that others may write to: links, pipes and files without rights lead nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from errors import BucketError, MemberError
from storage.directory import MAX_OPEN_FOLDERS, FolderBucket
from storage.names import PARTIAL_PREFIX
from support.program import Cli, clean_environment, command, files_under

STANFORD = ("-d", "stanford", "--sample")
PHOTO = "stanford/Images"


@pytest.fixture
def out(cli: Cli, tmp_path: Path) -> Path:
    """A directory with a complete dataset."""
    assert cli(*STANFORD, "--to", tmp_path / "out").returncode == 0
    return tmp_path / "out"


def some_file(out: Path, number: int = 0) -> Path:
    return sorted(path for path in (out / PHOTO).rglob("*") if path.is_file())[number]


# ── links ────────────────────────────────────────────────────────────────────────────────────────


def test_a_link_in_the_place_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/a/b").symlink_to(tmp_path / "elsewhere")
    bucket = FolderBucket(tmp_path / "out")
    for name in ("a/b/c", "a/b/c/d"):
        with pytest.raises(MemberError, match="a symbolic link lies where its folder should"):
            bucket.put(name, b"1")
    with pytest.raises(BucketError, match="a/b/: cannot be listed: a symbolic link"):
        list(bucket.list("a/b/"))
    with pytest.raises(BucketError, match="a/b/c: cannot be removed: a symbolic link"):
        bucket.delete(["a/b/c"])
    assert bucket.get("a/b/c") is None and files_under(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize("change", ["removed", "moved", "link"])
def test_a_folder_that_changes_between_two_writes_gets_no_more_files(change: str, tmp_path: Path) -> None:
    bucket, folder, away = FolderBucket(tmp_path / "out"), tmp_path / "out/a/b", tmp_path / "away"
    bucket.put("a/b/1", b"1")
    folder.rename(away)
    if change == "removed":
        shutil.rmtree(away)
    if change == "link":
        folder.symlink_to(away)
        with pytest.raises(MemberError, match="a symbolic link lies where its folder should"):
            bucket.put("a/b/2", b"2")
    else:
        bucket.put("a/b/2", b"2")
        assert files_under(folder) == {"2": b"2"}
    assert files_under(away) == ({} if change == "removed" else {"1": b"1"})


def test_folders_are_open_only_while_they_are_written_to(tmp_path: Path) -> None:
    bucket, before = FolderBucket(tmp_path), len(os.listdir("/proc/self/fd"))
    for number in range(100):
        bucket.put(f"a/{number}/b/1", b"1")
    assert len(os.listdir("/proc/self/fd")) <= before + MAX_OPEN_FOLDERS
    bucket.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_in_the_place_of_a_file_is_replaced_and_what_it_names_is_not(cli: Cli, out: Path) -> None:
    victim, photo = out.parent / "victim", some_file(out)
    right = photo.read_bytes()
    victim.write_bytes(bytes(len(right)))
    photo.unlink()
    photo.symlink_to(victim)
    done = cli(*STANFORD, "--verify", "--to", out)
    assert done.returncode == 3 and "the bucket lists something that is no plain file" in done.stderr
    assert cli(*STANFORD, "--to", out).returncode == 0
    assert not photo.is_symlink() and photo.read_bytes() == right and victim.read_bytes() == bytes(len(right))


def test_the_directory_itself_may_be_a_link(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert cli(*STANFORD, "--to", tmp_path / "out").returncode == 0
    assert (tmp_path / "real/_extraction/stanford/manifest.csv").is_file()


HOOK = """
import os, sys
log = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & os.O_CREAT:
        os.write(log, f"{arguments[0]} {arguments[2]}\\n".encode())
sys.addaudithook(hook)
"""


def test_every_file_is_made_anew_under_a_name_that_cannot_be_guessed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    done = cli(*STANFORD, "--to", tmp_path / "out", PYTHONPATH=str(tmp_path), OPENED=str(tmp_path / "log"))
    assert done.returncode == 0, done.stderr
    opened = [line.rpartition(" ") for line in (tmp_path / "log").read_text().splitlines() if PARTIAL_PREFIX in line]
    assert len(opened) > 40 and len({name for name, _, _ in opened}) == len(opened)
    assert all(int(flags) & os.O_EXCL and int(flags) & os.O_NOFOLLOW for _, _, flags in opened)
    assert min(len(name) for name, _, _ in opened) >= len(PARTIAL_PREFIX) + 24


MOVE = """
import itertools, os, sys
def hook(event, arguments, count=itertools.count(1)):
    if event == "open" and str(arguments[0]).startswith(".spotted-part-") and arguments[2] & os.O_CREAT:
        if next(count) == 20:
            os.rename(os.environ["MOVED"], os.environ["MOVED"] + "-away")
            if os.environ["LINK"]:
                os.symlink(os.environ["MOVED"] + "-away", os.environ["MOVED"])
sys.addaudithook(hook)
"""


@pytest.mark.parametrize(("link", "status"), [("", 0), ("link", 3)])
def test_what_went_into_a_folder_that_was_moved_does_not_count(link: str, status: int, cli: Cli, out: Path) -> None:
    (out.parent / "sitecustomize.py").write_text(MOVE)
    moved = out.parent / "again/stanford/Images"
    done = cli(*STANFORD, "--to", out.parent / "again", PYTHONPATH=str(out.parent), MOVED=str(moved), LINK=link)
    assert done.returncode == status and moved.with_name("Images-away").is_dir()
    if not link:
        assert "objects again, which the listing lacks" in done.stderr and files_under(moved) == files_under(
            out / PHOTO
        )


# ── what is no file, or cannot be read ───────────────────────────────────────────────────────────


@pytest.fixture(params=["pipe", "folder", "socket"])
def no_file(request: pytest.FixtureRequest, out: Path) -> Path:
    """Something else in the place of a photo."""
    photo = some_file(out, 2)
    photo.unlink()
    if request.param == "pipe":
        os.mkfifo(photo)
    elif request.param == "socket":
        os.mknod(photo, 0o140644)
    else:
        photo.mkdir()
    return photo


@pytest.mark.parametrize("deep", [(), ("--deep",)])
def test_what_is_no_file_is_named_and_repaired(cli: Cli, out: Path, no_file: Path, deep: tuple[str, ...]) -> None:
    done = cli(*STANFORD, "--verify", *deep, "--to", out)
    assert done.returncode == 3 and no_file.name in done.stderr
    assert done.stderr.count("stanford: different") + done.stderr.count("stanford: missing") == 1, done.stderr
    if no_file.is_dir():
        no_file.rmdir()
    assert cli(*STANFORD, "--repair", *deep, "--to", out).returncode == 0
    assert no_file.is_file()


def as_its_owner() -> list[str]:
    """What starts a program without root's right to read every file (capabilities(7))."""
    return [] if os.getuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


def test_one_file_that_may_not_be_read_is_one_finding(out: Path) -> None:
    photo = some_file(out, 3)
    right = photo.read_bytes()
    photo.chmod(0)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*as_its_owner(), *command(*STANFORD, *arguments, "--to", out)], text=True, check=False,
                              env=clean_environment(out, {}), capture_output=True)  # fmt: skip

    done = run("--verify", "--deep")
    assert done.returncode == 3 and done.stderr.count("stanford: different") == 1, done.stderr
    assert f"{photo.name}: cannot be read: Permission denied" in done.stderr
    done = run("--repair", "--deep")
    assert done.returncode == 0 and photo.read_bytes() == right, done.stderr
