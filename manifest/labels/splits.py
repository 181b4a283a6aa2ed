"""Assign images to splits: by the published lists of a dataset, or for a dataset without lists by a hash.

| dataset | list | a line |
|---|---|---|
| Stanford | a MAT-file | `n02085620-Chihuahua/n02085620_10074.jpg` |
| Tsinghua | text that begins with a byte order mark | `.//200-n000008-Airedale/n107026.jpg` |
| Oxford | text | `Abyssinian_100 1 1 1`: a name without its suffix, and numbers |
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from datasets import Dataset, Layout, Split
from manifest.labels.mat import cell_texts
from manifest.layout import group
from manifest.selection import EVERYTHING, Filter
from storage.bucket import Bucket

log = logging.getLogger("spotted")

PUBLISHED = "published"
UNLISTED = "unlisted"  # the split of shards for images that no list names
OURS = "not published: ours, by the SHA-256 of what identifies the {}"


class Splits:
    """The split of each image; `named` has it by the name below the layout's prefix of images."""

    def __init__(self, layout: Layout, named: Mapping[str, str]) -> None:
        self.layout, self._named = layout, named
        self._shares = [(split.name, split.percent) for split in layout.splits if not split.list]

    @property
    def origin(self) -> str:
        """The origin of the split, for people; "" if there is none."""
        if not self.layout.splits:
            return ""
        return OURS.format(self.layout.grouped_by) if self._shares else PUBLISHED

    def of(self, path: str) -> str:
        """The split of an image; "" if no list names it."""
        if self._shares:
            return self._by_hash(group(self.layout, path))
        name = path[len(self.layout.images) :]
        return self._named.get(name) or self._named.get(name[: name.rindex(".")], "")

    def _by_hash(self, key: str) -> str:
        """The split of a group, the same in every run and every version of the dataset."""
        place = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") % 100
        for name, percent in self._shares:
            if place < percent:
                return name
            place -= percent
        return ""


def read_splits(dataset: Dataset, layout: Layout, bucket: Bucket, filter_: Filter = EVERYTHING) -> Splits:
    """Read the dataset's lists from the bucket; a list that cannot be read is logged."""
    named = dict[str, str]()
    for split in layout.splits:
        if split.list and not filter_.matches(split.list):
            log.info("%s: no images in the split %s: %s is not wanted", dataset.name, split.name, split.list)
        elif split.list:
            try:
                named |= dict.fromkeys(_names(split.list, bucket.get(split.list)), split.name)
            except ValueError as error:
                log.warning("%s: %s: %s; its images have no split in the table", dataset.name, split.list, error)
    return Splits(layout, named)


def _names(path: str, data: bytes | None) -> Iterator[str]:
    if data is None:
        raise ValueError("it is not there")
    if path.endswith(".mat"):
        return iter(cell_texts(data, "file_list"))
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError("not a list in UTF-8") from error
    if path.endswith(".lst"):
        return (line.removeprefix(".").lstrip("/") for line in lines if line)
    return (line.split()[0] for line in lines if line and not line.startswith("#"))


def compare_counts(dataset: Dataset, splits: Iterable[Split], counts: Mapping[str, int]) -> None:
    """Warn if a split does not have the published number of images."""
    for split in splits:
        if split.images not in (None, counts.get(split.name, 0)):
            log.warning(
                "%s: %s images in the split %s, published are %s",
                dataset.name, f"{counts.get(split.name, 0):,}", split.name, f"{split.images:,}",
            )  # fmt: skip


def split_fields(splits: Splits, is_whole: bool = True) -> dict[str, Any]:
    """The fields of the manifest about splits."""
    published = {split.name: split.images for split in splits.layout.splits if split.images is not None and is_whole}
    return {"splits_origin": splits.origin, "splits_published": published}
