"""What no way could be faster than, on this machine and with this delay."""

from __future__ import annotations

from typing import NamedTuple


class Conditions(NamedTuple):
    """What a run meets."""

    source_rate: float  # bytes a second over all connections
    delay: float  # seconds that the bucket takes for a request
    in_flight: int  # requests that may be under way in parallel
    cpu: float  # seconds of CPU for each object that a bare loop of puts takes, the object server's with it
    cores: int


class Limit(NamedTuple):
    """Seconds, and what they are spent with."""

    seconds: float
    by: str


def limit(objects: int, size: int, at: Conditions) -> Limit:
    """The longest of: `size` bytes from the source, one round trip for each object, the CPU for each object."""
    return max(
        Limit(size / at.source_rate, "source"),
        Limit(objects * at.delay / at.in_flight, "delay"),
        Limit(objects * at.cpu / at.cores, "CPU"),
    )
