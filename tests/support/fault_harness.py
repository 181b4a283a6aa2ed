"""A trial of a fault: the program is run with it, then once more without it, and what is stored is compared.

The truth is what the standard library takes out of the same archives: every object's name, size and crc32c. A run
must end complete, or fail with the status and the words that the fault names; it must never call complete what is
not; and the same command must then make it complete, with nothing lost, nothing twice and nothing wrong.

SEED (1 if it is not set) picks the moments: the same ones each time. `make chaos` sets LONG, and has what each trial
came to written under .cache/chaos; support.fault_log brings docs/reliability.md up to it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import tarfile
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Self

import google_crc32c

from datasets import DATASETS, Dataset
from sources import sample
from sources.photo_tables import join
from storage.bucket import decode_crc32c
from storage.names import PARTIAL_PREFIX, parents
from support.archives import some_members, tar_of, zip_of
from support.certificates import self_signed
from support.fake_gcs import GcsFront
from support.fake_google import Google
from support.miniature import sums
from support.program import ROOT, clean_environment, command
from support.source_server import SourceServer

SEED = int(os.environ.get("SEED", "1"))
LONG = bool(os.environ.get("LONG"))
ROUNDS = int(os.environ.get("ROUNDS", "5" if LONG else "1"))
LOG, PAGE = ROOT / ".cache/chaos", ROOT / "docs/reliability.md"
LIMIT = 1800 if LONG else 300  # seconds that a run may take
MB = 1 << 20
METADATA_PREFIX = "_extraction/"
MIXTURE = "a random mixture of these, and kills"
KILLED = -signal.SIGKILL
STRANGE = " is none of the dataset"
TABLES = ("metadata.csv", "metadata.jsonl", "croissant.json")
ALL_BOOKS = ("manifest.csv", "manifest.json", "failures.csv", "card.html", "card.json", *TABLES)

Content = tuple[int, int]  # size and crc32c of an object
Provoke = Callable[["Site", random.Random], None]  # makes a fault happen in the next run


# ── the truth ────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1)
def world() -> dict[str, bytes]:
    """All sources by path: the miniature, with larger archives in the place of three of its small ones."""
    stanford = [(f"Images/{name}", data) for name, data in some_members(90, 200_000)]
    stanford.insert(50, ("Images/large.bin", random.Random(2).randbytes(9 * MB)))  # streamed, and a resumable upload
    tsinghua = [(f"low-resolution/{name}", data) for name, data in some_members(60, 150_000, seed=3)]
    files = sample.sources() | {"images.tar": tar_of(stanford), "low-resolution.zip": zip_of(tsinghua)}
    return {f"/{path}": data for path, data in files.items()}


def truth(dataset: Dataset, files: dict[str, bytes]) -> dict[str, Content]:
    """What these sources make, by the object's name."""
    found = dict[str, bytes]()
    for archive in dataset.archives:
        found |= {archive.prefix + name: data for name, data in members(files[f"/{archive.file}"]).items()}
    if dataset.tables:
        for photo in join(files["/apa_dogs.csv"], files["/apa_photos.csv"]):
            data = files.get("/" + photo.url.partition("://")[2].partition("/")[2], sample.HTML)
            if data != sample.HTML:
                found[f"{dataset.tables.image_prefix}{photo.name}.png"] = data
                found[f"{dataset.tables.annotation_prefix}{photo.name}.json"] = photo.annotation
    return {name: (len(data), google_crc32c.value(data)) for name, data in found.items()}


@lru_cache(maxsize=16)
def members(archive: bytes) -> dict[str, bytes]:
    """The files in a tar or zip, as the standard library reads them."""
    if archive.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            return {name: packed.read(name) for name in packed.namelist() if not name.endswith("/")}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {info.name: file.read() for info in tar if (file := tar.extractfile(info))}


