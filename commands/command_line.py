"""Reads the command line and the environment, where each option is a variable too, into RunOptions."""

from __future__ import annotations

import argparse
import difflib
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from archives.spans import Limits
from datasets import DATASETS, GROUPS, select
from errors import UsageError
from manifest.selection import Filter
from pipeline.options import DEFAULT_TO, RunOptions
from sources.datasets_file import read_datasets

VERSION = "1.0.0"
log = logging.getLogger("spotted")

DESCRIPTION = """\
Download public dog image datasets, extract them and store them in a Google Cloud Storage bucket, in one pass and
without unpacking to local disk. If a run is interrupted, run the same command again: it continues where it stopped.
"""
EPILOG = """\
examples:
  python cli.py -a --sample --to /tmp/sample     try it: a small sample of everything, in seconds
  python cli.py -a --check --to gs://my-bucket   is everything ready for the real run?
  python cli.py -a --plan --to gs://my-bucket    what would it do, cost and take?
  python cli.py -a --to gs://my-bucket           extract stanford, tsinghua and austin

Every option --like-this can also be set in the environment as SPOTTED_LIKE_THIS; the command line wins.
These variables are used too: GCS_BUCKET, GCS_BUCKET_ROOT, GCP_PROJECT, GCS_REGION, GCS_HIERARCHICAL,
GOOGLE_CLOUD_PROJECT, GOOGLE_CLOUD_QUOTA_PROJECT, GOOGLE_APPLICATION_CREDENTIALS, STORAGE_EMULATOR_HOST.

exit status: 0 complete and verified; 1 failed; 2 wrong use; 3 incomplete (see _extraction/<dataset>/failures.csv);
130 interrupted (Ctrl-C), 143 terminated (SIGTERM)
"""


def destination(text: str) -> str:
    """Check a bucket's URL or a directory; a new directory must not look like the name of a bucket."""
    from gcs import scheme_of  # slow: it imports what writes to buckets, and --help must be quick

    try:
        is_path = scheme_of(text).is_path
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if is_path and not (re.match(r"/|~|\.\.?(/|$)", text) or os.path.exists(text)):
        raise UsageError(f"--to {text}: did you mean gs://{text} or ./{text}?")
    return os.path.expanduser(text) if is_path else text


def positive(text: str) -> int:
    """Read a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def rate(text: str) -> int:
    """Read bytes a second, in the format of rclone's --bwlimit: 512K, 20M, 1G; K is 1,024."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([KMG])", text.upper())
    value = int(float(found[1]) * 1024 ** ("KMG".index(found[2]) + 1)) if found else 0
    if not value:
        raise argparse.ArgumentTypeError(f"expected bytes/s such as 512K, 20M or 1G, got {text!r}")
    return value


def billed(text: str) -> str:
    """Check the ID or number of a project, which is sent in a header."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.:-]*", text):
        raise argparse.ArgumentTypeError(f"expected the ID of a project, got {text!r}")
    return text


def kms_key(text: str) -> str:
    """Check the name of a Cloud KMS key (https://cloud.google.com/kms/docs/resource-hierarchy)."""
    if not re.fullmatch("projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+", text):
        raise argparse.ArgumentTypeError(
            f"expected projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY, got {text!r}"
        )
    return text


ON, OFF = ("1", "on", "true", "yes"), ("0", "off", "false", "no")


class Option(NamedTuple):
    """One option. `read` turns text into its value, or raises ArgumentTypeError; None: the option takes no value."""

    flags: str
    help: str
    read: Callable[[str], Any] | None = None
    metavar: str | None = None
    choices: Sequence[str] | None = None
    is_repeated: bool = False

    @property
    def dest(self) -> str:
        """The name of its value."""
        return self.flags.split()[-1].removeprefix("--").replace("-", "_")

    def read_variable(self, name: str, text: str) -> dict[str, Any]:
        """Read an environment variable: its value by `dest`, nothing for a switch that is off. Raises UsageError."""
        if self.read is None:
            if text.lower() not in (*ON, *OFF):
                raise UsageError(f"{name}: expected 1 or 0, got {text!r}")
            return {self.dest: True} if text.lower() in ON else {}
        try:
            values = [self.read(each.strip()) for each in (text.split(",") if self.is_repeated else [text])]
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"{name}: {error}") from None
        if self.choices and values[0] not in self.choices:
            raise UsageError(f"{name}: expected one of {', '.join(self.choices)}, got {text!r}")
        return {self.dest: values if self.is_repeated else values[0]}


