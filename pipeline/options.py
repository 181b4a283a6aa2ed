"""What the command line says, as one frozen value; and what every worker must know of it."""

from __future__ import annotations

from dataclasses import dataclass

from archives.spans import LIMITS, Limits
from gcs import Destination
from sources import http


@dataclass(frozen=True)
class WorkerConfig:
    """What every worker must know; picklable."""

    destination: Destination
    connections: int = 8  # to the source, from each process
    uploads: int | None = None  # puts in flight in each process; None: what suits the bucket
    timeout: float = http.TIMEOUT[1]  # seconds without a byte from a source


@dataclass(frozen=True)
class RunOptions:
    """What the user wants of the extraction, beyond the dataset."""

    mirror: str = ""  # URL or directory that has all sources
    is_sample: bool = False
    force: bool = False
    is_deep: bool = False  # to verify by the sources too
    limits: Limits = LIMITS
    no_checksum: bool = False  # whether the archives' published checksums are not compared
    is_spread: bool = False  # over several processes