# ── a run ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Run:
    """How a run of the program ended."""

    status: int
    said: str  # all that it wrote on stderr
    summary: str  # and on stdout
    seconds: float

    @property
    def last(self) -> str:
        """The last thing that it said."""
        return (self.said.splitlines() or [""])[-1]

    def line_with(self, says: str) -> str:
        """The first line that has these words, where they are any; otherwise the line that tells how it ended."""
        return next((line for line in self.said.splitlines() if says and re.search(says, line)), self.line)

    @property
    def line(self) -> str:
        """The line that tells the user what went wrong, or how it ended."""
        lines = self.said.splitlines() or [""]
        wrong = [line for line in lines if line.startswith("error: ") or ": missing " in line]
        ends = [line for line in lines if re.search(r": (complete|incomplete|failed)\b", line)]
        return (wrong or ends or lines)[0]


class Site:
    """Sources that can be made to misbehave, a destination of its own, and the program between them.

    `place` is "api", a bucket of the emulator; "google", the same behind what Google demands; or "folder".
    """

    def __init__(self, place: str, data: tuple[str, ...] = ("-d", "stanford")) -> None:
        self.place, self.data = place, data
        self.datasets = [each for each in DATASETS.values() if each.name in data]
        self.source = SourceServer()
        self.options, self.environment = list[str](), dict[str, str]()  # of the next runs
        self.wrapper = list[str]()  # a program that starts the runs
        self.after: Callable[[], object] = lambda: None  # what is otherwise from then on, when all is well again
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-")))
        self._stack.enter_context(self.source)
        self.source.files = dict(world())
        self.publish()
        self.bucket = f"test-{uuid.uuid4().hex[:12]}"
        self.to = str(self.home / "out") if self.place == "folder" else f"gs://{self.bucket}"
        if self.place != "folder":
            self.front = self._stack.enter_context(GcsFront())
        if self.place == "google":
            self.google = self._stack.enter_context(Google(self.front, self.home))
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def heal(self) -> None:
        """Nothing planned goes wrong any more; files and what is stored stay as they are."""
        self.source.heal()
        self.options, self.environment = [], {"SPOTTED_MIRROR": self.source.url, "SPOTTED_TIMEOUT": "2"}
        if self.place != "folder":
            self.front.reset()
        if self.place == "api":
            self.environment["STORAGE_EMULATOR_HOST"] = self.front.url
        if self.place == "google":
            self.google.claimed = self.google.life = 3600
            self.environment |= self.google.environment
            self.front.accepts = self.google.accepts

    @property
    def struck(self) -> int:
        """How often something planned went wrong since all was well."""
        slow = self.place != "folder" and bool(self.front.delay or self.front.page < 1000)
        return self.source.struck + (0 if self.place == "folder" else self.front.struck) + slow

    def with_tls(self) -> SourceServer:
        """Another server of the same files, which speaks TLS with a self-signed certificate."""
        server = self._stack.enter_context(SourceServer(self_signed(self.home)))
        server.files = self.source.files
        return server

    def publish(self) -> None:
        """Have the mirror's SHA256SUMS say what its archives are."""
        self.source.files["/SHA256SUMS"] = sums(self.source)

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Begin a run; at the latest it ends with the site."""
        process = subprocess.Popen(
            [*self.wrapper, *command(*self.data, "--to", self.to, *self.options, *options)],
            env=clean_environment(self.home, self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group of its own, as a shell gives it
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    def run(self, *options: str, until: float = LIMIT) -> Run:
        """A whole run; one that is not over after so many seconds is killed."""
        begin, process = time.monotonic(), self.start(*options)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=until)
        process.kill()  # nothing, where it has ended
        summary, said = process.communicate()
        return Run(process.returncode, said, summary, time.monotonic() - begin)

    # ── what is stored ───────────────────────────────────────────────────────────────────────────

    def stored(self) -> dict[str, Content]:
        """Every object, or file and folder, by name; none where there is no bucket yet."""
        if self.place != "folder":
            return self.front.objects(self.bucket) if self.front.has_bucket(self.bucket) else {}
        root, found = Path(self.to), dict[str, Content]()
        for path in root.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a part file that a run has just renamed
                name, data = str(path.relative_to(root)), b"" if path.is_dir() else path.read_bytes()
                found[f"{name}/" if path.is_dir() else name] = len(data), google_crc32c.value(data)
        return found

    def read(self, name: str) -> bytes | None:
        """One object's bytes."""
        if self.place != "folder":
            return self.front.read(self.bucket, name)
        path = Path(self.to, name)
        return path.read_bytes() if path.is_file() else None

    def wrong(self) -> Iterator[str]:
        """What is not as it must be after any run: an object that is none of the truth, a manifest that is not true."""
        stored = self.stored()
        for dataset in self.datasets:
            expected = truth(dataset, self.source.files)
            ours = {name: content for name, content in stored.items() if self._is_of(name, dataset)}
            yield from (f"{name}{STRANGE}" for name in ours.keys() - expected.keys())
            yield from (f"{name} is wrong" for name in ours.keys() & expected.keys() if ours[name] != expected[name])
            if f"{METADATA_PREFIX}{dataset.name}/manifest.csv" in stored:
                yield from (f"the manifest says complete, without {name}" for name in expected.keys() - ours.keys())
                yield from self._wrong_manifest(dataset, expected)

    def _is_of(self, name: str, dataset: Dataset) -> bool:
        return name.startswith(dataset.folder) and not name.endswith("/") and PARTIAL_PREFIX not in name

    def _wrong_manifest(self, dataset: Dataset, expected: dict[str, Content]) -> Iterator[str]:
        table = (self.read(f"{METADATA_PREFIX}{dataset.name}/manifest.csv") or b"").decode()
        rows = [
            (row["path"], int(row["size"]), decode_crc32c(row["crc32c"])) for row in csv.DictReader(io.StringIO(table))
        ]
        if sorted(rows) != sorted((name, *content) for name, content in expected.items()):
            yield f"the manifest of {dataset.name} is not what is stored"

    def lacking(self) -> Iterator[str]:
        """What is not as it must be after a complete run, beyond `wrong`."""
        stored = self.stored()
        expected = set[str]()
        for dataset in self.datasets:
            objects, books = truth(dataset, self.source.files), f"{METADATA_PREFIX}{dataset.name}/"
            expected |= {*objects, *parents(objects), METADATA_PREFIX, books, *(books + name for name in ALL_BOOKS)}
            if f"{books}manifest.csv" not in stored:
                yield f"{dataset.name} has no manifest"
            yield from (f"no {name}" for name in parents(objects) - stored.keys())
        left = (name for name in stored.keys() - expected if name.startswith(METADATA_PREFIX) or PARTIAL_PREFIX in name)
        yield from (f"{name} is left" for name in left)


