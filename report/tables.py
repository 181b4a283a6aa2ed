"""Prints tables on stdout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence


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
