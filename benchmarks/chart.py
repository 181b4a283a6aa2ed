"""Bars as SVG, without a library: it reads well on light and dark ground, and its text is text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, LABELS, STEP, BAR, TOP = 860, 360, 30, 18, 64  # pixels
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .faint { fill: #656d76; }
  .own { fill: #0969da; } .other { fill: #8c959f; }
  line { stroke: #1f2328; stroke-dasharray: 3 3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .faint { fill: #8d96a0; }
    .own { fill: #4493f8; } .other { fill: #6e7681; } line { stroke: #e6edf3; }
  }"""


class Bar(NamedTuple):
    label: str
    value: float
    is_own: bool
    note: str = ""


def chart(title: str, subtitle: str, bars: Sequence[Bar], mark: tuple[float, str]) -> str:
    """Horizontal bars from the same zero, each with its value; `mark` is a dashed line across all, and its name."""
    height = TOP + STEP * len(bars) + 24
    unit = (WIDTH - LABELS - 110) / max(mark[0], *(bar.value for bar in bars))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}\n</style>",
        f'<text class="title" x="10" y="22">{escape(title)}</text>',
        f'<text class="faint" x="10" y="42">{escape(subtitle)}</text>',
        *(_bar(bar, TOP + STEP * index, unit) for index, bar in enumerate(bars)),
        _mark(LABELS + mark[0] * unit, height, mark[1]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bar(bar: Bar, top: int, unit: float) -> str:
    length = max(bar.value * unit, 1)
    kind, middle = ("own" if bar.is_own else "other"), top + BAR / 2 + 5
    return (
        f'<text x="{LABELS - 10}" y="{middle}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect class="{kind}" x="{LABELS}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>'
        f'<text x="{LABELS + length + 8:.1f}" y="{middle}">{bar.value:,.0f}'
        f'<tspan class="faint"> {escape(bar.note)}</tspan></text>'
    )


def _mark(x: float, height: int, name: str) -> str:
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{height - 20}"/>'
        f'<text class="faint" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{escape(name)}</text>'
    )
