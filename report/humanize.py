"""Formats amounts and times for people."""

from __future__ import annotations

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
