"""Rows become a table on stdout."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(header: tuple[str, ...], lines: Sequence[tuple[str, ...]], left: int = 2) -> None:
    """Columns as wide as they must be; the first `left` are text, the others numbers."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    for line in (header, *lines):
        cells = (cell.ljust(width) if at < left else cell.rjust(width)
                 for at, (cell, width) in enumerate(zip(line, widths, strict=True)))  # fmt: skip
        print("  ".join(cells).rstrip())
