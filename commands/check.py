"""Tests everything that a run needs, one thing after the other, and reports each: ok, or what to do."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from commands.extract import with_mirror
from datasets import Dataset
from errors import BucketError, ExtractionError, MemberError, SourceError, shown
from gcs import Destination, mount_point, open_bucket
from pipeline.cluster import connect
from pipeline.options import RunOptions
from pipeline.planner import ArchiveLocation, locate, plan_photos, tables_of
from pipeline.unit import PhotoWork
from report.humanize import amount
from sources import http, source
from sources.source import look
from storage.bucket import METADATA_PREFIX, Bucket
from storage.gcsfuse import fuse_works, gcsfuse_version, is_fuse

if TYPE_CHECKING:
    from collections.abc import Iterable


HERE = Path(__file__).parent.parent
ROOMS = ("archives", "commands", "manifest", "pipeline", "report", "sources", "storage")
PACKAGES = ("dask", "distributed", "google-cloud-storage", "obstore", "requests", "tqdm")
SOURCES_AT_ONCE = 8
SOURCE_CURE = "; try again later, or take a copy with --mirror"
MIRROR_CURE = "; is --mirror right?"
PHOTOS_TRIED = 5  # about one in a hundred is gone at its source


@dataclass(frozen=True)
class Finding:
    """The result of one test: one line."""

    what: str
    is_well: bool
    says: str


def run(options: RunOptions) -> int:
    """Print all findings; the exit status."""
    with contextlib.ExitStack() as stack:
        findings = examine(with_mirror(options, stack))
        return 0 if print_findings(findings, options.log_format == "json") else ExtractionError.exit_status


def examine(options: RunOptions) -> Iterator[Finding]:
    """All findings, each as soon as it is made; test objects are removed."""
    yield _python()
    yield _packages()
    yield from _bucket(options) if options.to.startswith("gs://") else [_try("directory", lambda: _directory(options))]
    for dataset in options.datasets:
        yield from _sources(dataset, options.mirror)
    if options.scheduler:
        yield _try("cluster", lambda: _cluster(options.scheduler))


def _try(what: str, look: Callable[[], str], cure: str = "") -> Finding:
    """The finding of one test: ok with the answer of `look`, or its error with a possible cure."""
    try:
        return Finding(what, True, look())
    except (ExtractionError, MemberError) as error:
        return Finding(what, False, f"{error}{cure}")


# ── this machine ─────────────────────────────────────────────────────────────────────────────────


def _python() -> Finding:
    is_well = sys.version_info >= (3, 11)
    return Finding("python", is_well, platform.python_version() + ("" if is_well else ": install Python 3.11 or newer"))


def versions() -> dict[str, str]:
    """The versions that workers and program must share; `tool` is a checksum of this program's own modules."""
    modules = [*HERE.glob("*.py"), *(path for room in ROOMS for path in (HERE / room).rglob("*.py"))]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(modules)))
    found = {"python": platform.python_version(), "tool": code.hexdigest()[:12]}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def _agree(one: str, other: str) -> bool:
    """Whether two versions differ by a patch at most, which changes no behaviour that a run rests on."""
    return one.split(".")[:2] == other.split(".")[:2] and one != "none"


def _packages() -> Finding:
    """Where the lock file is at hand the versions are held to it; the image has none, and was built from it."""
    found, lock = versions(), HERE / "Pipfile.lock"
    locked = json.loads(lock.read_text())["default"] if lock.exists() else {}
    wrong = [
        f"{name} {found[name]} (expected {wanted})"
        for name in PACKAGES
        if not _agree(found[name], wanted := locked.get(name, {}).get("version", f"=={found[name]}")[2:])
    ]
    if wrong:
        return Finding("packages", False, f"{', '.join(wrong)}: run make setup, and .venv/bin/python cli.py")
    return Finding("packages", True, ", ".join(f"{name} {found[name]}" for name in PACKAGES))


def _directory(options: RunOptions) -> str:
    root = Path(options.to).absolute()
    place = next(path for path in (root, *root.parents) if path.exists())
    if not _takes_files(place):
        raise BucketError(f"{place}: expected a directory that this user may write to; choose another place with --to")
    free, need = (
        shutil.disk_usage(place).free,
        0 if options.mirror else sum(dataset.size for dataset in options.datasets),
    )
    if free < need:
        raise BucketError(
            f"{root}: expected {amount(need)} of free space, got {amount(free)}; choose another place with --to"
        )
    return f"{root} can be written to; {amount(free)} free"


