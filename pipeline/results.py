"""The progress of a dataset, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset
from errors import ExtractionError, IncompleteError
from manifest.records import REFUSED, Row
from manifest.selection import EVERYTHING, Filter


@dataclass
class Result:
    """The outcome of a command for one dataset, which is complete when nothing is missing."""

    dataset: Dataset
    objects: int = 0
    size: int = 0  # bytes of all objects
    was_complete: bool = False
    missing: list[Row] = field(default_factory=list)
    extra: list[Row] = field(default_factory=list)  # objects in its folder that do not belong to it
    is_verification: bool = False
    gone: int = 0  # photos that the source no longer has
    not_images: int = 0  # photos in whose place the source has something else
    fetched: int = 0  # bytes that this run read from the sources
    retries: int = 0  # repeated requests to the sources
    seconds: float = 0
    error: str = ""
    filter: Filter = EVERYTHING  # the objects that were wanted

    @property
    def rate(self) -> float:
        """Bytes read from the sources per second."""
        return self.fetched / self.seconds if self.seconds else 0

    @property
    def refused(self) -> int:
        """Number of members that are never stored: unsafe names, links, devices."""
        return sum(row.outcome == REFUSED for row in self.missing)

    @property
    def status(self) -> int:
        """The exit status; extra objects count in a verification only."""
        if self.error:
            return ExtractionError.exit_status
        return IncompleteError.exit_status if self.missing or (self.extra and self.is_verification) else 0

    @property
    def state(self) -> str:
        """One of complete, incomplete and failed; extra objects make nothing incomplete."""
        return "failed" if self.error else "incomplete" if self.missing else "complete"


@dataclass(frozen=True)
class Progress:
    """The progress of a dataset, earlier runs included; an unknown total is None."""

    dataset: str
    objects: int
    objects_total: int | None
    bytes: int  # read from the sources
    bytes_total: int | None
