"""Formats amounts, times and tables for people."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

UNITS = ("B", "kB", "MB", "GB", "TB")


def amount(value: float) -> str:
    """Format bytes in decimal multiples: "950 B", "25.2 kB"."""
    exponent = 0
    while exponent + 1 < len(UNITS) and round(value / 1000**exponent, 1) >= 1000:
        exponent += 1
    return f"{value / 1000**exponent:.{min(exponent, 1)}f} {UNITS[exponent]}"


def duration(seconds: float) -> str:
    """Format seconds as seconds, minutes and seconds, or hours and minutes."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def print_table(header: tuple[str, ...], lines: Sequence[tuple[str, ...]], left: int = 2) -> None:
    """Print aligned columns, of which the first `left` are text and the others numbers.

    A terminal that is too narrow gets one line for each cell, with the name of its column.
    """
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    if sys.stdout.isatty() and sum(widths) + 2 * len(widths) - 2 > shutil.get_terminal_size().columns:
        name = max(map(len, header))
        blocks = (
            "\n".join(f"{title:<{name}}  {cell}" for title, cell in zip(header, line, strict=True)) for line in lines
        )
        print("\n\n".join(blocks))
        return
    for line in (header, *lines):
        cells = (cell.ljust(width) if at < left else cell.rjust(width)
                 for at, (cell, width) in enumerate(zip(line, widths, strict=True)))  # fmt: skip
        print("  ".join(cells).rstrip())
