"""croissant.json is valid by MLCommons' own library, without a warning, and its records are the table's lines."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets import DATASETS, Layout
from manifest.labels.croissant import CONTEXT, FIELDS
from sources import sample
from support.archives import tar_of
from support.bench import Bench
from support.program import ROOT, Cli, clean_environment

CROISSANT_PYTHON = os.environ.get("CROISSANT_PYTHON", str(ROOT / ".cache/croissant/bin/python"))
NAMES = ("stanford", "tsinghua", "tsinghua-high", "austin", "oxford")
# mlcroissant logs its warnings to stderr.
LOAD = """
import json, sys
import mlcroissant
dataset = mlcroissant.Dataset(sys.argv[1])
assert not dataset.metadata.ctx.issues.errors and not dataset.metadata.ctx.issues.warnings
text = lambda value: value.decode() if isinstance(value, bytes) else None if value != value else value
for record in dataset.records("images"):
    print(json.dumps({key.removeprefix("images/"): text(value) for key, value in record.items()}))
"""


def described(root: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / f"_extraction/{name}/croissant.json").read_text())
    return found


def table(root: Path, name: str) -> list[dict[str, Any]]:
    """The table's lines, as Croissant has them: boxes are a text."""
    lines = (root / f"_extraction/{name}/metadata.jsonl").read_text().splitlines()
    found = list(map(json.loads, lines))
    return [each | {"boxes": json.dumps(each["boxes"], separators=(",", ":"))} for each in found]


def test_what_is_described(cli: Cli, tmp_path: Path) -> None:
    assert cli(*(word for name in NAMES for word in ("-d", name)), "--sample", "--to", tmp_path).returncode == 0
    for name in NAMES:
        found, dataset = described(tmp_path, name), DATASETS[name]
        assert (found["@context"], found["conformsTo"]) == (CONTEXT, "http://mlcommons.org/croissant/1.1")
        assert (found["license"], found["citeAs"], found["url"]) == (dataset.licence, dataset.citation, dataset.home)
        assert found["datePublished"] and found["creator"]["name"]
        sealed = json.loads((tmp_path / f"_extraction/{name}/manifest.json").read_text())["tables"]
        assert list(sealed) == ["metadata.csv", "metadata.jsonl", "croissant.json"]
        assert {each["contentUrl"]: each["sha256"] for each in found["distribution"]} == {
            file: sealed[file]["sha256"] for file in ("metadata.csv", "metadata.jsonl")
        }
        (records,) = found["recordSet"]
        assert [field["name"] for field in records["field"]] == list(table(tmp_path, name)[0])


def test_only_columns_are_described() -> None:
    columns = {column for each in DATASETS.values() if each.layout for column in each.layout.columns}
    assert FIELDS.keys() - columns == {
        "path", "label", "label_index", "split", "width", "height", "format", "boxes", "annotation", "size", "crc32c",
    }  # fmt: skip


def load(root: Path, name: str) -> list[dict[str, Any]]:
    """The records that mlcroissant gives."""
    path = root / f"_extraction/{name}/croissant.json"
    done = subprocess.run([CROISSANT_PYTHON, "-I", "-c", LOAD, path], env=clean_environment(root, {}), check=False,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return list(map(json.loads, done.stdout.splitlines()))


@pytest.mark.croissant
def test_mlcroissant_loads_all_datasets_without_a_warning(cli: Cli, tmp_path: Path) -> None:
    assert cli(*(word for name in NAMES for word in ("-d", name)), "--sample", "--to", tmp_path).returncode == 0
    for name in NAMES:
        assert load(tmp_path, name) == table(tmp_path, name)


@pytest.mark.croissant
def test_mlcroissant_loads_a_table_with_values_that_are_missing(bench: Bench, tmp_path: Path) -> None:
    members = {'images/n1-a, "b"/1.jpg': sample.picture(1), "images/n1-c/2.jpg": b"no image"}
    made = bench.dataset(a_tar=tar_of(list(members.items())))
    about = {key: getattr(DATASETS["oxford"], key) for key in ("home", "licence", "citation", "creator", "published")}
    dataset = replace(made, layout=Layout("mini/images/", "mini/boxes/{stem}.xml"), **about)
    assert bench.extract(dataset).state == "complete"
    assert load(tmp_path / "out", "mini") == table(tmp_path / "out", "mini")
    assert [line["width"] for line in table(tmp_path / "out", "mini")] == [128, None]
