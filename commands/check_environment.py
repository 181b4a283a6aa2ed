"""Tests the machine of a run, and the bucket or directory that it writes to."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import requests

from errors import BucketError, ExtractionError, MemberError
from gcs import Destination, Scheme, mount_point, open_bucket, scheme_of
from pipeline.options import RunOptions
from report.humanize import amount
from storage.bucket import METADATA_PREFIX, Bucket, wanted_region
from storage.gcsfuse import fuse_works, gcsfuse_version, is_fuse

HERE = Path(__file__).parent.parent
PACKAGES = ("dask", "distributed", "google-cloud-storage", "obstore", "requests", "tqdm")


@dataclass(frozen=True)
class Finding:
    """The result of one test: one line."""

    what: str
    is_well: bool
    says: str


def environment_findings(options: RunOptions) -> Iterator[Finding]:
    """Test Python, its packages and the destination; a test object in a bucket is removed again."""
    yield Finding("python", True, platform.python_version())
    yield packages_finding(versions())
    scheme = scheme_of(options.to)
    if scheme.is_path:
        yield attempt("directory", lambda: _directory(options))
    else:
        yield from _bucket(options, scheme)


def attempt(what: str, test: Callable[[], str], cure: str = "") -> Finding:
    """Return the finding of one test: ok with what `test` returns, or its error, followed by `cure`."""
    try:
        return Finding(what, True, test())
    except (ExtractionError, MemberError) as error:
        return Finding(what, False, f"{error}{cure}")


# ── this machine ─────────────────────────────────────────────────────────────────────────────────


def versions() -> dict[str, str]:
    """Return the versions that workers and program must share; `tool` is a checksum of this program's own modules."""
    rooms = [module.parent for module in HERE.glob("*/__init__.py")]
    modules = [*HERE.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(modules)))
    found = {"python": platform.python_version(), "tool": code.hexdigest()[:12]}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def differing(found: Mapping[str, str], wanted: Mapping[str, str], word: str) -> str:
    """Name the versions that differ by more than a patch, which changes no behaviour that a run relies on."""
    pairs = ((name, found.get(name, "none"), version) for name, version in wanted.items())
    return ", ".join(
        f"{name} {one} ({word} {other})" for name, one, other in pairs if one.split(".")[:2] != other.split(".")[:2]
    )


def packages_finding(found: Mapping[str, str]) -> Finding:
    """Compare the packages with the lock file; the image has none, but was built from it."""
    lock = HERE / "Pipfile.lock"
    locked = json.loads(lock.read_text())["default"] if lock.exists() else {}
    wanted = {name: locked[name]["version"].removeprefix("==") for name in PACKAGES if name in locked}
    if wrong := differing(found, wanted, "expected"):
        return Finding("packages", False, f"{wrong}: run make setup, and .venv/bin/python cli.py")
    return Finding("packages", True, ", ".join(f"{name} {found[name]}" for name in PACKAGES))


def _directory(options: RunOptions) -> str:
    root = Path(options.to).absolute()
    place = next(path for path in (root, *root.parents) if path.exists())
    if not _can_write(place):
        raise BucketError(f"{place}: expected a directory that this user may write to; choose another place with --to")
    free = shutil.disk_usage(place).free
    need = 0 if options.mirror else sum(dataset.size for dataset in options.datasets)
    if free < need:
        raise BucketError(
            f"{root}: expected {amount(need)} of free space, got {amount(free)}; choose another place with --to"
        )
    return f"{root} can be written to; {amount(free)} free"


def _can_write(place: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=place):  # with a name, since some file systems have no anonymous files
            return True
    except OSError:
        return False


# ── the bucket ───────────────────────────────────────────────────────────────────────────────────


def _bucket(options: RunOptions, scheme: Scheme) -> Iterator[Finding]:
    found = attempt("credentials", scheme.account)
    if found.says:
        yield found
    if scheme.is_mountable and options.via != "api":
        yield _mount(options)
    if not found.is_well:
        return
    try:
        bucket = open_bucket(Destination(options.to, terms=options.terms))
        state = bucket.probe()
    except ExtractionError as error:
        yield Finding("bucket", False, str(error))
        return
    yield _place(options.to, scheme.container(options.to), state.exists, state.region)
    if state.keeps:
        yield Finding(
            "rights", True, f"not tried, for {state.keeps}: what is stored can be neither replaced nor removed"
        )
    elif state.exists:
        yield attempt("rights", lambda: _rights(bucket, scheme.container(options.to)))


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


def _place(url: str, bucket: str, exists: bool, region: str | None) -> Finding:
    if not exists:
        wanted = wanted_region()
        return Finding("bucket", True, f"{url}: does not exist; a run creates it in {wanted} if the account has"
                       " roles/storage.admin on the project; or run:"
                       f" gcloud storage buckets create {bucket} --location={wanted}")  # fmt: skip
    if region is None:
        return Finding("bucket", True, f"{url}: exists")
    here = vm_region()
    if here and region and not _is_in(here, region):
        return Finding("bucket", False, f"{url}: is in {region}, but this machine is in {here}: slower, and you pay for"
                       " the traffic between them; use a machine and a bucket in the same region")  # fmt: skip
    place = f"in {region}" if region else "in a region that this account may not see"
    return Finding("bucket", True, f"{url}: exists, {place}" + (f", as this machine ({here})" if here else ""))


def vm_region() -> str:
    """Return the region of the Google VM that this runs on; "" elsewhere.

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
    """Return whether a region is a bucket's location or in it. Which regions a pair such as nam4 has is unknown."""
    is_pair = location[-1:].isdigit() and "-" not in location  # nam4, eur4, asia1
    return is_pair or f"{region}-".startswith("europe-" if location == "eu" else f"{location}-")  # us, eu, asia


def _rights(bucket: Bucket, url: str) -> str:
    """Write, list, read and remove a test object."""
    name = f"{METADATA_PREFIX}check/{uuid.uuid4().hex}"
    try:
        bucket.put(name, b"written by --check, and removed again")
        try:
            bucket.get(name)
            is_listed = any(stored.name == name for stored in bucket.list(f"{METADATA_PREFIX}check/"))
        finally:
            if bucket.delete([name]):
                raise BucketError(f"{bucket.url}: {name} cannot be deleted")
    except (BucketError, MemberError) as error:
        raise BucketError(
            f"{error}; grant the account roles/storage.objectAdmin: gcloud storage buckets add-iam-policy-binding"
            f" {url} --member=serviceAccount:ACCOUNT --role=roles/storage.objectAdmin (for a prefix alone:"
            " docs/prefix.md)"
        ) from error
    if not is_listed:
        raise BucketError(f"{bucket.url}: expected {name} to be listed after it was written, it is not")
    return "can write, list, read and remove objects (tried with one)"
