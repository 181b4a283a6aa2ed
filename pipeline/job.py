"""What all datasets of one run share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from datasets import Dataset
from manifest.labels.noted import NotedRows
from manifest.records import Row, Rows
from manifest.selection import Filter
from manifest.store import ManifestStore
from pipeline.cluster import Cluster
from pipeline.options import RunOptions
from pipeline.progress import Report
from storage.bucket import Bucket


class CardWriter(Protocol):
    """Writes the card of a complete dataset; its errors do not make the dataset incomplete."""

    def write_missing(self, dataset: Dataset, store: ManifestStore, rows: Rows, metadata: Mapping[str, Any], /) -> None:
        """Write the card of a complete dataset that has none."""

    def drawn(
        self,
        dataset: Dataset,
        store: ManifestStore,
        noted: NotedRows | None,
        metadata: Mapping[str, Any],
        failures: list[Row],
        /,
    ) -> AbstractContextManager[None]:
        """Draw the card while the context lasts, in which the manifest is written; write it at the end."""


class Job(NamedTuple):
    """The options and workers of a run; `report` receives the progress, `card` writes the cards."""

    options: RunOptions
    cluster: Cluster
    report: Report
    card: CardWriter

    @property
    def bucket(self) -> Bucket:
        """The destination, as it is open in this process."""
        return self.cluster.context.bucket

    def with_filter(self, filter_: Filter) -> Job:
        """Return the same job for other objects."""
        return self._replace(options=replace(self.options, filter=filter_))