def _takes_files(place: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=place):  # with a name, since some file systems have no anonymous files
            return True
    except OSError:
        return False


# ── the bucket ───────────────────────────────────────────────────────────────────────────────────


def _bucket(options: RunOptions) -> Iterator[Finding]:
    found = _try("credentials", _who)
    yield found
    if options.via != "api":
        yield _mount(options)
    if not found.is_well:
        return
    try:
        bucket = open_bucket(Destination(options.to))
        look = bucket.look()  # type: ignore[attr-defined]
    except ExtractionError as error:
        yield Finding("bucket", False, str(error))
        return
    yield _place(options.to, look.exists, look.region)
    if look.keeps:
        yield Finding(
            "rights", True, f"not tried, for {look.keeps}: what is stored can be neither replaced nor removed"
        )
    elif look.exists:
        yield _try("rights", lambda: _rights(bucket))


def _who() -> str:
    from storage.credentials import credentials_and_origin

    credentials, origin = credentials_and_origin()
    account = getattr(credentials, "service_account_email", "") or getattr(credentials, "account", "")
    return f"{account or 'an unnamed account'}, {origin}"


def _mount(options: RunOptions) -> Finding:
    works, why = fuse_works()
    where = mount_point(Destination(options.to))
    if is_fuse(where):
        return Finding("mount", True, f"the bucket is mounted at {where} already")
    if works:
        return Finding("mount", True, f"FUSE works; {gcsfuse_version()}")
    if options.via == "auto":
        return Finding("mount", True, f"no mount here ({why}): a run writes through the API instead, which is faster")
    return Finding("mount", False, f"{why}; or use --via api, which needs no mount")


def _place(url: str, exists: bool, region: str) -> Finding:
    if not exists:
        wanted = os.environ.get("GCS_REGION") or "us-central1"
        return Finding("bucket", True, f"{url}: does not exist; a run creates it in {wanted} if the account has"
                       " roles/storage.admin on the project; or run:"
                       f" gcloud storage buckets create {url} --location={wanted}")  # fmt: skip
    here = vm_region()
    if here and region and not _is_in(here, region):
        return Finding("bucket", False, f"{url}: is in {region}, but this machine is in {here}: slower, and you pay for"
                       " the traffic between them; use a machine and a bucket in the same region")  # fmt: skip
    place = f"in {region}" if region else "in a region that this account may not see"
    return Finding("bucket", True, f"{url}: exists, {place}" + (f", as this machine ({here})" if here else ""))


def vm_region() -> str:
    """The region of the Google VM that this runs on; "" elsewhere.

    https://cloud.google.com/compute/docs/metadata/querying-metadata
    """
    host = os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"
    url = f"http://{host}/computeMetadata/v1/instance/zone"  # projects/123/zones/us-central1-a
    try:
        answer = requests.get(url, headers={"Metadata-Flavor": "Google"}, timeout=1)
    except requests.RequestException:
        return ""
    return answer.text.rpartition("/")[2].rpartition("-")[0] if answer.ok else ""


def _is_in(region: str, location: str) -> bool:
    """Whether a region is a bucket's location or in it: multi-regions are us, eu, asia; a pair's are unknown."""
    is_pair = location[-1:].isdigit() and "-" not in location  # nam4, eur4, asia1
    return is_pair or region == location or region.startswith({"eu": "europe-"}.get(location, f"{location}-"))


def _rights(bucket: Bucket) -> str:
    """Write, list and remove an object of our own."""
    name = f"{METADATA_PREFIX}check/{uuid.uuid4().hex}"
    try:
        bucket.put(name, b"written by --check, and removed again")
        try:
            is_listed = any(stored.name == name for stored in bucket.list(f"{METADATA_PREFIX}check/"))
        finally:
            if bucket.delete([name]):
                raise BucketError(f"{bucket.url}: {name} cannot be deleted")
    except (BucketError, MemberError) as error:
        raise BucketError(
            f"{error}; grant the account roles/storage.objectAdmin: gcloud storage buckets add-iam-policy-binding"
            f" {bucket.url} --member=serviceAccount:ACCOUNT --role=roles/storage.objectAdmin"
        ) from error
    if not is_listed:
        raise BucketError(f"{bucket.url}: expected {name} to be listed after it was written, it is not")
    return "can write, list and remove objects (tried with one)"


