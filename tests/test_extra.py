"""Objects in a dataset's folder that are none of it: all commands say the same of them, and one removes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gcs import Destination, open_bucket
from support.fake_gcs import GcsFront
from support.program import Cli

LEFT = ("stanford/Images/n02085620-Chihuahua/small_1.jpg", "stanford/old/a.jpg", "stanford/old/deep/b.jpg")
SAID = (
    "stanford: 3 objects in its folder are none of the dataset, left by an older version or by other programs:"
    f" {', '.join(LEFT)}; --verify lists them, --repair --remove-extra removes them\n"
)


@pytest.fixture(params=["directory", "bucket", "prefix"])
def to(request: pytest.FixtureRequest, front: GcsFront, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A destination in which an earlier tool left something."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    places = {
        "directory": request.getfixturevalue("tmp_path"),
        "bucket": f"gs://{bucket}",
        "prefix": f"gs://{bucket}/a",
    }
    to = str(places[request.param])
    open_bucket(Destination(to)).ready()
    for name in (*LEFT, "stanford/old/", "stanford/old/deep/"):
        open_bucket(Destination(to)).put(name, b"" if name.endswith("/") else b"1")
    return to


def test_every_command_says_the_same_of_them_and_one_removes_them(cli: Cli, front: GcsFront, to: str) -> None:
    environment = {"STORAGE_EMULATOR_HOST": front.url}
    for look, status in (("-v", 0), ("-v", 0), ("--verify", 3), ("--repair", 3)):
        done = cli("-d", "stanford", "--sample", look, "--to", to, **environment)
        assert (done.returncode, done.stderr.count(SAID)) == (status, 1), done.stderr
        (line,) = re.findall(r"^stanford +complete +(.*)$", done.stdout, re.M)
        assert line.split()[-3] == "3"  # the column "extra"
        listed = re.findall(r"^stanford: extra (\S+): none of the dataset$", done.stderr, re.M)
        assert sorted(listed) == (list(LEFT) if status else [])
    assert "next:  --repair --remove-extra removes" in done.stderr
    done = cli("-d", "stanford", "--sample", "--repair", "--remove-extra", "--to", to, **environment)
    assert done.returncode == 0 and "none of the dataset, left" not in done.stderr, done.stderr
    assert cli("-d", "stanford", "--verify", "--to", to, **environment).returncode == 0
    assert not [
        each.name for each in open_bucket(Destination(to)).list("stanford/") if each.name.startswith("stanford/old")
    ]


def test_what_another_dataset_has_in_the_same_folder_is_kept(cli: Cli, tmp_path: Path) -> None:
    both = ("-d", "tsinghua", "-d", "tsinghua-high")
    assert cli("-d", "tsinghua", "--sample", "--to", tmp_path).returncode == 0
    (tmp_path / "tsinghua/notes.txt").write_bytes(b"mine")
    done = cli(*both, "--sample", "--to", tmp_path)
    assert done.stderr.count("1 objects in its folder are none of the dataset") == 2
    assert cli(*both, "--sample", "--repair", "--remove-extra", "--to", tmp_path).returncode == 0
    assert cli(*both, "--verify", "--to", tmp_path).returncode == 0
    assert not (tmp_path / "tsinghua/notes.txt").exists()
