"""The events of a run: the progress of a dataset, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset
from errors import ExtractionError, IncompleteError
from labels.selection import EVERYTHING, Filter
from manifest.records import REFUSED, Row


@dataclass
class Result:
    """How an extraction ended. It is complete when nothing is missing."""

    dataset: Dataset
    objects: int = 0
    size: int = 0  # bytes of all objects
    was_complete: bool = False
    missing: list[Row] = field(default_factory=list)
    extra: list[Row] = field(default_factory=list)  # objects in its folder that are none of it
    is_verification: bool = False
    gone: int = 0  # photos that the source no longer has
    not_images: int = 0  # photos in whose place the source has something else
    fetched: int = 0  # bytes that this run read from the source
    retries: int = 0  # requests to the source that were made again
    seconds: float = 0
    error: str = ""
    filter: Filter = EVERYTHING  # what of the dataset is wanted

    @property
    def rate(self) -> float:
        """Bytes of the source per second."""
        return self.fetched / self.seconds if self.seconds else 0

    @property
    def refused(self) -> int:
        """How many of the missing are so for good: unsafe names, links, devices."""
        return sum(row.outcome == REFUSED for row in self.missing)

    @property
    def status(self) -> int:
        """The exit status that it makes; extra objects are no obstacle to a run, but a finding of a verification."""
        if self.error:
            return ExtractionError.exit_status
        return IncompleteError.exit_status if self.missing or (self.extra and self.is_verification) else 0

    @property
    def state(self) -> str:
        """How it is, in a word; what is extra makes nothing incomplete."""
        return "failed" if self.error else "incomplete" if self.missing else "complete"


@dataclass(frozen=True)
class Progress:
    """The progress of a dataset, earlier runs included; a total is None while it is unknown."""

    dataset: str
    objects: int
    objects_total: int | None
    bytes: int  # of the source
    bytes_total: int | None
