"""Writes the card of a complete dataset: `card.html`, a self-contained page, and `card.json`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from manifest.labels.noted import NotedRows
from manifest.records import Row, Rows
from manifest.store import ManifestStore

log = logging.getLogger("spotted")

MAX_OBJECTS = 500_000  # a card of so many takes 60 MB, and memory must stay below 300 MB


def write_missing(dataset: Dataset, store: ManifestStore, rows: Rows, metadata: Mapping[str, Any]) -> None:
    """Write the card of a dataset that was complete before, and has none."""
    if dataset.layout is None or _is_too_large(dataset, metadata):
        return
    with _optional(dataset):
        noted = NotedRows.of(dataset.layout, rows)
        with drawn(dataset, store, noted, metadata, store.failures()):
            pass


@contextmanager
def drawn(
    dataset: Dataset, store: ManifestStore, noted: NotedRows | None, metadata: Mapping[str, Any], failures: list[Row]
) -> Iterator[None]:
    """Draw the card of a dataset in parallel to the block, which writes the manifest; write the card after that.

    Writing a manifest is mostly waiting for the bucket: most of the card is drawn in that time.
    """
    thread = ThreadPoolExecutor(1)
    try:
        drawing = thread.submit(_draw, dataset, store, noted, metadata, failures)
        yield
        with _optional(dataset):
            if card := drawing.result():
                store.write_card(*card)
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _optional(dataset: Dataset) -> Iterator[None]:
    """Log an error of any kind: a dataset is complete without its card."""
    try:
        yield
    except Exception as error:
        log.warning("%s: no card could be made: %s", dataset.name, error)


def _is_too_large(dataset: Dataset, metadata: Mapping[str, Any]) -> bool:
    if is_large := metadata["objects"] > MAX_OBJECTS:
        why = f"for more than {MAX_OBJECTS:,} objects it would take too much memory"
        log.info("%s: no card: %s", dataset.name, why)
    return bool(is_large)


def _draw(
    dataset: Dataset, store: ManifestStore, noted: NotedRows | None, metadata: Mapping[str, Any], failures: list[Row]
) -> tuple[bytes, bytes] | None:
    """Return card.html and card.json; None for a dataset that gets no card."""
    if noted is None or _is_too_large(dataset, metadata):
        return None
    # With Pillow, which other commands do without.
    from report.card.facts import Survey, describe, encode, read_previews
    from report.card.page import render

    survey = Survey(noted)
    previews = read_previews(store.bucket, survey)
    card = describe(dataset, metadata, survey, previews, failures)
    return render(noted.layout, card, previews).encode(), encode(card)
