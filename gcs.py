"""Open a destination as a bucket; SCHEMES has all kinds of destinations by the beginning of their URL."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from errors import BucketError, UsageError
from storage.bucket import METADATA_PREFIX, NO_TERMS, Bucket, Terms
from storage.directory import FolderBucket
from storage.gcsfuse import Mountable, is_fuse, mounted
from storage.mount import MountedBucket, MountFolder
from storage.names import object_name
from storage.rate_limit import USUAL_LIMITS, WriteLimits

log = logging.getLogger("spotted")


@dataclass(frozen=True)
class Destination:
    """A destination as the user gave it; small and picklable, because every worker opens it itself."""

    to: str  # a URL of one of SCHEMES, or a directory
    via: str = "api"  # or "mount"
    limits: WriteLimits = USUAL_LIMITS
    terms: Terms = NO_TERMS


class Way(NamedTuple):
    """A way to write to a destination, for the forecast of --plan."""

    name: str
    objects_a_second: int  # measured: docs/scaling.md, docs/mount.md
    is_billed: bool = False  # calls cost, and the bucket has a documented initial rate
    looks_up: bool = False  # each new name costs a look-up, one get and one list (storage/mount.py)


API = Way("api", 3500, is_billed=True)
MOUNT = Way("mount", 400, is_billed=True, looks_up=True)
DIRECTORY = Way("directory", 9000)


class Scheme(ABC):
    """One kind of destination: how to open it, and what --check and --plan need to know about it.

    Its buckets declare their own abilities (storage/bucket.py).
    """

    ways: tuple[Way, ...]
    is_path = False  # a directory of this machine, whose free space --check tests
    is_mountable = False  # by GCSFuse

    @abstractmethod
    def open(self, destination: Destination) -> Bucket:
        """Open the bucket; raises UsageError for an invalid URL, BucketError if it cannot be opened."""

    def container(self, to: str) -> str:
        """The URL of the bucket that is created, and on which rights are granted."""
        return to

    def account(self) -> str:
        """The account that writes, and the origin of its credentials; "" if none are needed. Raises BucketError."""
        return ""


class GoogleCloud(Scheme):
    """gs://bucket or gs://bucket/prefix, by the API or through a mount."""

    ways = (API, MOUNT)
    is_mountable = True

    def open(self, destination: Destination) -> Bucket:
        from storage.api import ApiBucket  # imports take half a second, which a directory does not need

        api = ApiBucket(*bucket_and_prefix(destination.to), destination.limits, destination.terms)
        return MountedBucket(api, mount_point(destination)) if destination.via == "mount" else api

    def container(self, to: str) -> str:
        return f"gs://{bucket_and_prefix(to)[0]}"

    def account(self) -> str:
        from storage.credentials import account

        return account()


class Directory(Scheme):
    """A directory of this machine, which may be a mount."""

    ways = (DIRECTORY,)
    is_path = True

    def open(self, destination: Destination) -> Bucket:
        root = Path(destination.to)
        return MountFolder(root) if is_fuse(root) else FolderBucket(root)


SCHEMES: Mapping[str, Scheme] = {"gs://": GoogleCloud(), "": Directory()}  # by the beginning of the URL


def scheme_of(to: str) -> Scheme:
    """Return the scheme of a destination; raises UsageError if it is unknown."""
    found = re.match(r"[A-Za-z][\w+.-]*://?", to)
    scheme = SCHEMES.get(found[0] if found else "")
    if scheme is None:
        urls = ", ".join(f"{prefix}bucket" for prefix in SCHEMES if prefix)
        raise UsageError(f"expected {urls} or a directory, got {to!r}")
    return scheme


def open_bucket(destination: Destination) -> Bucket:
    """Open a destination; raises UsageError for an invalid name."""
    return scheme_of(destination.to).open(destination)


class Opened(NamedTuple):
    """A destination that is ready to be written: for other processes, and opened in this one."""

    destination: Destination
    bucket: Bucket

    @classmethod
    def of(cls, destination: Destination) -> Opened:
        """Open a destination."""
        return cls(destination, open_bucket(destination))


def mount_point(destination: Destination) -> Path:
    """The mount point of a bucket or prefix: /gcs/<bucket>/<prefix>, as on Vertex AI."""
    return Path("/", os.environ.get("GCS_BUCKET_ROOT", "").strip("/") or "gcs", *bucket_and_prefix(destination.to))


@contextlib.contextmanager
def ready(wanted: Destination, via: str, is_elsewhere: bool = False, keeps_mount: bool = False) -> Iterator[Opened]:
    """Prepare a destination for writing: create a bucket that does not exist, mount it while the context lasts.

    `via` "auto" mounts if FUSE works and the workers are on this machine (`is_elsewhere`: on a cluster). With
    `keeps_mount` the bucket stays mounted. Raises BucketError.
    """
    to, opened = wanted.to, Opened.of(wanted)
    bucket = opened.bucket
    bucket.ready()
    if bucket.has_folders != wanted.terms.is_hierarchical:  # which decides the initial rate
        opened = Opened.of(replace(wanted, terms=wanted.terms._replace(is_hierarchical=bucket.has_folders)))
    with contextlib.ExitStack() as stack:
        if scheme_of(to).is_mountable and via != "api":
            try:
                if via == "auto" and is_elsewhere:
                    raise BucketError("the workers of the cluster have no mount")
                if bucket.keeps:  # the probe of a mount and unfinished files would stay in it
                    raise BucketError(f"{to}: {bucket.keeps}: expected --via api, a mount needs a bucket that lets go")
                opened = _mounted(opened.destination, stack, keeps_mount)
                hint = "; --via api would be several times faster" if via == "auto" else ""
                log.info("%s: writing through the mount at %s%s", to, mount_point(wanted), hint)
            except BucketError as error:
                if via == "mount":
                    raise
                log.info("%s: writing through the API, faster than a mount (%s)", to, error)
        yield opened


def _mounted(api: Destination, stack: contextlib.ExitStack, keeps_mount: bool) -> Opened:
    with contextlib.ExitStack() as attempt:
        name, prefix = bucket_and_prefix(api.to)
        source = Mountable(name, prefix, api.terms.billing_project)
        attempt.enter_context(mounted(source, mount_point(api), keeps_mount))
        opened = Opened.of(replace(api, via="mount"))
        attempt.callback(opened.bucket.close)
        opened.bucket.ready()
        stack.enter_context(attempt.pop_all())
    return opened


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """Split gs://name/prefix; the prefix is "" or ends with "/". Raises UsageError for an invalid name or prefix.

    https://cloud.google.com/storage/docs/buckets#naming
    """
    name, _, path = url.removeprefix("gs://").rstrip("/").partition("/")
    rule = r"(?=.{3,222}$)[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?)*"
    bad = not re.fullmatch(rule, name) or ("." not in name and len(name) > 63) or re.fullmatch(r"(\d+\.){3}\d+", name)
    if bad or name.startswith("goog") or "google" in name:
        raise UsageError(
            f"{url}: not a bucket name that Google Cloud Storage takes: expected gs:// and 3 to 63 of"
            " a-z, 0-9, '-', '_', '.', beginning and ending with a letter or digit"
        )
    prefix, refusal = object_name("", path)
    if path and (refusal or prefix != path or "\\" in path or f"/{METADATA_PREFIX}" in f"/{path}/"):
        raise UsageError(
            f"{url}: not a prefix that objects can have: expected gs://bucket/folder/folder, without empty folders,"
            f" '.', '..', backslashes, control characters and '{METADATA_PREFIX}'"
        )
    return name, f"{prefix}/" if path else ""
