"""Arguments in, exit status out: the only file that parses options and ends the program."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn

from datasets import DATASETS, chosen
from errors import BucketError, ExtractionError, UsageError
from redaction import redact
from screen import Screen, print_summary, start_log, tell_what_next
from tables import print_findings, print_list, print_moves, print_plan

if TYPE_CHECKING:
    from datasets import Dataset
    from events import Result
    from gcs import Destination
    from reading import Order
    from transfer import Crew

VERSION = "1.0.0"
INTERRUPTED = 130  # as a shell has it: 128 + SIGINT
DEFAULT_TO = "gs://spot-raw-data"
log = logging.getLogger("spotted")

DESCRIPTION = """\
Move public dog image datasets from their sources into a Google Cloud Storage bucket: download, extract and
store in one pass, without local disk. A run that was broken off is continued by the same command.
"""
EPILOG = """\
examples:
  python cli.py -a --sample --to /tmp/sample     a miniature of everything, in seconds
  python cli.py -a --to gs://my-bucket           all three datasets
  python cli.py -b -d tsinghua-high              the breed datasets, and the high-resolution one

Every option --like-this can be set as SPOTTED_LIKE_THIS in the environment; the command line wins.
Also read: GCS_BUCKET_ROOT, GCP_PROJECT, GCS_REGION, GOOGLE_APPLICATION_CREDENTIALS, STORAGE_EMULATOR_HOST.

