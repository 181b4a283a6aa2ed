"""docs/reading.md: each of its examples, run over the sample, prints what the document says that it prints."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from manifest.labels.mat import cell_texts
from support.program import ROOT, clean_environment, command

READING_PYTHON = os.environ.get("READING_PYTHON", str(ROOT / ".cache/reading/bin/python"))


class Example(NamedTuple):
    """A block of code, and the block of text after it."""

    code: str
    output: str

    @property
    def packages(self) -> set[str]:
        """What it imports beyond the standard library."""
        nodes = list(ast.walk(ast.parse(self.code)))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        return {name.partition(".")[0] for name in names} - sys.stdlib_module_names

    def run(self, python: str, where: Path) -> str:
        """What it prints."""
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HOME": str(where / "hf"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([python, "-I", "-W", "ignore", "-c", self.code], cwd=where, timeout=600, check=False,
                              env=clean_environment(where, quiet), capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


DOCUMENT = (ROOT / "docs/reading.md").read_text()
EXAMPLES = [Example(*found) for found in re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```\n", DOCUMENT, re.DOTALL)]
PLAIN = [example for example in EXAMPLES if not example.packages]
OTHERS = [example for example in EXAMPLES if example.packages]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the document wants it, made with the command that it gives."""
    where = tmp_path_factory.mktemp("reading")
    for line in re.findall(r"^python cli\.py (.*)$", DOCUMENT, re.MULTILINE):
        subprocess.run(
            command(*line.split()), cwd=where, env=clean_environment(where, {}), check=True, capture_output=True
        )
    return where


def test_every_example_has_its_output_and_every_framework_an_example() -> None:
    assert len(EXAMPLES) == DOCUMENT.count("```python") and len(PLAIN) == 3
    packages = set().union(*(example.packages for example in EXAMPLES))
    assert packages == {"PIL", "datasets", "pandas", "tensorflow", "torch", "torchvision", "webdataset"}


@pytest.mark.parametrize("example", PLAIN, ids=range(len(PLAIN)))
def test_examples_that_need_python_alone(example: Example, place: Path) -> None:
    assert example.run(sys.executable, place) == example.output


@pytest.mark.reading
@pytest.mark.parametrize("example", OTHERS, ids=["-".join(sorted(example.packages)) for example in OTHERS])
def test_examples_with_frameworks(example: Example, place: Path) -> None:
    assert example.run(READING_PYTHON, place) == example.output


@pytest.mark.reading
def test_scipy_reads_the_same_from_stanfords_lists(place: Path) -> None:
    path = place / "data/stanford/lists/train_list.mat"
    code = f"import scipy.io; print(*scipy.io.loadmat({str(path)!r})['file_list'][:, 0].tolist(), sep='\\n')"
    names = [f"['{name}']" for name in cell_texts(path.read_bytes(), "file_list")]
    assert Example(code, "").run(READING_PYTHON, place).splitlines() == names
