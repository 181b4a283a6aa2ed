"""Join the spans of a tar to one chain, and store its hard links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from archives.spans import Span
from errors import SourceChangedError
from manifest.journal import JournalEntry
from manifest.records import STORED, Row
from pipeline.dataset_run import DatasetRun
from pipeline.existing import Listing
from pipeline.hard_links import resolve, spans_with
from pipeline.planner import PlannedArchive
from pipeline.unit import SpanWork, Unit


def join_chains(run: DatasetRun, present: Listing) -> None:
    """Read the spans of tars again that began at the wrong place, then store the tars' hard links.

    The objects of the wrong spans are added to `run.false_starts`. Links that `present` has are not stored again.
    """
    for each in run.planned:
        if not any(run.entries[unit.id].error for unit in each.units):
            _join_chain(run, each)
            _store_links(run, each, present)


def _join_chain(run: DatasetRun, each: PlannedArchive) -> None:
    spans = [work.span for work in each.works]
    while broken := each.kind.broken_link(each.source.name, spans, [run.entries[unit.id].link for unit in each.units]):
        index, span = broken
        unit = each.units[index]
        run.false_starts |= {row.path for row in run.entries[unit.id].rows}
        run.entries[unit.id] = JournalEntry(unit.id, unit.fingerprint)
        run.discard([unit.id])
        if span is not None:
            if run.checks.get(each.archive.file) == "matches":  # a comparison of other bytes
                del run.checks[each.archive.file]
            spans[index] = span
            run.units[unit.id] = replace(unit, work=replace(each.works[index], span=span))
            run.run_units([run.units[unit.id]], {})


def _store_links(run: DatasetRun, each: PlannedArchive, present: Listing) -> None:
    extents = resolve([run.entries[unit.id].rows for unit in each.units])
    spans = spans_with(extents, each.works[0].span)
    units = [_links_unit(each, number, span) for number, span in enumerate(spans)]
    if not units:
        return
    run.units = _after(run.units, each.units[-1].id, units)
    wanted = {it.name: Row(it.name, it.size, it.crc32c, each.source.name, it.offset) for it in extents}
    run.run_units(units, present, wanted if run.wanted is None else None)
    for row in (row for unit in units for row in run.entries[unit.id].rows if row.outcome == STORED):
        if row.crc32c != wanted[row.path].crc32c:
            raise SourceChangedError(
                f"{each.source.name}: {row.path}, a hard link, has other bytes than its target had; run again"
            )


def _links_unit(each: PlannedArchive, number: int, span: Span) -> Unit:
    work = SpanWork(each.source, span, "")  # the extents' names are those of objects
    return replace(each.units[0], id=f"{each.archive.file}/links-{number:06d}", work=work, size=span.stop - span.start)


def _after(units: Mapping[str, Unit], last: str, more: Iterable[Unit]) -> dict[str, Unit]:
    """Insert units after the unit `last`: of one path, the later unit counts."""
    at = list(units).index(last) + 1
    items = list(units.items())
    return dict([*items[:at], *((unit.id, unit) for unit in more), *items[at:]])