# ── the sources ──────────────────────────────────────────────────────────────────────────────────


def _sources(dataset: Dataset, mirror: str) -> Iterator[Finding]:
    try:
        parts = [(located, url) for located in locate(dataset, mirror) for url in located.urls]
    except SourceError as error:
        yield Finding(dataset.name, False, f"{error}{MIRROR_CURE}")
        return
    cure = MIRROR_CURE if mirror else SOURCE_CURE
    with ThreadPoolExecutor(SOURCES_AT_ONCE) as pool:
        yield from pool.map(lambda part: _try(dataset.name, lambda: _archive(*part), cure), parts)
        tables = list(pool.map(lambda url: _try(dataset.name, lambda: _table(url), cure), tables_of(dataset, mirror)))
    yield from tables
    if tables and all(table.is_well for table in tables):
        yield _try(dataset.name, lambda: _photos(dataset, mirror), cure)


def _archive(located: ArchiveLocation, url: str) -> str:
    look = source.look(url)
    if len(located.urls) == 1 and look.size is not None:
        http.check_size(url, look.size, located.size)
    size = "of unknown size" if look.size is None else amount(look.size)
    pinned = ", as published" if located.size else ""
    ranges = (
        "range requests work"
        if look.has_ranges
        else "no range requests: a run downloads it into a temporary file first"
    )
    return f"{url}: {size}{pinned}, {ranges}"


def _table(url: str) -> str:
    size = look(url).size
    return f"{url}: " + ("of unknown size" if size is None else amount(size))


def _photos(dataset: Dataset, mirror: str) -> str:
    photos = [photo for unit in plan_photos(dataset, mirror) if isinstance(unit.work, PhotoWork)
              for photo in unit.work.photos if not photo.refusal]  # fmt: skip
    tried = photos[:: max(1, len(photos) // PHOTOS_TRIED)][:PHOTOS_TRIED]
    there = [photo for photo in tried if _is_there(photo.url)]
    if not there:
        raise SourceError(f"{tried[0].url if tried else dataset.name}: none of the {len(tried)} photos tried is there")
    return f"the tables name {len(photos):,} photos; tried {len(tried)}, found {len(there)}"


def _is_there(url: str) -> bool:
    try:
        return bool(http.fetch(url, http.FIRST_ATTEMPTS))
    except SourceError:
        return False


# ── the cluster ──────────────────────────────────────────────────────────────────────────────────


def _cluster(scheduler: str) -> str:
    with connect(scheduler) as client:
        threads = client.nthreads()
        if not threads:
            raise ExtractionError(
                f"{scheduler}: the scheduler has no workers; start some with: dask worker {scheduler}"
            )
        _check_versions(client.run(versions, on_error="return"))
        return (
            f"{scheduler}: {len(threads)} workers with {sum(threads.values())} threads, all with the versions used here"
        )


def _check_versions(found: dict[str, dict[str, str] | Exception]) -> None:
    mine = versions()
    for worker, theirs in found.items():
        if isinstance(theirs, Exception):
            raise ExtractionError(
                f"{worker}: the worker cannot run this program's code ({theirs!r}): start it from the same image"
            )
        other = [
            f"{name} {theirs.get(name)} (here {mine[name]})"
            for name in mine
            if not _agree(str(theirs.get(name)), mine[name])
        ]
        if other:
            raise ExtractionError(f"{worker}: the worker has {', '.join(other)}: start it from the same image")


# ── --check ──────────────────────────────────────────────────────────────────────────────────────


def print_findings(findings: Iterable[Finding], is_json: bool) -> bool:
    """Print each finding as soon as it is made; returns whether all are ok."""
    all_well = True
    for each in findings:
        all_well = all_well and each.is_well
        fields = {"check": each.what, "ok": each.is_well, "message": each.says}
        line = f"{'ok' if each.is_well else 'FAIL':<4}  {each.what:<13}  {each.says}"
        print(shown(json.dumps(fields) if is_json else line), flush=True)
    return all_well
