"""Computes calls by class, dollars and seconds from numbers of objects and bytes. Arithmetic only.

Prices are those of one region, us-central1, as of November 2026: https://cloud.google.com/storage/pricing
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gcs import Way
from storage.rate_limit import DOUBLING_SECONDS, INITIAL_RATE


class Price(NamedTuple):
    """The prices of one storage class, in dollars. Class A is insert and list, class B is get; deletes are free."""

    calls: tuple[float, float]  # a thousand of class A, and of class B
    hierarchical: tuple[float, float]  # the same in a bucket with a hierarchical namespace
    month: float  # to keep a GiB
    retrieval: float  # to read a GiB
    days: int  # minimum for which an object is charged, even if it is removed or replaced earlier


STANDARD = "STANDARD"
PRICES: Mapping[str, Price] = {
    STANDARD: Price((0.005, 0.0004), (0.0065, 0.0005), 0.020, 0, 0),
    "NEARLINE": Price((0.01, 0.001), (0.013, 0.0013), 0.010, 0.01, 30),
    "COLDLINE": Price((0.02, 0.01), (0.026, 0.013), 0.004, 0.02, 90),
    "ARCHIVE": Price((0.05, 0.05), (0.065, 0.065), 0.0012, 0.05, 365),
}
OBJECTS_PER_PAGE = 1000  # objects in one answer
CONNECTION_RATE = 10_000_000  # on one connection to vision.stanford.edu


@dataclass
class Work:
    """The amounts that determine the cost of one dataset."""

    objects: int = 0  # to store
    bytes: int = 0  # to fetch
    units: int = 0  # pieces, each with a journal entry; none where all is complete
    folders: int = 0  # placeholders
    listed: int = 0  # objects in the bucket before
    in_the_end: int = 0  # objects in the bucket afterwards
    kept: int = 0  # journal entries of an earlier run
    checksums: int = 0  # archives that are compared with a published SHA-256, each with a journal entry
    lists: int = 0  # of the splits of the dataset, which are read back


def calls(work: Work, way: Way) -> tuple[int, int]:
    """Return the calls of class A and B for one dataset, as they are counted in the tests.

    A mount looks each new name up: one get and one list (storage/mount.py).
    """
    if not way.is_billed:
        return 0, 0
    if not work.units:  # complete: its manifest's two files are read, and compared with the listing
        return _pages(work.listed) + 2, 2  # whether a journal is left, and the table and the card are there
    look_ups = work.objects + work.folders if way.looks_up else 0
    lists = _pages(work.listed) + _pages(work.in_the_end + work.folders) + _pages(work.kept) + _pages(work.units)
    own = 10  # the manifest's two files, the card's two, the table's three, the lease twice, and what was there before
    a = lists + work.objects + work.folders + work.units - work.kept + work.checksums + own
    return a + look_ups, 3 + work.kept + work.lists + look_ups + _card_reads(work.in_the_end)


def _card_reads(objects: int) -> int:
    """Return how many images and annotations are read back for the card, if every second object is an image."""
    from report.card.facts import MAX_SAMPLE, SAMPLE_STEP, THUMBNAILS  # which draws pictures: not for --help

    return min(MAX_SAMPLE, max(objects // 2 // SAMPLE_STEP, THUMBNAILS)) + THUMBNAILS


def _pages(objects: int) -> int:
    """Return the calls that list so many objects."""
    return max(1, -(-objects // OBJECTS_PER_PAGE))


def dollars(a: int, b: int, is_hierarchical: bool = False, storage_class: str = STANDARD) -> float:
    """Return the cost of so many calls of class A and B."""
    price = PRICES[storage_class]
    class_a, class_b = price.hierarchical if is_hierarchical else price.calls
    return (a * class_a + b * class_b) / 1000


def storing(objects: float, own_rate: float, first_rate: float = INITIAL_RATE) -> float:
    """Return the seconds to store so many, at `own_rate` at most and within the documented ramp of a bucket."""
    seconds, limit = 0.0, first_rate
    while limit < own_rate and objects > limit * DOUBLING_SECONDS:
        objects, seconds, limit = objects - limit * DOUBLING_SECONDS, seconds + DOUBLING_SECONDS, 2 * limit
    return seconds + objects / min(own_rate, limit)


@dataclass(frozen=True)
class Rates:
    """The assumed rates of the source and of the bucket, and what determines the prices."""

    source: float = 8 * CONNECTION_RATE  # bytes a second
    bucket: float = INITIAL_RATE  # objects a second at first; infinite for one that refuses nothing
    is_hierarchical: bool = False
    storage_class: str = STANDARD


def seconds(objects: int, size: int, way: Way, rates: Rates) -> float:
    """Return how long it takes to fetch so many bytes and, in parallel, to store so many objects."""
    first_rate = rates.bucket if way.is_billed else math.inf
    return max(storing(objects, way.objects_a_second, first_rate), size / rates.source)


def cost(works: Sequence[Work], way: Way, rates: Rates) -> dict[str, float]:
    """Return calls, dollars and seconds of all datasets together, as --plan prints them."""
    a, b = (sum(column) for column in zip(*(calls(work, way) for work in works), strict=True))
    objects, size = sum(work.objects for work in works), sum(work.bytes for work in works)
    return {
        "class_a": a,
        "class_b": b,
        "dollars": round(dollars(a, b, rates.is_hierarchical, rates.storage_class), 4),
        "seconds": round(seconds(objects, size, way, rates), 1),
        "best_seconds": round(seconds(objects, size, way, replace(rates, bucket=math.inf)), 1),
    }
