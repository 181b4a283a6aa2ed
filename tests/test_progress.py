"""What a user sees while it runs: bars, lines, JSON; that it moves, starts where it stopped, and counts right."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import re
import shlex
import subprocess
import termios
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from archives.spans import LIMITS
from datasets import DATASETS
from gcs import Destination
from manifest.journal import JournalEntry
from pipeline import progress
from pipeline.cluster import start_cluster
from pipeline.planner import plan
from pipeline.progress import DatasetProgress
from pipeline.results import Progress
from report import progress_bar
from report.humanize import amount, duration
from report.log import JsonFormatter
from report.progress_bar import DRAW_INTERVAL, Display, Line, Rate
from sources.http import HttpClient
from support.archives import MB, some_members, tar_of, zip_of
from support.bench import Bench, context_of
from support.program import ROOT, Cli, clean_environment, command
from support.source_server import Plan, SourceServer


def on_a_terminal(columns: int, arguments: list[str], environment: dict[str, str], then: int = 0) -> str:
    """All that a command sends to a terminal; `then` are its columns after the first bar."""
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    process = subprocess.Popen(arguments, env={"TERM": "xterm", **environment}, stdout=terminal, stderr=terminal)
    os.close(terminal)
    escaped = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end of a terminal is closed
        while chunk := os.read(screen, 65536):
            escaped += chunk
            if then and b"%" in escaped:
                termios.tcsetwinsize(screen, (24, then))
    os.close(screen)
    assert process.wait() == 0, escaped.decode()
    return escaped.decode()


@pytest.mark.parametrize("columns", [120, 60])
def test_two_bars_that_do_not_flicker_and_go_away(tmp_path: Path, mirror: SourceServer, columns: int) -> None:
    mirror.files["/images.tar"] = tar_of(some_members(200, 10_000))
    mirror.files["/SHA256SUMS"] = b""
    mirror.plan("/images.tar", Plan(drip=0.002))
    begin = time.monotonic()
    escaped = on_a_terminal(
        columns, command("-b", "--mirror", mirror.url, "--to", tmp_path / "out"), clean_environment(tmp_path, {})
    )
    seconds = time.monotonic() - begin
    drawn = re.findall(r"\r([^\r\n\x1b]*(?:%|objects)[^\r\n\x1b]*/s[^\r\n\x1b]*)", escaped)
    assert [line for line in drawn if line.startswith("stanford: 100%")]
    assert [line for line in drawn if line.startswith(" ") and " objects" in line]
    assert max(map(len, drawn)) <= columns
    assert ("█" in escaped) == (columns == 120)  # without room for a bar there are the figures
    lines = (
        escaped.count("done, ") + escaped.count("sha256 ") + escaped.count("complete: ")
    )  # after each, both are drawn again
    assert len(drawn) <= 2 * (seconds / DRAW_INTERVAL + lines + 8)
    last = escaped[escaped.rindex("not-images") :]
    assert all(len(line) <= columns for line in last.partition("where: ")[0].splitlines()), last
    assert "%" not in last and "\x1b" not in last


def test_a_window_that_becomes_narrower_is_cleared_of_what_wraps(tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/images.tar"] = tar_of(some_members(200, 10_000))
    mirror.files["/SHA256SUMS"] = b""
    mirror.plan("/images.tar", Plan(drip=0.004))
    run = command("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out")
    escaped = on_a_terminal(120, run, clean_environment(tmp_path, {}), then=40)
    before, cleared, after = escaped.partition("\r\x1b[6A\x1b[J")  # two lines of up to 119 columns, in rows of 39
    assert cleared and "% |" in before
    drawn = re.findall(r"\r([^\r\n\x1b]*(?:%|objects)[^\r\n\x1b]*)", after)
    drawn = [line for line in drawn if ": complete: " not in line]  # the log, of which a terminal breaks long lines
    assert len(drawn) > 2 and max(map(len, drawn)) < 40 and "█" not in after


def test_it_moves_during_one_long_member(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REPORT_INTERVAL", 0)
    bench.extract(bench.dataset(a_tar=tar_of([("large.bin", bytes(20 * MB))])))
    seen = [event.bytes for event in bench.events]
    total = bench.events[-1].bytes_total
    assert seen == sorted(seen) and seen[-1] == total
    assert len({size for size in seen if 8 * MB < size < 20 * MB}) > 3  # beyond the first span, before the end


def test_it_moves_on_a_cluster_too(server: SourceServer, tmp_path: Path) -> None:
    server.plan("/a.zip", Plan(), times=3)  # what is read of it beforehand
    server.plan("/a.zip", Plan(drip=0.0016))
    destination = Destination(str(tmp_path / "out"))
    with start_cluster(context_of(destination, connections=1), workers=1) as workers:
        bench = Bench(server, workers)
        bench.extract(bench.dataset(a_zip=zip_of([("a.bin", os.urandom(2 * MB)), ("b.bin", os.urandom(MB))])))
    assert len({event.bytes for event in bench.events}) > 2
    last = bench.events[-1]
    assert (last.objects, last.objects_total, last.bytes) == (2, 2, last.bytes_total)


def test_a_resumed_run_starts_where_it_stopped(bench: Bench) -> None:
    a, b = (tar_of([(f"{count}/{name}", data) for name, data in some_members(count, 1000)]) for count in (300, 500))
    dataset = bench.dataset(a_tar=a, b_tar=b)
    bench.server.plan("/b.tar", Plan(), times=2)  # while it is planned
    bench.server.plan("/b.tar", Plan(status=404))
    assert bench.extract(dataset).state == "incomplete"
    bench.server.plan("/b.tar", Plan())
    bench.events.clear()
    result = bench.extract(dataset)
    assert bench.events[0] == Progress("mini", 300, None, len(a), len(a) + len(b))
    assert bench.events[-1] == Progress("mini", 800, 800, len(a) + len(b), len(a) + len(b))
    assert (result.objects, result.fetched) == (800, len(b))


def test_rates_begin_with_what_was_there() -> None:
    rate = Rate()
    assert [rate.at(now, value) for now, value in ((0, 500), (1, 510), (5, 550), (10, 600))] == [0, 10, 10, 10]
    assert [rate.at(now, 600) for now in (12, 15, 20, 30)] == [pytest.approx(90 / 11), 5, 0, 0]


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JsonFormatter().format(record))

    handler, log = Kept(), logging.getLogger("spotted")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)
    log.setLevel(level)


def documented(place: str) -> set[str]:
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\w ,]+) \|$", (ROOT / "docs/output.md").read_text(), re.M)
    return {name for name, places in rows if place in places or places == "every line"}


def test_a_line_now_and_then_with_the_documented_fields(logged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "LINE_INTERVAL", 0.01)
    display = Display(with_bars=False)
    with display.open():
        display.show(Progress("stanford", 100, None, 1_000_000, 4_000_000))
        display.show(Progress("stanford", 300, None, 2_000_000, 4_000_000))
        deadline = time.monotonic() + 10
        while not logged and time.monotonic() < deadline:
            time.sleep(0.01)
        display.clear()
        silent = len(logged)
        time.sleep(0.1)
    fields = json.loads(logged[0])
    assert set(fields) == documented("progress")
    assert (fields["dataset"], fields["objects"], fields["bytes"]) == ("stanford", 300, 2_000_000)
    assert fields["rate"] > 0 and fields["object_rate"] > 0 and fields["seconds_left"] is not None
    assert re.match(r"stanford: 2\.0 MB of 4\.0 MB, 300 objects, [\d.]+ .?B/s, [\d,]+ objects/s, ", fields["message"])
    assert len(logged) <= silent + 1  # nothing more to say


def test_the_end_of_each_dataset_has_the_documented_fields(cli: Cli, tmp_path: Path) -> None:
    done = cli("-b", "--sample", "--to", tmp_path / "out", "--log-format", "json")
    ends = [fields for fields in map(json.loads, done.stderr.splitlines()) if "state" in fields]
    assert [fields["dataset"] for fields in ends] == ["stanford", "tsinghua"]
    assert all(set(fields) == documented("end") for fields in ends)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(set(fields) == documented("end") - {"severity", "message", "time"} | {"to"} for fields in results)


def test_the_summary_counts_retries_and_what_was_refused(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/lists.tar"] = tar_of([("../evil", b"1"), ("good.mat", b"2")])
    mirror.files["/SHA256SUMS"] = b""
    mirror.plan("/images.tar", Plan(), times=2)
    mirror.plan("/images.tar", Plan(cut=5000), times=2)
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out")
    assert done.returncode == 3
    header, line = (line.split() for line in done.stdout.splitlines())
    counts = dict(zip(reversed(header), reversed(line), strict=False))
    assert (counts["retries"], counts["refused"], counts["missing"], counts["gone"]) == ("2", "1", "0", "0")
    assert "stanford: lists.tar: done, 1 stored, 1 failed or refused" in done.stderr
    assert "next:  _extraction/<dataset>/failures.csv says what is missing" in done.stderr


def test_the_end_says_where_it_is_and_what_is_next(cli: Cli, tmp_path: Path) -> None:
    done = cli("-d", "stanford", "--sample", "--to", tmp_path / "out")
    where, look, what = done.stderr.splitlines()[-3:]
    assert where == f"where: stanford/ in {tmp_path}/out"
    assert "card.html" in look and list(tmp_path.glob("out/_extraction/stanford/card.html"))
    again = re.fullmatch(r"next:  check it again at any time: (.*)", what)
    assert again
    verified = subprocess.run(shlex.split(again[1]), cwd=ROOT, capture_output=True, text=True, check=False)
    assert verified.returncode == 0 and "0 missing, 0 different, 0 unread, 0 extra" in verified.stderr


def test_a_manifest_that_is_not_there_is_no_case_for_repair(cli: Cli, tmp_path: Path) -> None:
    for option in ("--verify", "--repair"):
        done = cli("-d", "stanford", "--sample", option, "--to", tmp_path / "out")
        assert done.returncode == 3 and "has no manifest of this dataset" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("next:  the same command without --verify or --repair extracts")


def test_totals_are_reported_only_when_they_are_known(mirror: SourceServer) -> None:
    seen: dict[str, list[Progress]] = {}
    for name in ("tsinghua", "stanford", "austin"):
        planned, photos = plan(DATASETS[name], mirror.url, LIMITS, HttpClient())
        units = {unit.id: unit for each in planned for unit in each.units} | {unit.id: unit for unit in photos}
        counted = DatasetProgress(DATASETS[name], planned, units, seen.setdefault(name, []).append)
        counted.begin({})
        unit = next(iter(units))
        counted.update(unit, 100, 1)
        counted.update("of another run/000", 100, 1)
        counted.record(units[unit], JournalEntry(unit, ""))
        counted.update(unit, 200, 2)  # late news of what is over
    totals = {
        name: [(each.objects_total, each.bytes_total is None) for each in events] for name, events in seen.items()
    }
    assert totals["tsinghua"] == [(14, False), (14, False), (12, False)]
    assert totals["stanford"] == [(None, False)] * 3  # the miniature's tars are not the published ones
    assert totals["austin"] == [(120, True), (120, True), (0, True)]
    assert all(one.bytes <= two.bytes for events in seen.values() for one, two in pairwise(events))


def test_amounts_and_times_as_people_read_them() -> None:
    assert [amount(value) for value in (0, 999, 1000, 1_234_567, 38_800_000_000, 2e15)] == [
        "0 B", "999 B", "1.0 kB", "1.2 MB", "38.8 GB", "2000.0 TB",
    ]  # fmt: skip
    assert [duration(value) for value in (0.04, 9.94, 12.4, 59.6, 114, 7_800)] == [
        "0.0 s", "9.9 s", "12 s", "1 min 00 s", "1 min 54 s", "2 h 10 min",
    ]  # fmt: skip


def test_the_time_left_is_that_of_the_whole_run_so_far() -> None:
    rate = Rate()
    for second in range(21):  # a source that gives all at first, and then waits for the bucket
        per_second = rate.at(second, min(100 * second, 1000))
    assert (per_second, rate.left(2000)) == (0, 20)
    assert Rate().at(0, 5) == 0


@pytest.mark.parametrize("columns", [10, 39, 59, 79, 99, 119, 199])
@pytest.mark.parametrize("label", ["austin: ", "tsinghua-high: "])
def test_a_line_fits_the_window_and_keeps_the_time_left(columns: int, label: str) -> None:
    fitted = Line(350_900_000, 38_815_900_000, amount, 34_100_000).fitted(columns, label, "14 min 34 s left")
    text = re.sub(r"\{bar:(\d+)\}", lambda bar: "#" * int(bar[1]), fitted)
    assert len(text) <= columns
    assert columns < 39 or text.endswith("14 min 34 s left")
    assert columns < 59 or ("350.9 MB of 38.8 GB" in text and text.startswith(label))
    assert columns < 99 or "#" in text


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(tmp_path: Path) -> None:
    environment = clean_environment(tmp_path, {"TERM": "dumb"})
    printed = on_a_terminal(80, command("-b", "--sample", "--to", tmp_path / "out"), environment)
    assert "stanford: complete: 39 objects" in printed and "\x1b" not in printed and "%" not in printed
