"""Arguments in, exit status out: the only file that parses options and ends the program."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn

from commands.check import print_findings
from commands.listing import print_list
from commands.plan_view import print_moves, print_plan
from datasets import DATASETS, chosen
from errors import BucketError, ClusterError, ExtractionError, UsageError, redact
from report.log import start_log
from report.summary import Screen, print_summary, tell_what_next

if TYPE_CHECKING:
    from datasets import Dataset
    from gcs import Destination
    from pipeline.cluster import Cluster
    from pipeline.options import RunOptions
    from pipeline.results import Result


VERSION = "1.0.0"
INTERRUPTS = (signal.SIGTERM, signal.SIGINT)
DEFAULT_TO = "gs://spot-raw-data"
Add = Callable[..., argparse.Action]
log = logging.getLogger("spotted")

DESCRIPTION = """\
Download public dog image datasets, extract them and store them in a Google Cloud Storage bucket, in one pass and
without using local disk. If a run is interrupted, run the same command again: it continues where it stopped.
"""
EPILOG = """\
examples:
  python cli.py -a --sample --to /tmp/sample     try it: a small sample of everything, in seconds
  python cli.py -a --check --to gs://my-bucket   is everything ready for the real run?
  python cli.py -a --plan --to gs://my-bucket    what would it do, cost and take?
  python cli.py -a --to gs://my-bucket           extract stanford, tsinghua and austin

Every option --like-this can also be set in the environment as SPOTTED_LIKE_THIS; the command line wins.
These variables are used too: GCS_BUCKET_ROOT, GCP_PROJECT, GCS_REGION, GCS_HIERARCHICAL,
GOOGLE_APPLICATION_CREDENTIALS, STORAGE_EMULATOR_HOST.

