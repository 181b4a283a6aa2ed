"""Prints forecasts as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from commands import costs
from commands.costs import Rates
from errors import redact, shown
from gcs import scheme_of
from report.humanize import amount, duration, print_table
from storage.rate_limit import DOUBLING_SECONDS

if TYPE_CHECKING:
    from commands.plan import Forecast


PLAN = ("dataset", "objects", "already there", "to store", "to fetch")
COSTS = ("", "class A calls", "class B calls", "cost", "time", "at best")


def print_plan(found: Sequence[Forecast], to: str, rates: Rates, is_json: bool) -> None:
    """Print what would be done, and what it would cost."""
    ways = scheme_of(to).ways
    by_way = {way.name: costs.cost([each.work for each in found], way, rates) for way in ways}
    if is_json:
        for each in found:
            print(redact(json.dumps(_fields(each))))
        speeds = {"bytes_a_second": round(rates.source), "objects_a_second": round(rates.bucket)}
        print(json.dumps({"to": to, "storage_class": rates.storage_class, **speeds, **by_way}))
        return
    lines = [_plan_line(each.dataset.name, [each]) for each in found]
    print_table(PLAN, lines + ([_plan_line("total", found)] if len(found) > 1 else []), left=1)
    print("\n~ marks an estimate." if "~" in str(lines) else "")
    if all(each.is_complete for each in found):
        print("Nothing to do: everything is there.")
        return
    if not all(each.is_counted for each in found):
        print("The objects whose number is unknown are left out below.")
    if any(way.is_billed for way in ways):
        _print_costs(by_way, sum(each.work.bytes for each in found), rates)
    else:
        taken = min(cost["seconds"] for cost in by_way.values())
        print(f"It takes about {duration(taken)} if the source gives {amount(rates.source)}/s (--assume-rate).")


def _print_costs(ways: Mapping[str, Mapping[str, float]], size: int, rates: Rates) -> None:
    price, minutes = costs.PRICES[rates.storage_class], DOUBLING_SECONDS // 60
    print(
        f"Time: if the source gives {amount(rates.source)}/s (--assume-rate) and the bucket takes"
        f" {rates.bucket:,.0f} objects/s\nat first and twice as many every {minutes} minutes (--write-rate);"
        " at best, if it takes all immediately."
        f" Cost: once, for calls of the API;\nkeeping {amount(size)} in the bucket costs"
        f" {_dollars(size / (1 << 30) * price.month)} per month{_class_terms(rates.storage_class)}.\n"
    )
    lines = [
        (f"--via {via}", f"{cost['class_a']:,}", f"{cost['class_b']:,}", _dollars(cost["dollars"]),
         duration(cost["seconds"]), duration(cost["best_seconds"]))
        for via, cost in ways.items()
    ]  # fmt: skip
    print_table(COSTS, lines, left=1)


def _class_terms(storage_class: str) -> str:
    """Return what a class other than Standard charges beside calls and months."""
    price = costs.PRICES[storage_class]
    if not price.days:
        return ""
    return (
        f" in {storage_class}.\nThere each object is charged for {price.days} days at least, also where it is"
        f" removed or replaced\nbefore, and reading costs ${price.retrieval:.2f} per GiB"
    )


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.01 or not value else "< $0.01"


def print_moves(found: Iterable[Forecast], to: str) -> None:
    """Print a line for each object; one for an archive whose objects are not known beforehand."""
    for each in found:
        for source, name in each.moves:
            print(shown(f"{source} => {to.rstrip('/')}/{name}"))


def _fields(each: Forecast) -> dict[str, object]:
    return {
        "dataset": each.dataset.name, "objects": each.objects, "there": each.there, "to_store": each.work.objects,
        "bytes_to_fetch": each.work.bytes, "exact": each.is_exact, "counted": each.is_counted,
        "complete": each.is_complete, "notes": each.notes, "error": each.error,
    }  # fmt: skip


def _plan_line(name: str, found: Sequence[Forecast]) -> tuple[str, ...]:
    estimate = "" if all(each.is_exact for each in found) else "~"
    objects, to_store = sum(each.objects for each in found), sum(each.work.objects for each in found)
    there = [each.there for each in found if each.there is not None]
    known = f"{sum(there):,}" if len(there) == len(found) else "unknown"
    size = amount(sum(each.work.bytes for each in found))
    return name, _count(objects, found), known, _count(to_store, found), f"{estimate}{size}"


def _count(objects: int, found: Sequence[Forecast]) -> str:
    """Return a number of objects, or "unknown" if an archive must be read before it is known."""
    if not all(each.is_counted for each in found):
        return f"{objects:,} or more" if objects else "unknown"
    return f"{objects:,}" if all(each.is_exact for each in found) else f"~{objects:,}"
