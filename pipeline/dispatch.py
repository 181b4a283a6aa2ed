"""Run units on the dask workers, and yield their journal entries in the order in which they finish.

Two windows bound the memory: no more units are submitted than run in parallel, and of one archive none far ahead of the
oldest unfinished unit, because its bytes would wait for the archive's checksum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from distributed import CancelledError, Future, KilledWorker, as_completed, get_worker
from distributed.comm.core import CommClosedError
from distributed.scheduler import NoWorkerError

from errors import ExtractionError, SourceError
from manifest.journal import JournalEntry
from pipeline.cluster import Cluster, raise_lost
from pipeline.context import context_of
from pipeline.shards import ShardUnit, make_shard
from pipeline.unit import Unit, Wanted
from pipeline.worker import run_unit
from storage.bucket import Stored, reason


def run(
    cluster: Cluster, units: Sequence[Unit], present: Mapping[str, Stored], wanted: Wanted = None
) -> Iterator[tuple[Unit, JournalEntry]]:
    """Run all units and yield each with its entry as it finishes; the `error` of a failed unit's entry has the reason.

    Raises BucketError and SourceChangedError, and SourceError once as many consecutive units failed as run in
    parallel.
    """
    return _Run(cluster, units, present, wanted).results()


def _run_unit(unit: Unit, run: str, present: Mapping[str, Stored], wanted: Wanted) -> JournalEntry:
    worker = get_worker()
    context, report = context_of(worker, run), partial(worker.log_event, run)
    if isinstance(unit, ShardUnit):
        return make_shard(unit, context, report)
    return run_unit(unit, context, present, wanted, report)


class _Run:
    def __init__(self, cluster: Cluster, units: Sequence[Unit], present: Mapping[str, Stored], wanted: Wanted) -> None:
        self.cluster, self.units, self.wanted = cluster, units, wanted
        self.present: Any = self._scattered(present) if present else {}  # a future, which dask resolves
        self.unfinished: dict[Future[JournalEntry], int] = {}  # future → index of its unit, the oldest first
        self.next = self.failures = 0
        self.covered: dict[str, int] = {}  # source → the end of its last finished member, in bytes

    def _scattered(self, present: Mapping[str, Stored]) -> Any:
        # In a list, because dask makes a future of each value of a dict and names it by its key, here an object's name,
        # which another run may use too. With hash=True the future's name could be another run's as well.
        try:
            return self.cluster.client.scatter([dict(present)], broadcast=True, hash=False)[0]
        except OSError as error:
            raise_lost(error)

    def results(self) -> Iterator[tuple[Unit, JournalEntry]]:
        completed = as_completed()
        try:
            while self.unfinished or self.next < len(self.units):
                yield from self._hand_out(completed)
                if self.unfinished:
                    future = next(completed)
                    unit = self.units[self.unfinished.pop(future)]
                    yield unit, self._entry(unit, future)
        finally:
            self.cluster.client.cancel(list(self.unfinished))

    def _hand_out(self, completed: as_completed) -> Iterator[tuple[Unit, JournalEntry]]:
        most, context = self.cluster.max_in_flight(), self.cluster.context
        while self.next < len(self.units):
            unit = self.units[self.next]
            max_in_flight = min(most, context.max_spans()) if unit.work.span and self.cluster.is_local else most
            if max(len(self.unfinished), self.next - self._oldest_with(unit)) >= max_in_flight:
                return
            if self._is_covered(unit):
                yield unit, JournalEntry(unit.id, unit.fingerprint, size=unit.size)
            else:
                future = self._submit(unit)
                self.unfinished[future] = self.next
                completed.add(future)
            self.next += 1

    def _oldest_with(self, unit: Unit) -> int:
        """Index of the first unfinished unit of the same archive; slow units of one archive do not hold up the next."""
        same = (index for index in self.unfinished.values() if self.units[index].archive == unit.archive)
        return next(same, self.next)

    def _submit(self, unit: Unit) -> Future[JournalEntry]:
        key = f"{unit.dataset}/{unit.id}#{uuid4().hex}"
        arguments = unit, self.cluster.run, self.present, self.wanted
        return self.cluster.client.submit(_run_unit, *arguments, key=key, pure=False)

    def _is_covered(self, unit: Unit) -> bool:
        work = unit.work
        if work.span is None or work.span.begin is not None:
            return False
        return work.span.stop <= self.covered.get(work.source.name, 0)

    def _entry(self, unit: Unit, future: Future[JournalEntry]) -> JournalEntry:
        try:
            entry: JournalEntry = future.result()
        except KilledWorker as error:
            raise ExtractionError(
                f"{unit.id}: all workers that worked on it ended, often for lack of memory ({reason(error)}); run again"
            ) from error
        except (CancelledError, CommClosedError, NoWorkerError) as error:
            raise_lost(error)
        if unit.work.span:
            self.covered[unit.work.source.name] = max(self.covered.get(unit.work.source.name, 0), entry.link.end)
        self.failures = self.failures + 1 if entry.failure else 0
        if self.failures >= self.cluster.max_in_flight():
            raise SourceError(f"{self.failures} pieces in a row failed; the last: {entry.failure}")
        return entry
