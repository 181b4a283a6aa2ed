"""Amounts, rates and times as people read them."""

from __future__ import annotations


def amount(value: float) -> str:
    """Bytes in decimal multiples."""
    thousands = min(len(f"{int(value):,}".split(",")) - 1, 4)
    return f"{value / 1000**thousands:.{min(thousands, 1)}f} {' kMGT'[thousands]}B".replace("  ", " ")


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds, or hours and minutes."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
