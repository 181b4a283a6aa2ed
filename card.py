"""A complete dataset gets its card: `card.html`, a page that needs no other file, and `card.json`."""

from __future__ import annotations

import logging

from card_facts import describe
from card_page import render
from errors import ExtractionError
from events import Result
from manifest import Book

log = logging.getLogger("spotted")

MOST = 500_000  # objects: of them a card takes 60 MB, and memory is to stay below 300 MB


def keep(result: Result, book: Book) -> None:
    """Write the card of a dataset that has become complete, or that was and has none.

    The dataset is complete without it: what stands in the way of the card is told in the log.
    """
    layout = result.dataset.layout
    try:
        if result.status or layout is None or (result.was_complete and book.has_card()):
            return
        found = book.manifest()
        if found and len(found[0]) > MOST:
            why = f"for more than {MOST:,} objects it would take too much memory"
            log.info("%s: no card: %s", result.dataset.name, why)
        elif found:
            card, looks = describe(result.dataset, layout, *found, book)
            book.write_card(render(card, looks).encode(), card.encode())
    except (ExtractionError, OSError) as error:
        log.warning("%s: no card could be made: %s", result.dataset.name, error)
