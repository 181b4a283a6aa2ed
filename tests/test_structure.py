"""The layout keeps its promises: imports run one way between the rooms, only report and commands print."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from datasets import DATASETS, select
from support.program import ROOT, product_files

RANKS = (
    "cli",
    "commands",
    "report",
    "pipeline",
    "manifest",
    "gcs",
    "storage",
    "archives sources",
    "datasets errors",
)
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms.split()}


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", product_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    allowed = {own, *(room for room in RANK if RANK[room] > RANK[own])}
    assert imported(path) & RANK.keys() <= allowed


@pytest.mark.parametrize("path", product_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_report_and_commands_print_and_only_cli_ends_the_program(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] in ("cli.py", "commands", "report"):
        return
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not {func.id for func in calls if isinstance(func, ast.Name)} & {"print", "exit", "tqdm", "input"}
    assert not imported(path) & {"argparse", "tqdm"}


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=list(DATASETS))
def test_datasets_are_well_formed(dataset: object) -> None:
    from datasets import Dataset

    assert isinstance(dataset, Dataset)
    assert dataset.folder.endswith("/") and not dataset.folder.startswith(("/", "_extraction"))
    assert bool(dataset.archives) != bool(dataset.tables)
    assert len({file for archive in dataset.archives for file in archive.files}) == sum(
        len(a.urls) for a in dataset.archives
    )
    for archive in dataset.archives:
        assert archive.prefix.startswith(dataset.folder) and archive.prefix.endswith("/")
        assert all(urlsplit(url).scheme in ("", "file", "http", "https") for url in archive.urls)
        assert len(archive.sha256) in (0, 64)
    if dataset.layout:
        assert dataset.layout.images.startswith(dataset.folder) and dataset.layout.images.endswith("/")
        assert re.fullmatch(re.escape(dataset.folder) + r"[^{}]*\{(name|stem)\}[^{}]*", dataset.layout.annotation)


def test_groups_add_up_without_repetition() -> None:
    assert [dataset.name for dataset in select(["breed", "individual"], ["stanford"])] == [
        "stanford",
        "tsinghua",
        "austin",
    ]
    assert [dataset.name for dataset in select([], ["tsinghua-high"])] == ["tsinghua-high"]
    assert select([], []) == []


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_share_by_support_alone_and_are_short(path: Path) -> None:
    assert not {name for name in imported(path) if name == "conftest" or name.startswith("test_")}
    assert len(path.read_text().splitlines()) <= 400
