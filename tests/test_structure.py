"""The layout keeps its promises: imports run one way, only screen.py talks, datasets are well formed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from datasets import DATASETS, chosen

ROOT = Path(__file__).parent.parent
# Each module may import from those that stand below it, never from one above or beside it on its own line.
LAYERS = [
    {"cli"},
    {"verifying"},
    {"screen"},
    {"tables"},
    {"doctor", "outlook"},
    {"extraction"},
    {"card", "reading"},
    {"bars", "costs", "tally"},
    {"planning", "resume", "transfer"},
    {"card_page", "events", "units"},
    {"fetching"},
    {"uploads"},
    {"card_facts", "digest", "gcs", "links", "sample"},
    {"card_facts", "digest", "gcs", "parts", "sample"},
    {"manifest"},
    {"journal"},
    {"rows"},
    {"archives", "datasets", "folders", "gcs_api", "photos", "sources", "thumbnails"},
    {"http_source"},
    {"file_source"},
    {"gcs_upload"},
    {"gcs_place"},
    {"gcs_login", "listing"},
    {"buckets", "formats", "meter", "mount", "pace", "tars", "zips", "web"},
    {"zip_names"},
    {"zip_directory", "zip_methods"},
    {"zip_end"},
    {"compressed", "tar_headers"},
    {"archives", "checksum_list", "datasets", "folders", "gcs_api", "photos", "sources", "thumbnails"},
    {"buckets", "csv_table", "cut_images", "formats", "meter", "mount", "pace", "tars", "zips", "web"},
    {"spans"},
    {"buckets", "formats", "meter", "mount", "rate_limit", "tars", "zips", "web"},
    {"congestion", "spans"},
    {"errors", "words"},
    {"answers", "local_files", "spans", "spool"},
    {"errors", "hosts", "http_status", "words"},
    {"redaction"},
]


def imports(module: str) -> set[str]:
    nodes = list(ast.walk(ast.parse((ROOT / f"{module}.py").read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_every_module_has_its_layer() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == set().union(*LAYERS)


@pytest.mark.parametrize("module", sorted(set().union(*LAYERS)))
def test_imports_run_one_way(module: str) -> None:
    at = next(index for index, layer in enumerate(LAYERS) if module in layer)
    assert not imports(module) & set().union(*LAYERS[: at + 1])


@pytest.mark.parametrize("module", sorted(set().union(*LAYERS) - {"bars", "cli", "screen", "tables"}))
def test_only_the_screen_talks_and_only_cli_ends_the_program(module: str) -> None:
    calls = [
        node.func for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text())) if isinstance(node, ast.Call)
    ]
    assert not {func.id for func in calls if isinstance(func, ast.Name)} & {"print", "exit", "tqdm", "input"}
    assert not imports(module) & {"argparse", "tqdm"}


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
        assert all(url.startswith(("http://", "https://")) for url in archive.urls)
        assert len(archive.sha256) in (0, 64)
    assert dataset.layout and dataset.home.startswith("http") and dataset.licence and dataset.citation
    assert dataset.layout.images.startswith(dataset.folder) and dataset.layout.images.endswith("/")
    assert re.fullmatch(re.escape(dataset.folder) + r"[^{}]*\{(name|stem)\}[^{}]*", dataset.layout.annotation)


def test_groups_add_up_without_repetition() -> None:
    assert [dataset.name for dataset in chosen(["breed", "individual"], ["stanford"])] == [
        "stanford",
        "tsinghua",
        "austin",
    ]
    assert [dataset.name for dataset in chosen([], ["tsinghua-high"])] == ["tsinghua-high"]
    assert chosen([], []) == []