# ── a trial ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    name: str  # as docs/reliability.md has it
    provoke: Provoke
    status: int | tuple[int, ...] = 0  # that the run with the fault must end with
    says: str = ""  # a pattern of what the user must see
    data: tuple[str, ...] = ("-d", "stanford")
    places: tuple[str, ...] = ("api",)
    spoils: bool = False  # objects that are wrong may be stored, as long as nothing says that they are right
    is_long: bool = False  # it takes minutes: for the long form alone

    @property
    def statuses(self) -> tuple[int, ...]:
        return self.status if isinstance(self.status, tuple) else (self.status,)


@dataclass
class Trial:
    """What became of one fault, once."""

    fault: str
    place: str
    number: int
    seed: int = SEED
    wrong: list[str] = field(default_factory=list)  # what is not as it must be; nothing, if all is well
    status: int = -1  # of the run with the fault
    line: str = ""  # that the user saw
    seconds: float = 0
    said: str = ""
    moment: str = ""  # when it happened, of a fault that has a moment

    @property
    def survived(self) -> str:
        """In the table's words."""
        if self.wrong:
            return "no"
        return "in one run" if self.status == 0 else "after the same command again"


def random_for(*what: object) -> random.Random:
    """Random numbers that are the same for the same seed and the same trial."""
    return random.Random(" ".join(map(str, (SEED, *what))))


