"""Brings docs/reliability.md up to the log of `make chaos`: PYTHONPATH=.:tests python -m support.fault_log LOG…"""

from __future__ import annotations

import collections
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.fault_harness import PAGE

END = {"after the same command again": "again"}
LONGEST_LINE = 150  # characters of it on the page


def main() -> None:
    """Bring the rows of docs/reliability.md up to what these logs say; a fault that they do not have keeps its row."""
    trials = collections.defaultdict[str, list[dict[str, str]]](list)
    for line in itertools.chain(*(Path(name).read_text().splitlines() for name in sys.argv[1:])):
        trials[json.loads(line)["fault"]].append(json.loads(line))
    lines = PAGE.read_text().splitlines(keepends=True)
    for at, line in enumerate(lines):
        cells = [cell.strip() for cell in line.strip("|\n ").split("|")]
        if line.startswith("|") and cells[0] in trials:
            lines[at] = f"| {cells[0]} | {row(trials[cells[0]])} | {cells[-1]} |\n"
    PAGE.write_text("".join(lines))
    lost = sum(each["survived"] == "no" for tries in trials.values() for each in tries)
    print(f"{sum(map(len, trials.values()))} trials of {len(trials)} faults, {lost} not survived")


def row(tries: Sequence[Mapping[str, str]]) -> str:
    """How many tries, how they ended, and the line that most of their users saw."""
    ends = collections.Counter(END.get(each["survived"], each["survived"]) for each in tries)
    lines = collections.Counter(brief(each["line"]) for each in tries)
    counted = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    return f"{len(tries)} | {counted} | `{lines.most_common(1)[0][0]}`"


def brief(line: str) -> str:
    """A line without what differs from try to try."""
    for pattern, text in (
        (r"http://127\.0\.0\.1:\d+", "http://mirror"), (r"https://127\.0\.0\.1:\d+", "https://mirror"),
        (r"gs://test-\w+", "gs://bucket"), (r"/tmp/\S+", "/tmp/…"), (r", in \d.*", ""), (r"[|`]", "'"),
    ):  # fmt: skip
        line = re.sub(pattern, text, line)
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"


if __name__ == "__main__":
    main()
