"""docs/reliability.md and docs/odd-inputs.md: every fault of the campaign, tests that exist, counts that add up."""

from __future__ import annotations

import re

from support.fault_harness import MIXTURE
from support.faults import FAULTS, SIGNALS, WAYS
from support.program import ROOT

PAGE = (ROOT / "docs/reliability.md").read_text()
TESTS = set(re.findall(r"^def (test_\w+)", "".join(path.read_text() for path in ROOT.glob("tests/test_*.py")), re.M))


def rows(page: str = PAGE) -> list[list[str]]:
    cells = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if line.startswith("|")
    ]
    return [row for row in cells if row[0] not in ("fault", "input") and set(row[0]) != {"-"}]


def test_every_row_is_whole_and_its_tests_exist() -> None:
    for row in rows():
        assert len(row) == 5 and all(row), row
        named = re.findall(r"test_\w+", row[4])
        assert named and set(named) <= TESTS, row
        assert int(row[1].replace(",", "")) > 0, row


def test_every_try_is_survived() -> None:
    for _, tries, survived, *_ in rows():
        assert sum(int(count.replace(",", "")) for count in re.findall(r"\d[\d,]*\d|\d", survived)) == int(
            tries.replace(",", "")
        ), survived


def test_the_faults_are_those_of_the_campaign() -> None:
    campaign = {row[0] for row in rows() if re.search(r"`test_survives(_a_mixture)?`", row[4])}
    assert campaign == {fault.name for fault in FAULTS} | {MIXTURE}


def test_the_counts_are_those_of_the_campaign() -> None:
    """Its own, and of each fault one or more for each place that it is tried at; the kills of so many rounds."""
    tries = {row[0]: int(row[1].replace(",", "")) for row in rows()}
    assert len(tries) == len(rows()) == int(re.findall(r"list (\d+) kinds", PAGE)[0]) >= 140
    survives = [row[0] for row in rows() if re.search(r"`test_survives(_a_mixture)?`", row[4])]
    counted = re.findall(r"(\d+) trials of (\d+) faults", PAGE)
    assert counted == [(str(sum(tries[name] for name in survives)), str(len(survives)))]
    assert all(tries[fault.name] % len(fault.places) == 0 for fault in FAULTS)
    ((rounds, kills),) = re.findall(r"Kills: SEED=\d+ ROUNDS=(\d+), (\d+) of them", PAGE)
    each = [count for name, count in tries.items() if re.fullmatch("SIG[A-Z]+ .*at a random moment", name)]
    assert each == [int(rounds) * sum(WAYS.values())] * len(SIGNALS) and sum(each) == int(kills) >= 330


def test_every_odd_input_is_on_its_page_once_with_tests_that_exist() -> None:
    inputs = rows((ROOT / "docs/odd-inputs.md").read_text())
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for row in inputs:
        named = set(re.findall(r"`(test_\w+(?:\.py)?)`", row[-1]))
        assert len(row) == 3 and all(row) and named and named <= TESTS | files, row
    assert len({row[0] for row in inputs}) == len(inputs)
