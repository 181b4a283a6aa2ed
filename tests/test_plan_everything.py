"""--plan of every dataset into what is empty, half done and complete: never "nothing to do" where something is."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from datasets import DATASETS
from support.fake_gcs import GcsFront
from support.program import Cli

ALL = [option for name in DATASETS for option in ("-d", name)]
NOTHING = "Nothing to do: everything is there."


def plan(cli: Cli, *arguments: str | Path, **environment: str) -> tuple[dict[str, dict[str, Any]], str]:
    """What is planned, by dataset, and what a person reads; it must be the same."""
    read = cli(*ALL, "--sample", "--plan", *arguments, **environment)
    done = cli(*ALL, "--sample", "--plan", "--log-format", "json", *arguments, **environment)
    assert (read.returncode, done.returncode) == (0, 0), done.stderr
    fields = [json.loads(line) for line in done.stdout.splitlines()][:-1]
    assert (NOTHING in read.stdout) == all(each["complete"] for each in fields)
    return {each["dataset"]: each for each in fields}, read.stdout


def check_empty(found: dict[str, dict[str, Any]], text: str) -> None:
    assert all(each["there"] == 0 and each["bytes_to_fetch"] and not each["complete"] for each in found.values())
    assert all(each["to_store"] or not each["counted"] for each in found.values())
    (oxford,) = (line.split() for line in text.splitlines() if line.startswith("oxford"))
    assert oxford[:4] == ["oxford", "unknown", "0", "unknown"] and not found["oxford"]["counted"]


def check_complete(found: dict[str, dict[str, Any]]) -> None:
    assert all(each["complete"] and each["there"] == each["objects"] > 0 for each in found.values())
    assert {(each["to_store"], each["bytes_to_fetch"]) for each in found.values()} == {(0, 0)}


def test_into_a_directory(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_empty(*plan(cli, "--to", out))
    assert not out.exists()
    assert cli(*ALL, "--sample", "--to", out).returncode == 0
    check_complete(plan(cli, "--to", out)[0])
    check_empty(*plan(cli, "--force", "--to", out))
    for name in DATASETS:
        (out / f"_extraction/{name}/manifest.csv").unlink()
    shutil.rmtree(out / "oxford/images")
    found, text = plan(cli, "--to", out)  # as after a run that was killed
    assert not any(each["complete"] for each in found.values())
    assert all(each["bytes_to_fetch"] for each in found.values())
    assert found["tsinghua"]["to_store"] == 0 and found["tsinghua"]["there"] == 14
    assert f"oxford          {found['oxford']['there']} or more" in text


def test_into_a_bucket(cli: Cli, front: GcsFront) -> None:
    to, environment = f"gs://test-{uuid.uuid4().hex[:12]}", {"STORAGE_EMULATOR_HOST": front.url}
    found, text = plan(cli, "--to", to, **environment)
    check_empty(found, text)
    assert "The objects whose number is unknown are left out below." in text and "--via api" in text
    assert cli(*ALL, "--sample", "--to", to, **environment).returncode == 0
    check_complete(plan(cli, "--to", to, **environment)[0])


@pytest.mark.parametrize("name", DATASETS)
def test_one_dataset_alone(cli: Cli, tmp_path: Path, name: str) -> None:
    done = cli("-d", name, "--sample", "--plan", "--to", tmp_path / "out")
    assert done.returncode == 0 and NOTHING not in done.stdout and "It takes about" in done.stdout


def test_a_file_where_the_directory_should_be(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    done = cli("-d", "tsinghua", "--sample", "--plan", "--to", tmp_path / "out")
    assert "cannot tell what is there already: " in done.stderr and "expected a directory, got a file" in done.stderr
    assert done.stdout.splitlines()[1].split()[:3] == ["tsinghua", "14", "unknown"]
