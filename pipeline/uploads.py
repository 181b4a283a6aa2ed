"""Store the members of a unit: a few small members go to an uploading thread together."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

from archives.spans import Buffer
from manifest.records import Row
from pipeline.context import WorkerContext
from pipeline.parts import Mark, PartWriter

MAX_BATCH_SECONDS = 0.1  # maximum age of a batch: after a kill, waiting members would be read again
# Maximum number of pending batches of one unit. A span of photos has 50, one of annotations thousands. If all of these
# were queued, the photos would be left for the end, and those alone take more than two cores.
MAX_PENDING_BATCHES = 120


class UploadBatcher:
    """Groups a unit's small members into batches, because handing a member to a thread costs as much as a put.

    `parts` receives each stored batch, and `state_at` the end of each for the state of the archive's checksum.
    """

    def __init__(
        self,
        context: WorkerContext,
        put: Callable[[Row, Buffer], Row],
        parts: PartWriter | None,
        state_at: Callable[[int], bytes],
    ) -> None:
        self.context, self.put, self.parts, self.rows = context, put, parts, list[Row]()
        self.state_at = state_at
        self._next, self._size = list[tuple[Row, Buffer | None]](), 0
        self._mark, self._batches, self._handed_over = Mark(0), 0, time.monotonic()
        self._pending = deque[Future[list[Row]]]()
        self._last = dict[str, Future[list[Row]]]()  # by path, of those that are pending

    def add(self, row: Row, data: Buffer | None, mark: Mark) -> None:
        """Queue a member's upload, or only its row if it has no data; `mark` is the position after it.

        A later member of the same name waits for the earlier one, so that it replaces it.
        """
        if row.path in self._last:
            wait([self._last[row.path]])
        self._next.append((row, data))
        self._size, self._mark = self._size + len(data or b""), mark
        members, size = self.context.batch
        is_late = time.monotonic() - self._handed_over > MAX_BATCH_SECONDS
        if len(self._next) >= members or self._size >= size or is_late:
            self._hand_over()

    def _hand_over(self) -> None:
        batch, size, self._next, self._size = self._next, self._size, [], 0
        mark = self._mark._replace(state=self.state_at(self._mark.upto)) if self.parts else self._mark
        put = self.context.submit(size, self._put_all, self._batches, batch, mark)
        self._batches, self._handed_over = self._batches + 1, time.monotonic()
        self._last |= dict.fromkeys((row.path for row, _ in batch), put)
        self._pending.append(put)
        if len(self._pending) > MAX_PENDING_BATCHES:
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
        """Prepare for a large member, which may take minutes: write a part, and wait for a member of the same name."""
        if self._next:
            self._hand_over()
        if self.parts:
            self.settle()
            self.parts.flush(only_if_due=True)
        elif path in self._last:
            wait([self._last[path]])

    def finish(self) -> list[Row]:
        """Wait for all puts and return the rows; raises the first error."""
        if self._next:
            self._hand_over()
        self.settle()
        return self.rows

    def settle(self) -> None:
        """Wait for the puts of all batches."""
        while self._pending:
            self._settle_first()

    def wait(self) -> None:
        """Wait for all running puts; their errors are raised by finish()."""
        wait(self._pending)
