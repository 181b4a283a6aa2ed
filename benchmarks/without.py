"""The tool without one of its parts, to measure what that brings: without.py PART [the tool's own arguments]."""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from pipeline import context, prove, worker
from storage import api, congestion


def _table() -> None:
    """The table of images."""
    vars(worker)["note_of"] = lambda *_, **__: ""
    vars(prove)["NotedRows"] = lambda _: None


def _batching() -> None:
    """Puts four at a time in one thread."""
    context.BATCH_MEMBERS = 1


def _stripes() -> None:
    """Spans that several connections read."""
    context.MIN_STRIPE_BYTES = 8 << 20


def _parallel_listing() -> None:
    """Several pieces of a listing at a time."""
    api.CONCURRENT_LISTINGS = 1


def _probing() -> None:
    """Growth beyond the documented rate while the bucket takes it."""
    congestion.MAX_STEP = 0.0


PARTS: dict[str, Callable[[], None]] = {
    "table": _table, "batching": _batching, "stripes": _stripes, "parallel-listing": _parallel_listing,
    "probing": _probing,
}  # fmt: skip

if __name__ == "__main__":
    PARTS[sys.argv.pop(1)]()
    from cli import main

    sys.exit(main())
