"""Select objects of a dataset by patterns of names and a limit: --include, --exclude, --limit."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from datasets import Layout
from manifest.layout import annotated, group, is_annotation, is_photo


@dataclass(frozen=True)
class Filter:
    """Selects objects of a dataset by their names; by default all.

    Patterns are those of a shell, with a * that matches "/" too. A limit takes the first images of each group in the
    order of their names, with the suffix compared last. So the selection does not depend on the order of reading, and a
    larger limit includes a smaller one. `upto` has the last selected image of each group that has more.
    """

    limit: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    upto: Mapping[str, str] | None = field(default=None, compare=False)  # None: the names are not known yet

    def __bool__(self) -> bool:
        return bool(self.limit or self.include or self.exclude)

    def __str__(self) -> str:
        parts = [f"the first {self.limit} images of each group"] if self.limit else []
        parts += [f"names like {' or '.join(self.include)}"] if self.include else []
        parts += [f"no names like {' or '.join(self.exclude)}"] if self.exclude else []
        return ", ".join(parts) or "all of it"

    @property
    def lacks_names(self) -> bool:
        """Whether the names of all images are needed, and not known yet."""
        return self.limit is not None and self.upto is None

    def matches(self, path: str) -> bool:
        """Whether an object's name matches the patterns."""
        is_included = not self.include or any(fnmatchcase(path, each) for each in self.include)
        return is_included and not any(fnmatchcase(path, each) for each in self.exclude)

    def selects(self, layout: Layout | None, path: str) -> bool:
        """Whether an object is selected; folders are not, because they follow from the objects in them."""
        return not path.endswith("/") and self.matches(path) and self._is_early(layout, path)

    def _is_early(self, layout: Layout | None, path: str) -> bool:
        if layout is None or not self.upto:
            return True
        is_image = is_photo(layout, path)
        if not (is_image or is_annotation(layout, path)):
            return True
        name = path[len(layout.images) :] if is_image else annotated(layout, path)
        last = self.upto.get(group(layout, layout.images + name))
        is_stem = not is_image and "{stem}" in layout.annotation
        return last is None or _place(name, is_stem) <= _place(last)

    def with_names(self, layout: Layout, paths: Iterable[str]) -> Filter:
        """Return the filter with `upto`, from the names of all objects."""
        names = defaultdict[str, set[str]](set)
        for path in paths:
            if self.limit and is_photo(layout, path) and self.matches(path):
                names[group(layout, path)].add(path[len(layout.images) :])
        return replace(self, upto={
            key: sorted(found, key=_place)[self.limit - 1]
            for key, found in sorted(names.items()) if self.limit and len(found) > self.limit
        })  # fmt: skip

    def covers(self, other: Filter) -> bool:
        """Whether this filter certainly selects everything that the other one selects."""
        include, exclude = set(self.include), set(self.exclude)
        its_include, its_exclude = set(other.include), set(other.exclude)
        if self.limit is None:
            return (not include or (bool(its_include) and its_include <= include)) and exclude <= its_exclude
        is_same = (include, exclude) == (its_include, its_exclude)
        return is_same and other.limit is not None and other.limit <= self.limit

    def encode(self) -> dict[str, Any]:
        """Encode for the manifest."""
        return asdict(self)

    @classmethod
    def of(cls, fields: Mapping[str, Any] | None) -> Filter:
        """Reverse encode(); None is the filter that selects everything."""
        given = fields or {}
        return cls(
            given.get("limit"), tuple(given.get("include", ())), tuple(given.get("exclude", ())), given.get("upto")
        )

    @property
    def key(self) -> str:
        """Text that identifies the filter; "" if it selects everything."""
        return json.dumps(self.encode(), sort_keys=True) if self else ""


EVERYTHING = Filter()


@dataclass(frozen=True)
class Selection:
    """A filter, and the layout of its dataset."""

    filter: Filter = EVERYTHING
    layout: Layout | None = None

    def has(self, path: str) -> bool:
        """Whether an object is selected."""
        return not self.filter or self.filter.selects(self.layout, path)


ALL = Selection()


def _place(name: str, is_stem: bool = False) -> tuple[str, str]:
    """The sort key of an image's name; a stem sorts before all images that have it."""
    stem, dot, ending = (name, "", "") if is_stem else name.rpartition(".")
    return (stem, ending) if dot else (name, "")
