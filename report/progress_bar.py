"""Shows progress as two bars on a terminal, or as a log line every few seconds elsewhere.

A thread draws the last report at regular intervals: many reports do not flicker, and the rates of a silent source
fall to 0.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NoReturn

from report.humanize import amount, duration

if TYPE_CHECKING:
    from tqdm import tqdm

    from pipeline.results import Progress

DRAW_INTERVAL = 0.2  # seconds, on a terminal
LINE_INTERVAL = 10.0  # seconds, where there is none
RATE_WINDOW = 10.0  # seconds that a rate is taken over
AMOUNTS, RATE, LEFT = 26, 11, 18  # columns: "140,856 of 140,856 objects", "999.9 MB/s", "  14 min 34 s left"
MAX_BAR_COLUMNS = 40  # columns of a bar, where there is room
MIN_BAR_COLUMNS = 5  # columns of a bar; with less room there are only figures
CLEAR_WRAPPED = "\r\x1b[{rows}A\x1b[J"  # move up, and clear to the end of the screen (ECMA-48)
log = logging.getLogger("spotted")


class Rate:
    """The growth of a number per second, over the last RATE_WINDOW seconds and since the first record."""

    def __init__(self) -> None:
        self.marks: deque[tuple[float, float]] = deque()
        self.start = 0.0, 0.0

    def left(self, total: float) -> float | None:
        """Return the seconds until `total`, by the rate since the start: the latest rate may be that of a pause."""
        (begin, first), (now, value) = self.start, self.marks[-1]
        return (total - value) * (now - begin) / (value - first) if value > first else None

    def at(self, now: float, value: float) -> float:
        """Record the number; return its growth per second."""
        self.start = self.start if self.marks else (now, value)
        self.marks.append((now, value))
        while len(self.marks) > 2 and now - self.marks[1][0] >= RATE_WINDOW:
            self.marks.popleft()
        begin, first = self.marks[0]
        return (value - first) / (now - begin) if now > begin else 0


@dataclass(frozen=True)
class Line:
    """The figures of one bar. A narrow terminal shows fewer of them, the time left always."""

    done: int
    total: int | None
    written: Callable[[int], str]
    rate: float  # per second
    noun: str = ""

    @property
    def amounts(self) -> str:
        """What is done, and the total if it is known."""
        done = self.written(self.done)
        return (done if self.total is None else f"{done} of {self.written(self.total)}") + self.noun

    def fitted(self, columns: int, label: str, time_left: str = "") -> str:
        """Return the longest form that fits, as a bar_format of tqdm."""
        percent = f"{int(100 * self.done / self.total):3d}%" if self.total else "    "
        rate = f"{self.written(round(self.rate))}/s"
        room = columns - len(f"{label}100% || ") - AMOUNTS - 1 - RATE - LEFT
        if room >= (MIN_BAR_COLUMNS if self.total else 0):
            graph = f"|{{bar:{min(MAX_BAR_COLUMNS, room)}}}|" if self.total else "{bar:0}"
            return f"{label}{percent} {graph} {self.amounts:<{AMOUNTS}} {rate:>{RATE}}  {time_left}".rstrip()
        forms = (
            (label + percent, self.amounts, rate, time_left),
            (label + percent, self.amounts, time_left),
            (label + percent, self.written(self.done) + self.noun, time_left),
            (label + percent, time_left),
            (percent, time_left),
        )
        texts = ("  ".join(filter(None, form)) for form in forms)
        return "{bar:0}" + next((text for text in texts if len(text) <= columns), percent[:columns])


class Display:
    """Shows the newest progress of the current dataset."""

    def __init__(self, with_bars: bool) -> None:
        self.with_bars = with_bars
        self.progress: Progress | None = None
        self.bars: list[tqdm[NoReturn]] = []
        self.rates = Rate(), Rate()
        self.columns = 0  # of the terminal when it was drawn last
        self._lock, self._over = threading.Lock(), threading.Event()

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Show progress while the context lasts; the log goes above the bars."""
        thread = threading.Thread(target=self._work, daemon=True)
        with contextlib.ExitStack() as stack:
            if self.with_bars:
                from tqdm.contrib.logging import logging_redirect_tqdm

                stack.enter_context(logging_redirect_tqdm([log]))
            thread.start()
            stack.callback(self.clear)
            stack.callback(thread.join)
            stack.callback(self._over.set)
            yield

    def show(self, progress: Progress) -> None:
        """Receive progress; the first report of a dataset is the base of its rates."""
        is_new = self.progress is None or self.progress.dataset != progress.dataset
        if is_new:
            self.clear()
        self.progress = progress
        if is_new:
            self._tick()

    def clear(self) -> None:
        """Draw the last figures of a dataset, then remove its bars."""
        with self._lock:
            if self.bars and self.progress:
                self._draw(self.progress)
            for bar in reversed(self.bars):
                bar.close()
            self.progress, self.bars, self.rates = None, [], (Rate(), Rate())

    def _work(self) -> None:
        while not self._over.wait(DRAW_INTERVAL if self.with_bars else LINE_INTERVAL):
            self._tick(is_line_due=True)

    def _tick(self, is_line_due: bool = False) -> None:
        with self._lock:
            if self.progress and self.with_bars:
                self._draw(self.progress)
            elif self.progress:
                self._log(self.progress, is_line_due)

    def _lines(self, progress: Progress) -> tuple[Line, Line, float | None]:
        """Return the figures of bytes and objects, and the seconds that are left."""
        now, (of_bytes, of_objects) = time.monotonic(), self.rates
        byte_rate, object_rate = of_bytes.at(now, progress.bytes), of_objects.at(now, progress.objects)
        lines = (
            Line(progress.bytes, progress.bytes_total, amount, byte_rate),
            Line(progress.objects, progress.objects_total, "{:,}".format, object_rate, " objects"),
        )
        left = [rate.left(line.total) for rate, line in zip(self.rates, lines, strict=True) if line.total is not None]
        return *lines, max((each for each in left if each is not None), default=None)

    def _draw(self, progress: Progress) -> None:
        of_bytes, of_objects, left = self._lines(progress)
        columns, label = os.get_terminal_size(sys.stderr.fileno()).columns - 1, f"{progress.dataset}: "
        time_left = "" if left is None else f"{duration(left)} left"
        forms = of_bytes.fitted(columns, label, time_left), of_objects.fitted(columns, " " * len(label))
        for bar, line, form in zip(self._bars(columns), (of_bytes, of_objects), forms, strict=True):
            bar.n, bar.total, bar.bar_format = line.done, line.total, form
            bar.refresh()

    def _bars(self, columns: int) -> list[tqdm[NoReturn]]:
        if self.bars and columns < self.columns:
            # The wider lines are wrapped now: tqdm would clear only the last row, and pad the next line to it.
            sys.stderr.write(CLEAR_WRAPPED.format(rows=2 * (self.columns // max(columns, 1))))
            for bar in self.bars:
                bar.sp = bar.status_printer(sys.stderr)
        self.columns = columns
        if not self.bars:
            from tqdm import tqdm

            self.bars = [tqdm(total=1, position=at, leave=False, bar_format=" ", dynamic_ncols=True) for at in (0, 1)]
        return self.bars

    def _log(self, progress: Progress, is_due: bool) -> None:
        of_bytes, of_objects, left = self._lines(progress)
        if not is_due:
            return
        text = f"{of_bytes.amounts}, {of_objects.amounts}, {amount(of_bytes.rate)}/s, {of_objects.rate:,.0f} objects/s"
        text += "" if left is None else f", {duration(left)} left"
        fields = asdict(progress) | {
            "rate": round(of_bytes.rate),
            "object_rate": round(of_objects.rate, 1),
            "seconds_left": None if left is None else round(left),
        }
        log.info("%s: %s", progress.dataset, text, extra={"fields": fields})
