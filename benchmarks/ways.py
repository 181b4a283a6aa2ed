"""The ways to go, and the matrix of who goes how far under which conditions, as data.

A command is bash, run in an empty folder. $SOURCE is the archives' URL, $OUT a directory to fill; the bucket is called
bench, and every client finds it by its own variables, which `environment` sets.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
BUCKET = "bench"
TOOL = f"{sys.executable} {HERE.parent}/cli.py -d stanford --quiet --mirror $SOURCE"
UNPACK = (
    "mkdir -p $OUT/lists; for part in images annotation; do curl -sf $SOURCE/$part.tar | tar x -C $OUT; done;"
    " curl -sf $SOURCE/lists.tar | tar x -C $OUT/lists"
)
EXTRACT = "for part in images annotation lists; do rclone -q archive extract source:$part.tar bucket:bench/$part; done"


class Way(NamedTuple):
    """A command, and the programs and devices without which it cannot be run."""

    title: str
    command: str
    needs: tuple[str, ...] = ()


WAYS = {
    "api": Way("**this tool**, `--via api`", f"{TOOL} --via api --to gs://{BUCKET}"),
    "mount": Way(
        "**this tool**, `--via mount`",
        f"{TOOL} --via mount --to gs://{BUCKET}",
        ("gcsfuse", "fusermount3", "/dev/fuse"),
    ),
    "upload_many": Way(
        "`curl`, `tar x`, `transfer_manager.upload_many`",
        f"OUT=x; {UNPACK}; {sys.executable} {HERE}/upload_many.py x {BUCKET}",
        ("curl", "tar"),
    ),
    "rclone": Way(
        "`curl`, `tar x`, `rclone copy --transfers 64`",
        f"OUT=x; {UNPACK}; rclone -q copy --transfers 64 x bucket:{BUCKET}",
        ("curl", "tar", "rclone"),
    ),
    "gcloud": Way(
        "`curl`, `tar x`, `gcloud storage cp -r`",
        f"OUT=x; {UNPACK}; gcloud storage cp -q -r x/Images x/Annotation x/lists gs://{BUCKET}",
        ("curl", "tar", "gcloud"),
    ),
    "archive": Way(
        "`rclone copy --transfers 64` of an archive backend",
        f"rclone -q copy --transfers 64 :archive:source:zip bucket:{BUCKET}",
        ("rclone",),
    ),
    "extract": Way("`rclone archive extract`", EXTRACT, ("rclone",)),
    "usual": Way(
        "the usual way: download, unpack, processes that copy into the mount",
        f"{sys.executable} {HERE}/usual_way.py $SOURCE /$GCS_BUCKET_ROOT/{BUCKET}",
        ("gcsfuse", "fusermount3", "/dev/fuse"),
    ),
    "directory": Way("**this tool**", f"{TOOL} --to $OUT"),
    "curl": Way("`curl`, `tar x`", UNPACK, ("curl", "tar")),
}


class Setting(NamedTuple):
    """Conditions, and the share of the input that each way is given under them; the first is who is compared with."""

    title: str
    delay: float  # seconds that the bucket takes for a request
    rate: float  # bytes a second that a connection to the source has; 0 for no limit
    shares: Mapping[str, float]

    @property
    def to_bucket(self) -> bool:
        return "directory" not in self.shares


# A tool that takes minutes for all of it is given less, so that the whole matrix takes twenty minutes.
SHARES = {
    "api": 1.0, "upload_many": 0.25, "rclone": 0.25, "gcloud": 0.05, "archive": 0.05, "extract": 0.005,
    "mount": 0.1, "usual": 0.01,
}  # fmt: skip
SETTINGS = (
    Setting("Into the bucket, 0 ms a request", 0, 0, SHARES),
    Setting("Into the bucket, 20 ms a request", 0.02, 0, SHARES),
    Setting("Into the bucket, 50 ms a request", 0.05, 0, SHARES),
    Setting("50 ms a request, and 5 MB/s for each connection to the source", 0.05, 5e6, {"api": 1.0, "rclone": 0.1}),
    Setting("Into a directory", 0, 0, {"directory": 1.0, "curl": 1.0}),
)


def lacking(way: Way) -> list[str]:
    """What this machine has not got of what the way needs."""
    return [need for need in way.needs if not (os.path.exists(need) if need.startswith("/") else shutil.which(need))]


def environment(source: str, server: str, root: Path, out: Path) -> dict[str, str]:
    """The variables by which all clients find source and bucket; `root` is a folder for what they keep."""
    own = {
        "SOURCE": source,
        "OUT": str(out),
        "GCS_BUCKET_ROOT": str(root / "gcs").lstrip("/"),
        "STORAGE_EMULATOR_HOST": server,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{server}/storage/v1/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_PROJECT": "x",
        "CLOUDSDK_CONFIG": str(root / "gcloud"),
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_SOURCE_TYPE": "http",
        "RCLONE_CONFIG_SOURCE_URL": source,
        "RCLONE_CONFIG_BUCKET_TYPE": "google cloud storage",
        "RCLONE_CONFIG_BUCKET_ENDPOINT": f"{server}/storage/v1/",
        "RCLONE_CONFIG_BUCKET_ANONYMOUS": "true",
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("SPOTTED_")} | own
