"""All ways side by side: on the same input, servers and machine, one after the other, in interleaved rounds."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from chart import Bar, chart
from course import CONNECTIONS, IN_FLIGHT, Course, Loop, prepare
from inputs import Input
from limits import Conditions, Limit, limit
from measure import Failed, Figures
from render import Row, cores, machine, markdown, row, write_csv
from ways import SETTINGS, WAYS, Setting, lacking

BARE_SHARE = 0.25  # of the input, for the bare loop
CHARTED = "Into the bucket, 50 ms a request"

INTRODUCTION = """\
# This tool beside others

{objects:,} files in three tar archives, {size:.0f} MB; made by `make bench`, {date}, in {minutes:.0f} minutes.
{machine}

Medians of up to {rounds} rounds, all ways taking turns. Source ({server}), object server and way share the same cores:
read the ratios, not the figures. *Share*: how much of the input a way was given, for the slow ones would take hours.
*CPU*, *memory* (PSS) and *local disk* are of the way's whole process tree. *Calls*: requests to the bucket by price
class. *Limit*: the longest of bytes by the source's rate, objects by the delay with {in_flight} in flight, and CPU of a
bare obstore loop (its own and the object server's) on {cores} cores.
"""


class JournalEntry(NamedTuple):
    """One way under one setting, with what it is given."""

    setting: Setting
    key: str
    share: float
    given: Input

    @property
    def name(self) -> str:
        return f"{self.setting.title}: {WAYS[self.key].title}"


class Comparison:
    """What has been measured so far."""

    def __init__(
        self, at: Course, scale: float, rounds: int, only: Collection[str], settings: Sequence[Setting] = SETTINGS
    ) -> None:
        self.settings = settings
        self.at, self.scale, self.rounds, self.begin = at, scale, rounds, time.monotonic()
        self.notes: dict[str, None] = {}  # each once, in order
        self.runs = defaultdict[tuple[str, str], list[Figures]](list)
        self.loops = defaultdict[str, list[Loop]](list)  # by setting
        self.entries = list(self._entries(only))

    def _entries(self, only: Collection[str]) -> Iterator[JournalEntry]:
        for setting in self.settings:
            for key, share in setting.shares.items():
                if key not in only:
                    continue
                if missing := lacking(WAYS[key]):
                    self.notes[f"{WAYS[key].title} was not run: this machine has no {', '.join(missing)}."] = None
                    continue
                yield JournalEntry(setting, key, share, prepare(self.at, self.scale * share, key == "archive"))

    def round(self, number: int) -> None:
        """Every way once, under every setting."""
        for setting in self.settings:
            entries = [entry for entry in self.entries if entry.setting is setting]
            if entries:
                self.loops[setting.title].append(self._bare(setting))
            for entry in entries:
                self._run(entry, number)

    def _bare(self, setting: Setting) -> Loop:
        photos = round(prepare(self.at, self.scale, False).objects / 2 * BARE_SHARE)
        return self.at.bare("bucket" if setting.to_bucket else str(self.at.out), photos, setting.delay)

    def _run(self, entry: JournalEntry, number: int) -> None:
        source = f"{self.at.source_at(entry.setting.rate)}/{entry.given.folder}"
        self.at.set_delay(entry.setting.delay)
        try:
            figures = self.at.run(WAYS[entry.key].command, source)
            stored = figures.puts if entry.setting.to_bucket else self.at.stored()
            if stored < entry.given.objects:
                raise Failed(f"it ended well, but stored {stored:,} of {entry.given.objects:,} objects")
        except Failed as error:
            say(f"{entry.name}: {error}")
            self.notes[f"{entry.name} failed in round {number + 1}: {error}"] = None
            return
        self.runs[entry.setting.title, entry.key].append(figures)
        rate = entry.given.objects / figures.wall
        say(f"round {number + 1}: {entry.name}: {figures.wall:.1f} s, {rate:,.0f} objects/s")

    # ── what became of it ────────────────────────────────────────────────────────────────────────

    def rows(self) -> list[Row]:
        return [
            row(entry.setting.title, WAYS[entry.key].title, entry.share, entry.given.objects, entry.given.size,
                runs, self._limit(entry))
            for entry in self.entries if (runs := self.runs[entry.setting.title, entry.key])
        ]  # fmt: skip

    def _limit(self, entry: JournalEntry) -> Limit:
        setting, loop = entry.setting, self._loop(entry.setting.title)
        source = setting.rate * CONNECTIONS or self.at.full_rate()
        conditions = Conditions(source, setting.delay, IN_FLIGHT, loop.cpu_per_object, cores())
        return limit(entry.given.objects, entry.given.size, conditions)

    def _loop(self, title: str) -> Loop:
        loops = sorted(self.loops[title], key=lambda loop: loop.cpu_per_object)
        return loops[len(loops) // 2]

    def text(self, rows: Sequence[Row]) -> str:
        whole = prepare(self.at, self.scale, False)
        introduction = INTRODUCTION.format(
            objects=whole.objects, size=whole.size / 1e6, date=time.strftime("%Y-%m-%d"), machine=machine(),
            minutes=(time.monotonic() - self.begin) / 60, rounds=self.rounds, server=self.at.served_by,
            in_flight=IN_FLIGHT, cores=cores(),
        )  # fmt: skip
        tables = [
            markdown(found, setting.title)
            for setting in self.settings if (found := [it for it in rows if it.setting == setting.title])
        ]  # fmt: skip
        notes = "".join(f"- {note}\n" for note in [*self._bare_notes(), *self.notes])
        return "\n".join([introduction, *tables, notes])

    def _bare_notes(self) -> Iterator[str]:
        yield f"The source at full speed, one connection: {self.at.full_rate() / 1e6:,.0f} MB/s."
        for title, loop in ((title, self._loop(title)) for title in self.loops):
            yield (
                f"{title}: a bare loop makes {loop.objects / loop.seconds:,.0f} objects/s, and takes"
                f" {1000 * loop.cpu / loop.objects:.2f} ms of CPU for each, the objects' server"
                f" {1000 * loop.server_cpu / loop.objects:.2f} ms."
            )


def compare(
    at: Course,
    scale: float,
    rounds: int,
    only: Collection[str],
    out: Path | None,
    settings: Sequence[Setting] = SETTINGS,
) -> None:
    """Measure these ways; print the tables, and write what is known to the folder `out` after each round."""
    comparison = Comparison(at, scale, rounds, only, settings)
    for number in range(rounds):
        comparison.round(number)
        if out and comparison.runs:
            write(comparison, out)
    print(comparison.text(comparison.rows()))


def write(comparison: Comparison, out: Path) -> None:
    rows = comparison.rows()
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.md").write_text(comparison.text(rows))
    write_csv(out / "compare.csv", rows)
    if charted := [it for it in rows if it.setting == CHARTED]:
        (out / "compare.svg").write_text(draw(charted))


def draw(rows: Sequence[Row]) -> str:
    """Objects a second of each way, and the limit."""
    bars = [
        Bar(plain(it.way), it.objects_per_second, "**" in it.way,
            f"({rows[0].objects_per_second / it.objects_per_second:.1f} times slower)" if index else "")
        for index, it in enumerate(rows)
    ]  # fmt: skip
    mark = rows[0].objects / rows[0].limit
    return chart(
        "Objects a second into a bucket that answers after 50 ms",
        "Stanford's shape: photos of 38 KB, and as many annotations; source, bucket and way on the same cores",
        bars,
        (mark, f"the limit here: {mark:,.0f}"),
    )


def plain(title: str) -> str:
    return title.replace("`", "").replace("*", "").partition(":")[0]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
