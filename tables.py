"""Tables on stdout: what there is, what would be done, what was found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import costs
from costs import Rates
from pace import DOUBLING
from redaction import redact
from words import amount, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from datasets import Dataset
    from doctor import Finding
    from outlook import Forecast

PLAN = ("dataset", "objects", "already there", "to store", "to fetch")
BUCKET, DIRECTORY = ("api", "mount"), ("directory",)
COSTS = ("", "class A calls", "class B calls", "dollars", "time")


def print_table(header: tuple[str, ...], lines: Sequence[tuple[str, ...]], left: int = 2) -> None:
    """Columns as wide as they must be; the first `left` are text, the others numbers."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    for line in (header, *lines):
        cells = (cell.ljust(width) if at < left else cell.rjust(width)
                 for at, (cell, width) in enumerate(zip(line, widths, strict=True)))  # fmt: skip
        print("  ".join(cells).rstrip())


# ── --list ───────────────────────────────────────────────────────────────────────────────────────


def print_list(datasets: Iterable[Dataset], is_json: bool) -> None:
    """What can be extracted."""
    for each in datasets:
        options = {"breed": "-a -b", "individual": "-a -i", "": f"-d {each.name}"}[each.group]
        if is_json:
            fields = {"dataset": each.name, "title": each.title, "group": each.group, "objects": each.objects,
                      "bytes": each.size, "licence": each.licence, "home": each.home}  # fmt: skip
            print(json.dumps(fields))
        else:
            count = f"{each.objects:,} objects from " if each.objects else ""
            print(f"{each.name:<14} {each.title}\n{'':14} {count}{amount(each.size)}; option {options}\n"
                  f"{'':14} licence: {each.licence}\n{'':14} {each.home}")  # fmt: skip


# ── --plan ───────────────────────────────────────────────────────────────────────────────────────


def print_plan(found: Sequence[Forecast], to: str, rates: Rates, is_json: bool) -> None:
    """What would be done, and what it would cost."""
    ways = {via: _cost(found, via, rates) for via in (BUCKET if to.startswith("gs://") else DIRECTORY)}
    if is_json:
        for each in found:
            print(redact(json.dumps(_fields(each))))
        print(
            json.dumps(
                {"to": to, "bytes_a_second": round(rates.source), "objects_a_second": round(rates.bucket), **ways}
            )
        )
        return
    print_table(PLAN, [_plan_line(each) for each in found], left=1)
    print(f"\nThe source is taken to give {amount(rates.source)}/s.", end=" ")
    if to.startswith("gs://"):
        _print_costs(ways, sum(each.work.bytes for each in found), rates.bucket)
    else:
        print(f"That takes {duration(ways['directory']['seconds'])}.")


def _print_costs(ways: Mapping[str, Mapping[str, float]], size: int, rate: float) -> None:
    print(
        f"A bucket is asked to take {rate:,.0f} objects/s at first,\nand twice as many every {DOUBLING // 60} minutes."
        f" Once stored, {amount(size)} cost ${size * costs.MONTH:,.2f} a month.\n"
    )
    lines = [
        (f"--via {via}", f"{cost['class_a']:,}", f"{cost['class_b']:,}", f"${cost['dollars']:,.2f}",
         duration(cost["seconds"]))
        for via, cost in ways.items()
    ]  # fmt: skip
    print_table(COSTS, lines, left=1)


def print_moves(found: Iterable[Forecast], to: str) -> None:
    """A line for each object whose name is known beforehand, and for each archive where they are not."""
    for each in found:
        for source, name in each.moves:
            print(redact(f"{source} => {to.rstrip('/')}/{name}"))


def _cost(found: Sequence[Forecast], via: str, rates: Rates) -> dict[str, float]:
    counts = [costs.calls(each.work, via) for each in found]
    a, b = (sum(column) for column in zip(*counts, strict=True))
    objects, size = sum(each.work.objects for each in found), sum(each.work.bytes for each in found)
    seconds = costs.seconds(objects, size, via, rates)
    return {"class_a": a, "class_b": b, "dollars": round(costs.dollars(a, b), 4), "seconds": round(seconds, 1)}


def _fields(each: Forecast) -> dict[str, object]:
    return {
        "dataset": each.dataset.name, "objects": each.objects, "there": each.there, "to_store": each.work.objects,
        "bytes_to_fetch": each.work.bytes, "exact": each.is_exact, "notes": each.notes, "error": each.error,
    }  # fmt: skip


def _plan_line(each: Forecast) -> tuple[str, ...]:
    about = "" if each.is_exact else "~"
    there = "unknown" if each.there is None else f"{each.there:,}"
    counts = f"{about}{each.objects:,}", there, f"{about}{each.work.objects:,}", f"{about}{amount(each.work.bytes)}"
    return each.dataset.name, *counts


# ── --check ──────────────────────────────────────────────────────────────────────────────────────


def print_findings(findings: Iterable[Finding], is_json: bool) -> bool:
    """Each as soon as it is made; answers whether all is well."""
    all_well = True
    for each in findings:
        all_well = all_well and each.is_well
        fields = {"check": each.what, "ok": each.is_well, "message": each.says}
        line = f"{'ok' if each.is_well else 'NO':<3} {each.what:<14} {each.says}"
        print(redact(json.dumps(fields) if is_json else line), flush=True)
    return all_well
