"""What the user sees: bars or lines while it runs, the log, and the summary; the only file that draws and prints."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

from redaction import redact_record

if TYPE_CHECKING:
    from tqdm import tqdm

    from events import Progress, Result

SHOWN = 5  # missing objects named in the log; failures.csv has all
LINE_EVERY = 10  # seconds, where there is no terminal
log = logging.getLogger("spotted")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the keys that Cloud Logging reads (severity, message, time)."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "severity": record.levelname,
            "message": record.getMessage(),
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
        }
        return json.dumps(fields | getattr(record, "fields", {}))


class Screen:
    """Shows progress: bars on a terminal, elsewhere a line every few seconds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.bars = sys.stderr.isatty() and not options.quiet and options.log_format == "text"
        self.bar: tqdm[NoReturn] | None = None
        self.name, self.spoken = "", 0.0

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """While this lasts the log goes above the bars, which are taken away in the end."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            if self.bars:
                from tqdm.contrib.logging import logging_redirect_tqdm

                stack.enter_context(logging_redirect_tqdm([log]))
            yield

    def show(self, progress: Progress) -> None:
        """One progress event."""
        if progress.dataset != self.name:
            self.name, self.spoken = progress.dataset, time.monotonic()
            self.close()
        if self.bars:
            self._draw(progress)
        elif time.monotonic() - self.spoken >= LINE_EVERY:
            self._say(progress)

    def _draw(self, progress: Progress) -> None:
        if self.bar is None:
            from tqdm import tqdm

            is_bytes = progress.unit == "B"
            self.bar = tqdm(desc=progress.dataset, total=progress.total, initial=progress.done, unit=progress.unit,
                            unit_scale=is_bytes, unit_divisor=1000, dynamic_ncols=True)  # fmt: skip
        self.bar.total = progress.total
        self.bar.set_postfix_str(f"{progress.objects:,} objects", refresh=False)
        self.bar.update(progress.done - self.bar.n)

    def _say(self, progress: Progress) -> None:
        self.spoken = time.monotonic()
        if progress.unit == "B":
            done = f"{amount(progress.done)} of {amount(progress.total)}"
        else:
            done = f"{progress.done:,} of {progress.total:,} {progress.unit}s"
        extra = {"fields": asdict(progress)}
        log.info("%s: %s, %s objects", progress.dataset, done, f"{progress.objects:,}", extra=extra)

    def close(self) -> None:
        """Take the bar away before something else is printed."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def amount(value: float) -> str:
    """Bytes in decimal multiples."""
    thousands = min(len(f"{int(value):,}".split(",")) - 1, 4)
    return f"{value / 1000**thousands:.{min(thousands, 1)}f} {' kMGT'[thousands]}B".replace("  ", " ")


def start_log(options: argparse.Namespace) -> None:
    """Send the program's log to stderr, above the bars."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if options.log_format == "json" else logging.Formatter("%(message)s"))
    handler.addFilter(redact_record)
    log.addHandler(handler)
    log.setLevel(logging.WARNING if options.quiet else logging.DEBUG if options.verbose else logging.INFO)
    log.propagate = False


def _finding(result: Result, what: str, path: str) -> dict[str, dict[str, str]]:
    return {"fields": {"dataset": result.dataset.name, "finding": what, "path": path}}


def finished(result: Result) -> Result:
    """Tell in the log how a dataset ended, as soon as it has."""
    name = result.dataset.name
    if result.error:
        log.error("error: %s", result.error)
    for row in result.missing[: None if result.is_verification else SHOWN]:
        what = row.outcome if result.is_verification else "missing"
        log.warning("%s: %s %s: %s", name, what, row.path, row.reason, extra=_finding(result, what, row.path))
    for row in result.extra:
        log.warning("%s: extra %s: %s", name, row.path, row.reason, extra=_finding(result, "extra", row.path))
    if not result.is_verification and len(result.missing) > SHOWN:
        log.warning("%s: … and %d more, all in _extraction/%s/failures.csv", name, len(result.missing) - SHOWN, name)
    if result.was_complete:
        log.info("%s: is complete already; its %d objects were compared with the listing", name, result.objects)
    return result


def print_summary(results: list[Result], options: argparse.Namespace) -> None:
    """The result, one line a dataset, on stdout."""
    if options.log_format == "json":
        for result in results:
            print(json.dumps({"dataset": result.dataset.name, "state": result.state, "objects": result.objects,
                              "bytes": result.size, "missing": len(result.missing), "extra": len(result.extra),
                              "gone": result.gone, "seconds": round(result.seconds, 1), "to": options.to}))  # fmt: skip
        return
    print(f"{'dataset':<14} {'state':<11} {'objects':>9} {'size':>9} {'missing':>8} {'gone':>6} {'time':>8}")
    for each in results:
        print(f"{each.dataset.name:<14} {each.state:<11} {each.objects:>9,} {amount(each.size):>9}"
              f" {len(each.missing):>8,} {each.gone:>6,} {each.seconds:>6.1f} s")  # fmt: skip
