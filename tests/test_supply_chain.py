"""What is imported, built and run: named here, pinned, renewed by Dependabot, and with no more rights than it needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from support.program import ROOMS, ROOT, product_files

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
DEPENDABOT = (ROOT / ".github/dependabot.yml").read_text()
DISTRIBUTIONS = {
    "PIL": "pillow", "yaml": "pyyaml", "distributed": "dask", "google.auth": "google-auth",
    "google_crc32c": "google-crc32c", "google.api_core": "google-api-core", "google.cloud": "google-cloud-storage",
}  # fmt: skip
OURS = {*ROOMS, "support", *(path.stem for path in [*ROOT.glob("*.py"), *ROOT.glob("benchmarks/*.py")])}


# ── packages ─────────────────────────────────────────────────────────────────────────────────────


def required(section: str) -> dict[str, str]:
    """What Pipfile asks for."""
    found: dict[str, str] = tomllib.loads((ROOT / "Pipfile").read_text())[section]
    return found


def imported(paths: Iterable[Path]) -> set[str]:
    """The packages that modules import, by the names that Pipfile has for them."""
    names = set[str]()
    for node in (node for path in paths for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    parts = [name.split(".") for name in names]
    tops = {".".join(part[: 2 if part[0] == "google" else 1]) for part in parts} - sys.stdlib_module_names - OURS
    return {DISTRIBUTIONS.get(top, top) for top in tops}


def test_what_the_program_imports_is_a_requirement_of_its_own() -> None:
    """A package that only another one requires may be gone, or another version, with the next release of that one."""
    packages = required("packages")
    assert imported(product_files()) == packages.keys()
    assert packages["obstore"].startswith("~=")  # young: each minor release may break what is there


def test_what_the_tests_import_too() -> None:
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("docker/*.py")]
    needless = {"atheris"}  # for make fuzz alone, which installs it
    assert imported(files) - needless - required("packages").keys() - required("dev-packages").keys() == set()


def test_every_package_of_the_lock_file_has_its_hashes() -> None:
    done = subprocess.run([sys.executable, "docker/requirements.py", "Pipfile.lock", "default", "develop"],
                          cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines and [line for line in lines if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:", line)] == []


# ── workflows ────────────────────────────────────────────────────────────────────────────────────


def test_actions_are_pinned_by_commit_with_their_version_beside_it() -> None:
    uses = [line.strip() for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    pinned = re.compile(r"(- )?uses: ([\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/workflows/\w+\.yml .*)")
    assert uses and [line for line in uses if not pinned.fullmatch(line)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_do_what_it_needs_and_no_more(workflow: Path) -> None:
    text = workflow.read_text()
    assert re.search(r"^permissions: \{\}$", text, re.MULTILINE)  # what a job does not ask for it has not got
    granted = set(re.findall(r"^ {6}([\w-]+): (?:read|write|none)\b", text, re.MULTILINE))
    assert granted == ({"contents", "id-token", "attestations"} if workflow.name == "release.yml" else {"contents"})
    assert "contents: write" not in text
    assert text.count("actions/checkout@") == len(
        re.findall(r"actions/checkout@.*\n +with: \{persist-credentials: false\}$", text, re.MULTILINE)
    )


def test_every_push_and_every_pull_request_is_tested() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    assert re.search(r'^on:\n  push:\n    branches: \["\*\*"\]\n  pull_request:\n', text, re.MULTILINE)
    assert {"- run: .ci/run", "- run: .ci/audit"} <= {line.strip() for line in text.splitlines()}


# ── what is renewed ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ecosystem", "files"),
    [
        ("github-actions", [".github/workflows/ci.yml"]),
        ("pip", ["Pipfile", "Pipfile.lock", ".ci/requirements.txt"]),
        ("docker", ["Dockerfile"]),
        ("gomod", [".ci/go.mod", ".ci/go.sum", "docker/gcsfuse/go.mod", "docker/gcsfuse/go.sum"]),
    ],
)
def test_dependabot_renews_what_names_a_version(ecosystem: str, files: list[str]) -> None:
    (block,) = re.findall(rf"package-ecosystem: {ecosystem}\n((?:    .*\n)+)", DEPENDABOT)
    where = re.search(r"director(?:y|ies): \[?([^\]\n]+)", block)
    assert where
    named = set(where[1].split(", "))
    for file in map(Path, files):
        assert (ROOT / file).is_file()
        folder = "/" if file.parts[0] == ".github" or file.parent == Path() else f"/{file.parent}"
        assert folder in named, file


def test_the_base_images_are_pinned_by_digest() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    bases = [line for line in lines if re.search(r"^FROM .*\bAS pinned-", line)]
    assert len(bases) == 2
    assert all(re.search(r" \w+:\d+\.\d+\.\d+-[\w-]+@sha256:[0-9a-f]{64} AS ", line) for line in bases)