exit status: 0 complete and verified; 1 failed; 2 wrong use; 3 incomplete (see _extraction/<dataset>/failures.csv);
130 interrupted (Ctrl-C), 143 terminated (SIGTERM)
"""


# ── arguments ────────────────────────────────────────────────────────────────────────────────────


def parser() -> argparse.ArgumentParser:
    """The command line's grammar; defaults come from the environment."""
    parser = argparse.ArgumentParser(
        "cli.py", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_what(parser.add_argument_group("what to extract (these options add up)").add_argument)
    _add_where(parser.add_argument_group("where to, where from").add_argument)
    _add_looks(parser.add_argument_group("look first (these change nothing)").add_argument)
    _add_again(parser.add_argument_group("check and repair what is stored").add_argument)
    _add_how(parser.add_argument_group("how fast, how far").add_argument)
    _add_talk(parser.add_argument_group("what it says").add_argument)
    return parser


def _add_what(add: Add) -> None:
    add("-a", "--all", action="store_true", help="the datasets of both groups: the same as -b -i")
    add("-b", "--breed", action="store_true", help="the breed datasets: stanford, tsinghua")
    add("-i", "--individual", action="store_true", help="the dataset of individual dogs: austin")
    add("-d", "--dataset", action="append", default=[], metavar="NAME", choices=DATASETS,
        help=f"one dataset by name; can be repeated: {', '.join(DATASETS)}")  # fmt: skip


def _add_where(add: Add) -> None:
    add("--to", type=destination, metavar="DEST", default=DEFAULT_TO,
        help="gs://bucket or a directory (default: %(default)s)")  # fmt: skip
    add("--via", choices=("auto", "mount", "api"), default="auto",
        help="how to write to a gs:// bucket; auto: a GCSFuse mount where FUSE works, else the API")  # fmt: skip
    add("--hierarchical", action="store_true",
        help="create the bucket with a hierarchical namespace: 8 times as many objects/s at first")  # fmt: skip
    add("--mirror", metavar="URL", default="",
        help="download everything from this URL or directory, not from the original sites")  # fmt: skip
    add("--sample", action="store_true",
        help="use the small sample that comes with the tool, not the real sources; alone: all of -a")  # fmt: skip


def _add_looks(add: Add) -> None:
    add("--list", action="store_true", help="list the datasets: options, size, objects, licence, home page")
    add("--plan", action="store_true",
        help="show what would be done, its cost and its time; with -v also each source => destination")  # fmt: skip
    add("--source-rate", type=positive, metavar="MB",
        help="for --plan: the download speed to assume, in MB/s (default: 10 per connection)")  # fmt: skip
    add("--check", action="store_true",
        help="test credentials, bucket, mount, sources and cluster; for each: ok, or what to do")  # fmt: skip


def _add_again(add: Add) -> None:
    add("--verify", action="store_true", help="compare the bucket with the manifest; changes nothing")
    add("--deep", action="store_true",
        help="with --verify or --repair: also download the sources again and compare their bytes")  # fmt: skip
    add("--repair", action="store_true", help="verify, then store again only what is missing or different")
    add("--force", action="store_true", help="extract everything again, whatever is there")


def _add_how(add: Add) -> None:
    add("--connections", type=positive, default=8, metavar="N",
        help="connections to a source at once (default: %(default)s)")  # fmt: skip
    add("--uploads", type=positive, metavar="N",
        help="objects written at once (default: 256 by the API, 128 through a mount)")  # fmt: skip
    add("--timeout", type=positive, default=30, metavar="S",
        help="seconds without a byte until a source is asked again (default: %(default)s)")  # fmt: skip
    add("--write-rate", type=positive, metavar="N",
        help="objects/s to write to a bucket at first (default: 1,000; more as long as it takes them)")  # fmt: skip
    add("--max-ratio", type=positive, default=100, metavar="N",
        help="refuse an archive that unpacks to more than N times its size (default: %(default)s)")  # fmt: skip
    add("--max-unpacked", type=positive, default=1000, metavar="GB",
        help="refuse an archive that unpacks to more than this (default: %(default)s)")  # fmt: skip
    add("--workers", type=positive, metavar="N", help="use N processes on this machine (default: 1)")
    add("--scheduler", metavar="ADDRESS", default="", help="use the dask cluster at tcp://host:8786")

    add("--no-checksum", action="store_true",
        help="do not compare the archives with their published SHA-256, nor read anything again for it")  # fmt: skip


def _add_talk(add: Add) -> None:
    add("--log-format", choices=("text", "json"), default="text",
        help="json: one JSON object per line, as Cloud Logging reads it (default: text)")  # fmt: skip
    add("--quiet", action="store_true", help="show only warnings, errors and the result")
    add("-v", "--verbose", action="store_true", help="also show retries, and the traceback of an error")
    add("--version", action="version", version=f"spotted-data-extraction {VERSION}")


def destination(text: str) -> str:
    """A bucket's URL, or a directory."""
    if re.match(r"[A-Za-z][\w+.-]*:/", text) and not text.startswith("gs://"):
        raise argparse.ArgumentTypeError(f"expected gs://bucket or a directory, got {text!r}")
    return text


def positive(text: str) -> int:
    """A whole number from 1; argparse shows the reason of the ValueError's kind."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def parse(arguments: list[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """The options of a command line; raises UsageError, or leaves by argparse with status 2."""
    grammar = parser()
    options = grammar.parse_args([*from_environment(grammar, environment), *arguments])
    options.datasets = chosen(
        ("breed",) * (options.breed or options.all) + ("individual",) * (options.individual or options.all),
        options.dataset,
    )
    options.hierarchical |= _is_true("GCS_HIERARCHICAL", environment.get("GCS_HIERARCHICAL", ""))
    if not options.datasets and (options.list or options.check):
        options.datasets = list(DATASETS.values())
    if not options.datasets and options.sample:  # who tries it out wants to see it all
        options.datasets = chosen(("breed", "individual"), [])
    if not options.datasets:
        grammar.print_help(sys.stderr)
        raise UsageError("nothing to extract: expected at least one of -a, -b, -i, -d NAME")
    instead = itertools.combinations(("list", "plan", "check", "verify", "repair"), 2)
    for one, other in (("sample", "mirror"), ("workers", "scheduler"), ("verify", "force"),
                       ("repair", "force"), *instead):  # fmt: skip
        if getattr(options, one) and getattr(options, other):
            raise UsageError(f"--{one} and --{other} do not go together")
    if options.deep and not (options.verify or options.repair):
        raise UsageError("--deep goes with --verify or --repair")
    return options


def from_environment(grammar: argparse.ArgumentParser, environment: Mapping[str, str]) -> list[str]:
    """SPOTTED_… variables as the options that they stand for; SPOTTED_DATASET takes several names, by commas."""
    found: list[str] = []
    for action in grammar._actions:
        value = environment.get(f"SPOTTED_{action.dest.upper()}", "")
        option = action.option_strings[-1]
        if isinstance(action, argparse._StoreTrueAction):
            found += [option] if _is_true(f"SPOTTED_{action.dest.upper()}", value) else []
        elif isinstance(action, argparse._AppendAction):
            found += [f"{option}={name.strip()}" for name in value.split(",") if name.strip()]
        elif value and isinstance(action, argparse._StoreAction):
            found.append(f"{option}={value}")
    return found


def _is_true(name: str, value: str) -> bool:
    if value.lower() not in ("", "0", "1", "false", "no", "off", "on", "true", "yes"):
        raise UsageError(f"{name}: expected 1 or 0, got {value!r}")
    return value.lower() in ("1", "on", "true", "yes")


# ── the run ──────────────────────────────────────────────────────────────────────────────────────


def main(arguments: list[str] | None = None) -> int:
    """Run the program; the exit status."""
    for number in INTERRUPTS:
        signal.signal(number, _interrupt)
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
        status = run(options)
        ignore_signals()  # all is done but for Python's own end
        return status
    except KeyboardInterrupt:
        return force_exit()
    except BrokenPipeError:  # whoever reads the output has seen enough: `--list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExtractionError.exit_status
    except (ExtractionError, OSError) as error:
        if _interrupted_by:
            return force_exit()
        _say(logging.ERROR, f"error: {error}")
        if log.isEnabledFor(logging.DEBUG):
            _say(logging.ERROR, traceback.format_exc())
        return error.exit_status if isinstance(error, ExtractionError) else ExtractionError.exit_status


def _say(level: int, message: str) -> None:
    """The last words: to the log, in its format; before there is one, and of wrong use, plainly."""
    if log.handlers:
        log.log(level, "%s", message)
    else:
        print(redact(message), file=sys.stderr)


_interrupted_by: list[int] = []  # the signals so far


def _interrupt(signum: int, frame: object) -> NoReturn:
    # Where it is raised within a callback of the garbage collector, Python swallows it, and would print it. What it
    # leaves undone, dask's coroutines among it, Python would warn of.
    _interrupted_by.append(signum)
    sys.unraisablehook = lambda _: None
    warnings.simplefilter("ignore")
    stop = getattr(sys.modules.get("units"), "stop", None)  # which is there as soon as anything is stored
    if stop:  # at once: a mount can be taken away only when nobody writes
        stop.set()
    raise KeyboardInterrupt


def ignore_signals() -> None:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


def force_exit() -> int:
    """End well within two seconds: what is under way may end by itself, the next run does the rest."""
    ignore_signals()  # whoever asks twice has it no sooner, and gets no traceback either
    _say(logging.WARNING, "interrupted; what is stored is kept: run the same command again to continue")
    if "units" in sys.modules:
        time.sleep(0.5)
    for process in multiprocessing.active_children():  # of --workers: one that is just starting would go on for a while
        process.kill()
    sys.stderr.flush()
    os._exit(128 + (_interrupted_by or [signal.SIGINT])[0])  # as a shell has it: 130 or 143


def run(options: argparse.Namespace) -> int:
    """Extract or verify what the options ask for; 0, or the exit status of the worst that happened."""
    start_log(options)
    for wanted, look in ((options.list, _list), (options.plan, _plan), (options.check, _check)):
        if wanted:
            return look(options)
    screen = Screen(options)
    doing = (
        "verifying %s in %s" if options.verify else "repairing %s in %s" if options.repair else "extracting %s to %s"
    )
    log.info(doing, ", ".join(dataset.name for dataset in options.datasets), options.to)
    with contextlib.ExitStack() as stack:
        stack.enter_context(screen.open())
        work = _verify if options.verify or options.repair else _extract
        results = [screen.finished(result) for result in work(options, screen, stack)]
    print_summary(results, options)
    tell_what_next(results, options)
    return min((result.status for result in results if result.status), default=0)


def _list(options: argparse.Namespace) -> int:
    print_list(options.datasets, options.log_format == "json")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from commands.costs import BYTES_A_SECOND, Rates
    from commands.plan import forecast_all
    from storage.bucket_admin import HIERARCHICAL

    with contextlib.ExitStack() as stack:
        found = forecast_all(options.datasets, _order(options, stack), options.to, options.hierarchical)
    if options.verbose:
        print_moves(found, options.to)
    source = options.source_rate * 1_000_000 if options.source_rate else options.connections * BYTES_A_SECOND
    is_hierarchical = any(each.is_hierarchical for each in found)
    usual = Rates.bucket * (HIERARCHICAL if is_hierarchical else 1)
    rates = Rates(source, options.write_rate or usual, is_hierarchical)
    print_plan(found, options.to, rates, options.log_format == "json")
    return max(ExtractionError.exit_status if each.error else 0 for each in found)


def _check(options: argparse.Namespace) -> int:
    from commands.check import Case, examine

    with contextlib.ExitStack() as stack:
        case = Case(options.datasets, options.to, options.via, _mirror(options, stack), options.scheduler)
        return 0 if print_findings(examine(case), options.log_format == "json") else ExtractionError.exit_status


def _extract(options: argparse.Namespace, screen: Screen, stack: contextlib.ExitStack) -> Iterator[Result]:
    from gcs import open_bucket
    from pipeline.run import extract  # dask and the clouds' libraries take a second: not for --help

    destination = stack.enter_context(_ready(options))
    order, workers = _workers(options, destination, stack)
    yield from _each(options, lambda one: extract(one, order, open_bucket(destination), workers, screen.show))


def _ready(options: argparse.Namespace) -> contextlib.AbstractContextManager[Destination]:
    from gcs import ready

    return ready(options.to, options.via, bool(options.scheduler), options.write_rate, options.hierarchical)


def _each(options: argparse.Namespace, work: Callable[[Dataset], Result]) -> Iterator[Result]:
    from pipeline.results import Result

    for dataset in options.datasets:
        if _interrupted_by:
            raise KeyboardInterrupt
        try:
            yield work(dataset)
        except (BucketError, ClusterError):
            raise
        except ExtractionError as error:  # of one dataset: the others go on
            if _interrupted_by:
                raise KeyboardInterrupt from error
            yield Result(dataset, error=str(error))
        except BrokenPipeError:  # of the one that reads the output
            raise
        except OSError as error:  # of this machine, while it worked on this dataset: the others go on as well
            if _interrupted_by:
                raise KeyboardInterrupt from error
            yield Result(dataset, error=redact(str(error)))


def _workers(
    options: argparse.Namespace, destination: Destination, stack: contextlib.ExitStack
) -> tuple[RunOptions, Cluster]:
    from pipeline.cluster import start_cluster
    from pipeline.options import WorkerConfig

    settings = WorkerConfig(destination, options.connections, options.uploads, options.timeout)
    order = _order(options, stack)
    return order, stack.enter_context(start_cluster(settings, options.workers or 0, options.scheduler))


def _order(options: argparse.Namespace, stack: contextlib.ExitStack) -> RunOptions:
    from archives.spans import Limits
    from pipeline.options import RunOptions
    from sources.http import set_timeout

    set_timeout(options.timeout)
    limits = Limits(options.max_ratio, options.max_unpacked)
    is_spread = bool(options.workers or options.scheduler)
    return RunOptions(
        _mirror(options, stack), options.sample, options.force, options.deep, limits, options.no_checksum, is_spread
    )


def _mirror(options: argparse.Namespace, stack: contextlib.ExitStack) -> str:
    if not options.sample:
        return str(options.mirror)
    from sources.sample import serve

    return stack.enter_context(serve())


def _verify(options: argparse.Namespace, screen: Screen, stack: contextlib.ExitStack) -> Iterator[Result]:
    from commands.verify import repair, verify, verify_deep
    from gcs import Destination, open_bucket

    destination = Destination(options.to)
    if not options.repair and not options.deep:
        return _each(options, lambda one: verify(one, open_bucket(destination)))
    if options.repair:
        destination = stack.enter_context(_ready(options))
    (order, workers), bucket = _workers(options, destination, stack), open_bucket(destination)
    work = repair if options.repair else verify_deep
    return _each(options, lambda one: work(one, order, bucket, workers, screen.show))


if __name__ == "__main__":
    sys.exit(main())
