"""Count rows by reason, with a few examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from manifest.records import Row

MAX_EXAMPLES = 5  # names that are kept


@dataclass(frozen=True)
class CountWithExamples:
    """A count, and the first few names."""

    count: int
    examples: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> CountWithExamples:
        """Count these names."""
        listed = sorted(names)
        return cls(len(listed), tuple(listed[:MAX_EXAMPLES]))

    def plus(self, name: str) -> CountWithExamples:
        """Count one more name."""
        is_full = self.count >= MAX_EXAMPLES
        return CountWithExamples(self.count + 1, self.examples if is_full else (*self.examples, name))


NONE = CountWithExamples(0, ())


class ReasonCounter:
    """Counts paths by the reason of their row, with the first few as examples."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._found: dict[str, CountWithExamples] = {}
        for row in sorted(rows):
            self.add(row)

    def add(self, row: Row) -> None:
        """Count this row, if it has a reason."""
        if row.reason:
            self._found[row.reason] = self._found.get(row.reason, NONE).plus(row.path)

    def counts(self) -> dict[str, CountWithExamples]:
        """The counts by reason, sorted."""
        return dict(sorted(self._found.items()))