def try_out(fault: Fault, place: str, number: int) -> Trial:
    """One trial; what is not as it must be is in its `wrong`."""
    trial = Trial(fault.name, place, number)
    with Site(place, fault.data) as site:
        fault.provoke(site, random_for(fault.name, place, number))
        run = site.run()
        trial.status, trial.line, trial.seconds = run.status, run.line_with(fault.says), round(run.seconds, 1)
        trial.said = run.said
        trial.wrong += judged(run, fault)
        trial.wrong += [] if run.status or site.struck else ["the fault did not happen"]
        trial.wrong += ends_well(site, run, fault.spoils)
    note(trial)
    return trial


def try_mixture(faults: Sequence[Fault], number: int) -> Trial:
    """Several runs, each with a few of these faults in each, of which some are killed; then one without any."""
    trial, rng, spoils = Trial(MIXTURE, "api", number), random_for(MIXTURE, number), False
    with Site("api", ("-d", "stanford", "-d", "tsinghua", "-d", "austin")) as site:
        for _ in range(rng.randint(2, 4)):
            site.heal()
            chosen = rng.sample(faults, 4)
            for fault in chosen:
                fault.provoke(site, rng)
            run = site.run(until=rng.uniform(1, 12) if rng.random() < 0.4 else LIMIT)
            trial.said += f"{', '.join(fault.name for fault in chosen)}: {run.status}\n{run.said}"
            trial.wrong += judged(run, Fault(MIXTURE, chosen[0].provoke, (0, 1, 3, KILLED)))
            # A killed run has not compared what it stored with the listing.
            spoils = run.status != 0 and (spoils or run.status == KILLED or any(fault.spoils for fault in chosen))
            trial.wrong += [each for each in site.wrong() if not spoils or "manifest" in each]
        trial.status, trial.line, trial.seconds = run.status, run.line, round(run.seconds, 1)
        trial.wrong += ends_well(site, run, spoils)
    note(trial)
    return trial


def judged(run: Run, fault: Fault) -> Iterator[str]:
    """What is wrong with how a run ended."""
    if run.status not in fault.statuses:
        yield f"status {run.status}, expected {fault.status}: {run.said}"
    if not re.search(fault.says, run.said):
        yield f"expected the words {fault.says!r}, got: {run.said}"
    if "Traceback" in run.said:
        yield f"a traceback: {run.said}"


def ends_well(site: Site, run: Run, spoils: bool) -> Iterator[str]:
    """What is wrong with what a run has stored, and with what the same command makes of it when all is well again."""
    found = [*site.wrong(), *(site.lacking() if run.status == 0 else ())]
    yield from (f"after the run: {each}" for each in found if not spoils or "manifest" in each)
    site.heal()
    site.after()
    site.publish()
    again = site.run()
    if again.status != 0:
        yield f"the same command again: status {again.status}: {again.said}"
    found = [*site.wrong(), *site.lacking()]
    counted = re.search(r"(\d+) objects in its folder are none of the dataset", again.said)
    strange = [each for each in found if each.endswith(STRANGE)]
    if len(strange) != (int(counted[1]) if counted else 0):  # what an older source left and no journal tells of
        yield f"{len(strange)} objects are none of the dataset, and that is not the logged number: {again.said}"
    yield from (f"after the same command again: {each}" for each in found if each not in strange)


# ── the log ──────────────────────────────────────────────────────────────────────────────────────


def note(trial: Trial) -> None:
    """Write down what became of a trial, in the long form."""
    if LONG:
        LOG.mkdir(parents=True, exist_ok=True)
        line = json.dumps({**asdict(trial), "survived": trial.survived, "time": time.time()}) + "\n"
        with (LOG / f"{SEED}.jsonl").open("ab", buffering=0) as file:
            file.write(line.encode())  # in one write: other processes write there too