exit status: 0 complete and verified; 1 failed; 2 wrong use; 3 incomplete (see _extraction/<dataset>/failures.csv);
130 interrupted
"""


# ── arguments ────────────────────────────────────────────────────────────────────────────────────


def parser() -> argparse.ArgumentParser:
    """The command line's grammar; defaults come from the environment."""
    parser = argparse.ArgumentParser(
        "cli.py", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what to extract (these add up)")
    what.add_argument("-a", "--all", action="store_true", help="all groups: --breed and --individual")
    what.add_argument("-b", "--breed", action="store_true", help="breed datasets: stanford, tsinghua")
    what.add_argument("-i", "--individual", action="store_true", help="datasets of individual dogs: austin")
    what.add_argument("-d", "--dataset", action="append", default=[], metavar="NAME", choices=DATASETS,
                      help=f"one dataset, may be repeated: {', '.join(DATASETS)}")  # fmt: skip
    where = parser.add_argument_group("where from, where to")
    where.add_argument(
        "--to", metavar="DEST", default=DEFAULT_TO, help="gs://bucket or a directory (default: %(default)s)"
    )
    where.add_argument("--via", choices=("auto", "mount", "api"), default="auto",
                       help="how a gs:// bucket is written; auto: a mount where FUSE works, else the API")  # fmt: skip
    where.add_argument("--mirror", metavar="URL", default="", help="take every source from this URL or directory")
    where.add_argument("--sample", action="store_true", help="the miniature sources that come with the tool")
    look = parser.add_argument_group("look first; none of these writes anything")
    look.add_argument("--list", action="store_true", help="what there is: size, objects, licence, home")
    look.add_argument("--plan", action="store_true",
                      help="what would be done, and its cost and time; with -v each source => destination")  # fmt: skip
    look.add_argument("--source-rate", type=positive, metavar="MB",
                      help="for --plan: MB/s that the source gives (default: 10 for each connection)")  # fmt: skip
    look.add_argument("--check", action="store_true",
                      help="try out credentials, bucket, mount, sources and cluster: ok, or what to do")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--verify", action="store_true", help="compare the bucket with the manifest; write nothing")
    how.add_argument("--deep", action="store_true", help="with --verify or --repair: read the sources again, too")
    how.add_argument("--repair", action="store_true", help="verify, store again only what is missing or different")
    how.add_argument("--force", action="store_true", help="extract again, whatever is there")
    how.add_argument(
        "--connections", type=positive, default=8, metavar="N", help="to a source at once (default: %(default)s)"
    )
    how.add_argument(
        "--uploads",
        type=positive,
        metavar="N",
        help="objects written at once (default: 256, mount 128, directory: as many as read)",
    )
    how.add_argument("--timeout", type=positive, default=30, metavar="S",
                     help="seconds without a byte until a source is asked again (default: %(default)s)")  # fmt: skip
    how.add_argument("--write-rate", type=positive, metavar="N",
                     help="writes/s into a bucket at first (default: 1,000, twice that every 20 min)")  # fmt: skip
    how.add_argument("--max-ratio", type=positive, default=100, metavar="N",
                     help="refuse an archive that unpacks to N times its size (default: %(default)s)")  # fmt: skip
    how.add_argument("--max-unpacked", type=positive, default=1000, metavar="GB",
                     help="refuse an archive that unpacks to more (default: %(default)s)")  # fmt: skip
    how.add_argument("--workers", type=positive, metavar="N", help="processes on this machine (default: this one)")
    how.add_argument("--scheduler", metavar="ADDRESS", default="", help="of a dask cluster: tcp://host:8786")
    how.add_argument("--log-format", choices=("text", "json"), default="text")
    how.add_argument("--quiet", action="store_true", help="only warnings, errors and the result")
    how.add_argument("-v", "--verbose", action="store_true", help="also retries, and the traceback of an error")
    how.add_argument("--version", action="version", version=f"spotted-data-extraction {VERSION}")
    return parser


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
    if not options.datasets and (options.list or options.check):
        options.datasets = list(DATASETS.values())
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
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
        return run(options)
    except KeyboardInterrupt:
        return _leave_at_once()
    except (ExtractionError, OSError) as error:
        print(redact(f"error: {error}"), file=sys.stderr)
        if log.isEnabledFor(logging.DEBUG):
            print(redact(traceback.format_exc()), file=sys.stderr)
        return error.exit_status if isinstance(error, ExtractionError) else ExtractionError.exit_status


def _interrupt(signum: int, frame: object) -> NoReturn:
    if "units" in sys.modules:  # at once: a mount can be taken away only when nobody writes
        sys.modules["units"].stop.set()
    raise KeyboardInterrupt


def _leave_at_once() -> int:
    """End well within two seconds: what is under way may end by itself, the next run does the rest."""
    print("interrupted; what is stored stays, the same command goes on from there", file=sys.stderr)
    if "units" in sys.modules:
        time.sleep(0.5)
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def run(options: argparse.Namespace) -> int:
    """Extract or verify what the options ask for; 0, or the exit status of the worst that happened."""
    start_log(options)
    for wanted, look in ((options.list, _list), (options.plan, _plan), (options.check, _check)):
        if wanted:
            return look(options)
    screen = Screen(options)
    log.info("%s to %s", ", ".join(dataset.name for dataset in options.datasets), options.to)
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
    from costs import BYTES_A_SECOND, Rates
    from outlook import forecast_all

    with contextlib.ExitStack() as stack:
        found = forecast_all(options.datasets, _order(options, stack), options.to)
    if options.verbose:
        print_moves(found, options.to)
    source = options.source_rate * 1_000_000 if options.source_rate else options.connections * BYTES_A_SECOND
    print_plan(found, options.to, Rates(source, options.write_rate or Rates.bucket), options.log_format == "json")
    return max(ExtractionError.exit_status if each.error else 0 for each in found)


def _check(options: argparse.Namespace) -> int:
    from doctor import Case, examine

    with contextlib.ExitStack() as stack:
        case = Case(options.datasets, options.to, options.via, _mirror(options, stack), options.scheduler)
        return 0 if print_findings(examine(case), options.log_format == "json") else ExtractionError.exit_status


def _extract(options: argparse.Namespace, screen: Screen, stack: contextlib.ExitStack) -> Iterator[Result]:
    from extraction import extract  # dask and the clouds' libraries take a second: not for --help
    from gcs import open_bucket

    destination = stack.enter_context(_ready(options))
    order, workers = _workers(options, destination, stack)
    yield from _each(options, lambda one: extract(one, order, open_bucket(destination), workers, screen.show))


def _ready(options: argparse.Namespace) -> contextlib.AbstractContextManager[Destination]:
    from gcs import ready

    return ready(options.to, options.via, bool(options.scheduler), options.write_rate)


def _each(options: argparse.Namespace, work: Callable[[Dataset], Result]) -> Iterator[Result]:
    from events import Result

    for dataset in options.datasets:
        try:
            yield work(dataset)
        except BucketError:
            raise
        except ExtractionError as error:  # of one dataset: the others go on
            yield Result(dataset, error=str(error))


def _workers(options: argparse.Namespace, destination: Destination, stack: contextlib.ExitStack) -> tuple[Order, Crew]:
    from transfer import crew
    from units import Settings

    settings = Settings(destination, options.connections, options.uploads, options.timeout)
    order = _order(options, stack)
    return order, stack.enter_context(crew(settings, options.workers or 0, options.scheduler))


def _order(options: argparse.Namespace, stack: contextlib.ExitStack) -> Order:
    from archives import Limits
    from reading import Order
    from web import set_timeout

    set_timeout(options.timeout)
    limits = Limits(options.max_ratio, options.max_unpacked)
    return Order(_mirror(options, stack), options.sample, options.force, options.deep, limits)


def _mirror(options: argparse.Namespace, stack: contextlib.ExitStack) -> str:
    if not options.sample:
        return str(options.mirror)
    from sample import serve

    return stack.enter_context(serve())


def _verify(options: argparse.Namespace, screen: Screen, stack: contextlib.ExitStack) -> Iterator[Result]:
    from gcs import Destination, open_bucket
    from verifying import repair, verify, verify_deep

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
