"""The options of a run as one frozen value, and the part of them that every worker needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from archives.spans import LIMITS, Limits
from datasets import DATASETS, Dataset
from manifest.selection import EVERYTHING, Filter
from storage.bucket import Terms

if TYPE_CHECKING:
    from gcs import Destination  # which imports the libraries of the clouds

DEFAULT_TO = "gs://spot-raw-data"
READERS = 8  # connections to the archives of a dataset


@dataclass(frozen=True)
class RunOptions:
    """The options of one run. `command` is extract, list, plan, check, verify, repair or shards."""

    datasets: tuple[Dataset, ...] = ()
    known: tuple[Dataset, ...] = tuple(DATASETS.values())  # with those of --datasets-file
    command: str = "extract"
    to: str = DEFAULT_TO  # gs://bucket, gs://bucket/prefix or a directory
    via: str = "auto"  # or "mount", "api"
    mirror: str = ""  # URL or directory that has all sources
    allow_private_addresses: bool = False  # follow public sources to private addresses
    sample: bool = False
    keep_mount: bool = False  # leave the bucket mounted at the end
    hierarchical: bool = False  # create the bucket with a hierarchical namespace
    storage_class: str = ""  # default class of a bucket that the run creates; "": STANDARD
    kms_key: str = ""  # Cloud KMS key of a bucket that the run creates; "": a key of Google's
    billing_project: str = ""  # pays for the requests; "": the credentials' quota project, or the bucket's owner
    deep: bool = False  # verify and repair: read the sources too
    remove_extra: bool = False  # repair: remove objects that do not belong to the dataset
    force: bool = False
    filter: Filter = EVERYTHING  # the objects to extract
    no_checksum: bool = False  # do not compare archives with their published SHA-256
    connections: int | None = None  # per host and process; None: READERS for archives, CONCURRENT_PHOTOS for photos
    bwlimit: int = 0  # bytes/s, the sum over all sources and processes; 0: no limit
    uploads: int | None = None  # puts in flight in each process; None: the bucket's own number
    timeout: int = 30  # seconds without a byte from a source
    outage: int = 180  # seconds to wait for a bucket that accepts no writes
    write_rate: int | None = None  # initial objects/s, the sum over all writers; None: the documented rate
    assume_rate: int | None = None  # MB/s that --plan assumes; None: 10 per connection
    limits: Limits = LIMITS
    workers: int = 0  # processes on this machine; 0: this one
    scheduler: str = ""  # address of a dask cluster
    log_format: str = "text"  # or "json"
    quiet: bool = False
    verbose: bool = False

    @property
    def terms(self) -> Terms:
        """The billing project, and the properties of a bucket that the run creates."""
        return Terms(self.billing_project, self.storage_class, self.kms_key)

    @property
    def is_spread(self) -> bool:
        """Whether several processes share one archive, so that no process reads all of its bytes."""
        return bool(self.workers or self.scheduler)


@dataclass(frozen=True)
class WorkerConfig:
    """The options that every worker needs; picklable."""

    destination: Destination
    connections: int | None = None
    uploads: int | None = None
    timeout: float = 30
    allow_private_addresses: bool = False
    bwlimit: int = 0  # bytes/s of this process

    @property
    def readers(self) -> int:
        """Number of connections that read archives."""
        return self.connections or READERS

    @classmethod
    def of(cls, options: RunOptions, destination: Destination) -> WorkerConfig:
        """Select them from the options of a run."""
        return cls(
            destination, options.connections, options.uploads, options.timeout, options.allow_private_addresses,
            options.bwlimit,
        )  # fmt: skip
