"""A source server, a destination and workers in this process, to extract archives with."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets import Archive, Dataset
from gcs import Destination, open_bucket
from pipeline.cluster import Cluster, start_cluster
from pipeline.context import WorkerContext
from pipeline.job import Job
from pipeline.options import RunOptions, WorkerConfig
from pipeline.results import Progress, Result
from pipeline.run import extract
from report.card import write as card
from storage.bucket import Bucket
from support.fake_gcs import GcsFront
from support.source_server import SourceServer
from support.tars import pack_pax
from support.zips import pack_zip

PACKS = {"tar": pack_pax, "zip": pack_zip(zipfile.ZIP_STORED)}


def only(bench: Bench, name: str, data: bytes) -> Dataset:
    """A dataset of this archive alone."""
    return bench.dataset(False, **{f"a_{name.split(maxsplit=1)[0].replace('.', '_')}": data})


def failures(bench: Bench) -> dict[str, str]:
    """What failures.csv says: path → reason."""
    table = (bench.bucket.get("_extraction/mini/failures.csv") or b"").decode()
    return {row["path"]: row["reason"] for row in csv.DictReader(io.StringIO(table))}


def context_of(destination: Destination, connections: int | None = None) -> WorkerContext:
    """This process's context of a run into a destination."""
    return WorkerContext(WorkerConfig(destination, connections), open_bucket(destination))


class Bench:
    """A source server and workers, and what it takes to extract archives with them."""

    def __init__(self, server: SourceServer, workers: Cluster) -> None:
        self.server, self.workers = server, workers
        self.events: list[Progress] = []

    @property
    def bucket(self) -> Bucket:
        return self.workers.context.bucket

    def dataset(self, pin: bool = False, **files: bytes) -> Dataset:
        """A dataset of these archives, a_tar standing for a.tar."""
        found = []
        for key, data in files.items():
            name = key.replace("_", ".")
            self.server.files[f"/{name}"] = data
            pins = (len(data), hashlib.sha256(data).hexdigest()) if pin else (None, "")
            found.append(Archive((f"{self.server.url}/{name}",), "mini/", name, *pins))
        return Dataset("mini", "a miniature", "mini/", archives=tuple(found))

    def extract(self, dataset: Dataset, options: RunOptions = RunOptions()) -> Result:  # noqa: B008 - frozen
        return extract(dataset, self.job(options))

    def job(self, options: RunOptions = RunOptions()) -> Job:  # noqa: B008 - frozen
        return Job(options, self.workers, self.events.append, card)

    def objects(self) -> dict[str, bytes | None]:
        listed = [stored.name for stored in self.bucket.list("mini/") if not stored.name.endswith("/")]
        return {name.removeprefix("mini/"): self.bucket.get(name) for name in listed}

    def metadata(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.bucket.get("_extraction/mini/manifest.json") or b"{}")
        return found


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


@pytest.fixture
def bench(server: SourceServer, tmp_path: Path) -> Iterator[Bench]:
    destination = Destination(str(tmp_path / "out"))
    with start_cluster(context_of(destination, connections=4)) as workers:
        yield Bench(server, workers)


@pytest.fixture
def api_bench(server: SourceServer, front: GcsFront, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
    destination = Destination(f"gs://test-{uuid.uuid4().hex[:12]}", "api")
    open_bucket(destination).ready()
    with start_cluster(context_of(destination, connections=4)) as workers:
        yield Bench(server, workers)


@pytest.fixture(params=["bench", "api_bench"], ids=["folder", "api"])
def any_bench(request: pytest.FixtureRequest) -> Bench:
    """A directory, and a bucket by its API."""
    found: Bench = request.getfixturevalue(request.param)
    return found