WHAT, WHERE = "what to extract (these options add up)", "where to, where from"
LOOK = "look first (these change nothing)"
AGAIN, NEXT = "check and repair what is stored", "after the extraction"
LIMITS, OUTPUT = "performance and limits", "output"
OPTIONS = {
    WHAT: (
        Option("-a --all", "the datasets of both groups: the same as -b -i"),
        Option("-b --breed", "the breed datasets: stanford, tsinghua"),
        Option("-i --individual", "the dataset of individual dogs: austin"),
        Option("-d --dataset", f"one dataset by name; can be repeated: {', '.join(DATASETS)}", str, "NAME",
               is_repeated=True),
        Option("--limit", "only the first N images of each breed or dog, by name, with their annotations", positive,
               "N"),
        Option("--include", "only objects of such a name, as 'stanford/*Chihuahua*'; can be repeated", str, "GLOB",
               is_repeated=True),
        Option("--exclude", "no objects of such a name; can be repeated", str, "GLOB", is_repeated=True),
        Option("--datasets-file", "a TOML file that describes more datasets, for -d (docs/datasets.md)", str, "FILE"),
    ),
    WHERE: (
        Option("--to", f"gs://bucket, gs://bucket/prefix or a directory (default: {DEFAULT_TO})", destination, "DEST"),
        Option("--via", "how to write to a gs:// bucket; auto: a GCSFuse mount where FUSE works, else the API", str,
               choices=("auto", "mount", "api")),
        Option("--keep-mount", "leave the bucket mounted afterwards, to look around in it"),
        Option("--hierarchical", "create the bucket with a hierarchical namespace: 8 times as many objects/s at first"),
        Option("--storage-class", "create the bucket with this class for its objects (default: STANDARD)", str,
               choices=("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE")),
        Option("--kms-key", "create the bucket with this Cloud KMS key: projects/…/cryptoKeys/…", kms_key, "KEY"),
        Option("--billing-project", "the project that pays for the requests, where a bucket's requester pays", billed,
               "ID"),
        Option("--mirror", "download everything from this URL or directory, not from the original sites", str, "URL"),
        Option("--allow-private-addresses", "let sources and tables of the Internet lead to addresses of this network"),
        Option("--sample", "use the small sample that comes with the tool, not the real sources; alone: all of -a"),
    ),
    LOOK: (
        Option("--list", "list the datasets: options, size, objects, licence, home page"),
        Option("--dry-run --plan",
               "show what would be done, its cost and its time; with -v also each source => destination"),
        Option("--assume-rate", "for --plan: the download speed to expect, in MB/s (default: 10 per connection)",
               positive, "MB"),
        Option("--check", "test credentials, bucket, mount, sources and cluster; for each: ok, or what to do"),
    ),
    AGAIN: (
        Option("--verify", "compare the bucket with the manifest; changes nothing"),
        Option("--deep", "with --verify or --repair: also download the sources again and compare their bytes"),
        Option("--repair", "verify, then store again only what is missing or different"),
        Option("--remove-extra", "with --repair: also remove what --verify lists as extra, objects of no dataset"),
        Option("--force", "extract everything again, even what is complete"),
    ),
    NEXT: (
        Option("--shards", "make tar files of the images of a complete dataset, for training, in shards/<dataset>/ of"
               " the same place", str, choices=("webdataset",)),
    ),
    LIMITS: (
        Option("--connections", "parallel requests to each server, of each process (default: 8, for photos 160)",
               positive, "N"),
        Option("--bwlimit", "bytes/s to download at most, of all processes together: 512K, 20M, 1G (default: no limit)",
               rate, "RATE"),
        Option("--uploads", "parallel writes of objects (default: 256 by the API, 128 through a mount)", positive, "N"),
        Option("--timeout", "seconds without a byte until a source is asked again (default: 30)", positive, "S"),
        Option("--write-rate", "objects/s to write to a bucket at first (default: 1,000; more while it takes them)",
               positive, "N"),
        Option("--outage", "seconds to wait for a bucket that takes no writes (default: 180)", positive, "S"),
        Option("--max-ratio", "refuse an archive that unpacks to more than N times its size (default: 100)", positive,
               "N"),
        Option("--max-unpacked", "refuse an archive that unpacks to more than this (default: 1000)", positive, "GB"),
        Option("--workers", "use N processes on this machine (default: 1)", positive, "N"),
        Option("--scheduler", "use the dask cluster at tcp://host:8786", str, "ADDRESS"),
        Option("--no-checksum",
               "do not compare the archives with their published SHA-256, nor read anything again for it"),
    ),
    OUTPUT: (
        Option("--log-format", "json: one JSON object per line, as Cloud Logging reads it (default: text)", str, None,
               ("text", "json")),
        Option("--quiet", "show only warnings, errors and the result"),
        Option("-v --verbose", "also show retries, and the traceback of an error"),
    ),
}  # fmt: skip
# Variables of other tools that set options too; SPOTTED_… wins, as in docker-shell.sh.
ALIASES = {"GCS_HIERARCHICAL": "SPOTTED_HIERARCHICAL", "GOOGLE_CLOUD_QUOTA_PROJECT": "SPOTTED_BILLING_PROJECT",
           "GCS_BUCKET": "SPOTTED_TO"}  # fmt: skip
