"""Members become objects: batches of a few small members go to the uploading threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

from archives.spans import Buffer
from manifest.records import Row
from pipeline.context import WorkerContext
from pipeline.parts import Mark, PartWriter

BATCH_SECONDS = 0.1  # after which a member of a slow source is put alone: waiting members are read again after a kill
# Pending batches of one unit. A span of photos has 50, one of annotations thousands: where these
# all queue up before the threads, photos are left for the end, and those alone are more than two cores bear.
PENDING = 120


class UploadBatcher:
    """A unit's small members on their way: a few go to each thread, since a hand-over costs as much as a put.

    `parts` receives each finished batch.
    """

    def __init__(self, context: WorkerContext, put: Callable[[Row, Buffer], Row], parts: PartWriter | None) -> None:
        self.context, self.put, self.parts, self.rows = context, put, parts, list[Row]()
        self._next, self._size = list[tuple[Row, Buffer | None]](), 0
        self._mark, self._batches, self._handed_over = Mark(0), 0, time.monotonic()
        self._pending = deque[Future[list[Row]]]()
        self._last = dict[str, Future[list[Row]]]()  # by path, of those that are pending

    def add(self, row: Row, data: Buffer | None, mark: Mark) -> None:
        """Queue the upload; without data, it is only a row. `mark` is the place after it.

        Of two members of one name the later must win, so it comes after the earlier.
        """
        if row.path in self._last:
            wait([self._last[row.path]])
        self._next.append((row, data))
        self._size, self._mark = self._size + len(data or b""), mark
        members, size = self.context.batch
        is_late = time.monotonic() - self._handed_over > BATCH_SECONDS
        if len(self._next) >= members or self._size >= size or is_late:
            self._hand_over()

    def _hand_over(self) -> None:
        batch, size, self._next, self._size = self._next, self._size, [], 0
        put = self.context.submit(size, self._put_all, self._batches, batch, self._mark)
        self._batches, self._handed_over = self._batches + 1, time.monotonic()
        self._last |= dict.fromkeys((row.path for row, _ in batch), put)
        self._pending.append(put)
        if len(self._pending) > PENDING:
            self._settle_first()

    def _put_all(self, number: int, members: Sequence[tuple[Row, Buffer | None]], mark: Mark) -> list[Row]:
        rows = [row if data is None else self.put(row, data) for row, data in members]
        if self.parts:
            self.parts.add(number, rows, mark)
        return rows

    def _settle_first(self) -> None:
        put = self._pending.popleft()
        arrived = put.result()
        self.rows += arrived
        for row in arrived:
            if self._last.get(row.path) is put:
                del self._last[row.path]

    def make_way(self, path: str) -> None:
        """Before a large member: wait for an earlier one of its name, and write a part, since this may take minutes."""
        if self._next:
            self._hand_over()
        if self.parts:
            self.settle()
            self.parts.flush(only_if_due=True)
        elif path in self._last:
            wait([self._last[path]])

    def finish(self) -> list[Row]:
        """All rows, when all are put; raises what one of them met."""
        if self._next:
            self._hand_over()
        self.settle()
        return self.rows

    def settle(self) -> None:
        """Wait until all that was handed over is put."""
        while self._pending:
            self._settle_first()

    def wait(self) -> None:
        """Until nothing is under way any more."""
        wait(self._pending)
