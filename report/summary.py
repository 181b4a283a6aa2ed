"""Logs how each dataset ended, prints the summary on stdout, and names the next step."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Any

from datasets import GROUPS, select
from errors import ExtractionError, IncompleteError
from manifest.counters import CountWithExamples
from pipeline.options import RunOptions
from report.humanize import amount, duration, print_table
from report.progress_bar import Display
from storage.bucket import METADATA_PREFIX

if TYPE_CHECKING:
    from pipeline.results import Result

MANIFEST = rf"{METADATA_PREFIX}[^/]+/manifest\.csv"
MAX_LOGGED = 5  # missing objects that an extraction logs; failures.csv lists all
COUNTS = ("retries", "refused", "missing", "extra", "gone", "not_images")
HEADER = ("dataset", "state", "objects", "size", "time", "rate", *(name.replace("_", "-") for name in COUNTS))
log = logging.getLogger("spotted")


class Screen(Display):
    """Shows the progress of each dataset, and logs how it ended."""

    def __init__(self, options: RunOptions) -> None:
        is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"  # which cannot move its cursor
        super().__init__(is_terminal and not options.quiet and options.log_format == "text")

    def finished(self, result: Result) -> Result:
        """Remove the bars of a dataset, and log how it ended."""
        self.clear()
        name = result.dataset.name
        if result.error:
            log.error("error: %s", result.error)
        _log_what_is_wrong(result)
        if result.was_complete:
            what = f"already complete: {result.objects:,} objects, all as the manifest says"
        else:
            what = f"{result.state}: {result.objects:,} objects, {amount(result.size)}, in {duration(result.seconds)}"
        what += f" ({result.filter})" if result.filter else ""
        log.info("%s: %s", name, what, extra={"fields": summary(result)})
        return result


def _log_what_is_wrong(result: Result) -> None:
    """Log what is missing: the first few of an extraction, everything of a verification."""
    name = result.dataset.name
    if result.is_verification:
        findings = [*((row.outcome, row) for row in result.missing), *(("extra", row) for row in result.extra)]
    else:
        findings = [("missing", row) for row in result.missing[:MAX_LOGGED]]
    for what, row in findings:
        fields = {"dataset": name, "finding": what, "path": row.path}
        log.warning("%s: %s %s: %s", name, what, row.path, row.reason, extra={"fields": fields})
    if result.extra:
        some = CountWithExamples.of(row.path for row in result.extra)
        log.warning(
            "%s: %d objects in its folder are none of the dataset, left by an older version or by other programs: %s;"
            " --verify lists them, --repair --remove-extra removes them",
            name, some.count, ", ".join(some.examples),
        )  # fmt: skip
    if not result.is_verification and len(result.missing) > MAX_LOGGED:
        log.warning(
            "%s: … and %d more; _extraction/%s/failures.csv lists all", name, len(result.missing) - MAX_LOGGED, name
        )


def print_summary(results: list[Result], options: RunOptions) -> None:
    """Print one line for each dataset on stdout."""
    if options.log_format == "json":
        for result in results:
            print(json.dumps(summary(result) | {"to": options.to}))
    else:
        print_table(HEADER, [_line(result) for result in results])
    sys.stdout.flush()


def summary(result: Result) -> dict[str, Any]:
    """Return the fields of a dataset's result."""
    return {
        "dataset": result.dataset.name,
        "state": result.state,
        "filter": result.filter.encode() if result.filter else None,
        "objects": result.objects,
        "bytes": result.size,
        "seconds": round(result.seconds, 1),
        "rate": round(result.rate),
        "retries": result.retries,
        "refused": result.refused,
        "missing": len(result.missing) - result.refused,
        "extra": len(result.extra),
        "gone": result.gone,
        "not_images": result.not_images,
    }


def _line(result: Result) -> tuple[str, ...]:
    fields = summary(result)
    rate = f"{amount(result.rate)}/s" if result.fetched else "-"
    return (
        result.dataset.name, result.state + ", filtered" * bool(result.filter), f"{result.objects:,}",
        amount(result.size), duration(result.seconds), rate, *(f"{fields[key]:,}" for key in COUNTS),
    )  # fmt: skip


def log_next_step(results: list[Result], options: RunOptions) -> None:
    """Log where the datasets are, and the next command."""
    folders = ", ".join(dict.fromkeys(result.dataset.folder for result in results))
    log.info("where: %s in %s", folders, options.to)
    if options.command == "shards":
        log.info("look:  shards/<dataset>/index.json lists every shard; docs/reading.md shows how to train with them")
    elif not any(result.status for result in results):
        log.info("look:  _extraction/<dataset>/card.html shows what it holds, manifest.csv lists every object")
    log.info("next:  %s", _next(results, options))


def _next(results: list[Result], options: RunOptions) -> str:
    statuses = {result.status for result in results}
    if ExtractionError.exit_status in statuses:
        return "see the errors above; --check tests all that a run needs; then the same command continues from here"
    if any(re.fullmatch(MANIFEST, row.path) for result in results for row in result.missing):
        return "the same command without --verify or --repair extracts what has no manifest"
    if IncompleteError.exit_status in statuses and options.command != "extract":
        if not any(result.missing for result in results):
            return "--repair --remove-extra removes the objects that are none of the dataset"
        deep = " --deep" if options.deep else ""
        return f"--repair{deep} stores again what is missing or different"
    if IncompleteError.exit_status in statuses:
        return "_extraction/<dataset>/failures.csv says what is missing and why; the same command tries it again"
    is_all = list(options.datasets) == select(GROUPS, ())
    names = "-a" if is_all else " ".join(f"-d {dataset.name}" for dataset in options.datasets)
    return f"check it again at any time: {_python()} cli.py {names} --verify --to {shlex.quote(options.to)}"


def _python() -> str:
    """Return the interpreter as a user types it: "python" if that is this one."""
    return "python" if shutil.which("python") == sys.executable else os.path.relpath(sys.executable)