KUBERNETES = re.compile("_SERVICE_(HOST|PORT)|_PORT(_|$)")  # set by Kubernetes for a service named "spotted"
COMMANDS = ("list", "plan", "check", "verify", "repair", "shards")
CONFLICTS = (("sample", "mirror"), ("workers", "scheduler"), ("verify", "force"), ("repair", "force"),
             ("shards", "force"), *itertools.product(("limit", "include", "exclude"), ("verify", "repair", "shards")),
             *itertools.combinations(COMMANDS, 2))  # fmt: skip
# An option on the command line overrides all options of its group in the environment.
OVERRIDES = ({"all", "breed", "individual", "dataset"}, *(set(pair) for pair in CONFLICTS))


class Grammar(argparse.ArgumentParser):
    """Raises its errors if the log is JSON; else argparse prints them after the usage."""

    def error(self, message: str) -> NoReturn:
        if log.handlers:
            raise UsageError(message)
        super().error(message)


def grammar() -> argparse.ArgumentParser:
    """Return the parser of the command line, whose result has only the options that are given."""
    parser = Grammar("cli.py", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     argument_default=argparse.SUPPRESS)  # fmt: skip
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        for option in options:
            how: dict[str, Any] = {"action": "store_true"}
            if option.read:
                how = {"action": "append" if option.is_repeated else "store", "type": option.read,
                       "metavar": option.metavar, "choices": option.choices}  # fmt: skip
            group.add_argument(*option.flags.split(), dest=option.dest, help=option.help, **how)
    parser.add_argument("--version", action="version", version=f"spotted-data-extraction {VERSION}")
    return parser


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> RunOptions:
    """Return the options of a command line and its environment. Raises UsageError, or SystemExit(2) from argparse."""
    parser = grammar()
    given = vars(parser.parse_args(arguments))
    overridden = set[str]().union(*(group for group in OVERRIDES if group & given.keys()))
    values = {name: value for name, value in from_environment(environment).items() if name not in overridden} | given
    for one, other in CONFLICTS:
        if one in values and other in values:
            raise UsageError(f"--{one} and --{other} cannot be combined")
    if "deep" in values and not values.keys() & {"verify", "repair"}:
        raise UsageError("--deep needs --verify or --repair")
    if "remove_extra" in values and "repair" not in values:
        raise UsageError("--remove-extra needs --repair")
    return _options(values, parser)


def _options(values: dict[str, Any], parser: argparse.ArgumentParser) -> RunOptions:
    values["command"] = next((name for name in COMMANDS if values.pop(name, False)), "extract")
    groups = [name for name in GROUPS if values.pop(name, False)]
    groups = list(GROUPS) if values.pop("all", False) else groups
    names, file = values.pop("dataset", []), values.pop("datasets_file", "")
    known = {**DATASETS, **(read_datasets(Path(file)) if file else {})}
    for name in names:
        if name not in known:
            raise UsageError(f"-d {name}: no such dataset: expected one of {', '.join(known)}")
    datasets = select(groups, names, known)
    if not datasets and values["command"] in ("list", "check"):
        datasets = list(known.values())
    if not datasets and values.get("sample"):
        datasets = select(GROUPS, [])
    if not datasets:
        if not log.handlers:
            parser.print_help(sys.stderr)
        raise UsageError("nothing to extract: expected at least one of -a, -b, -i, -d NAME")
    include, exclude = (tuple(values.pop(name, ())) for name in ("include", "exclude"))
    values["filter"] = Filter(values.pop("limit", None), include, exclude)
    limits = {field: values.pop(name) for name, field in (("max_ratio", "ratio"), ("max_unpacked", "total"))
              if name in values}  # fmt: skip
    return RunOptions(datasets=tuple(datasets), known=tuple(known.values()), limits=Limits(**limits), **values)


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the variables by option. SPOTTED_DATASET takes several names, separated by commas."""
    variables = {f"SPOTTED_{option.dest.upper()}": option for option in itertools.chain(*OPTIONS.values())}
    aliases = {name: variables[variable] for name, variable in ALIASES.items()}
    found: dict[str, Any] = {}
    for name, option in (aliases | variables).items():
        if text := environment.get(name):
            found |= option.read_variable(name, f"gs://{text.removeprefix('gs://')}" if name == "GCS_BUCKET" else text)
    for name in environment.keys() - variables.keys() - {"SPOTTED_USER"}:
        if name.startswith("SPOTTED_") and not KUBERNETES.search(name):
            nearest = difflib.get_close_matches(name, variables, 1, 0)[0]
            raise UsageError(f"{name}: no such option; did you mean {nearest}?")
    return found


def log_format(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the log format of a command line and its environment, even if other options are wrong."""
    wanted = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    wanted.add_argument("--log-format", nargs="?", default=environment.get("SPOTTED_LOG_FORMAT"))
    return str(wanted.parse_known_args(arguments)[0].log_format)
