"""Parse and check the pages of a bucket's listing.

Listings are merged by name, so one that is out of order, repeats itself or leaves the requested range is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from errors import BucketError, escaped
from storage.bucket import Stored, decode_crc32c


class Range(NamedTuple):
    """The range of a listing: names with a prefix, from `start` up to but not including `stop`; "" is no bound."""

    prefix: str
    start: str = ""
    stop: str = ""

    def below(self, prefix: str) -> Range:
        """The same range below another prefix."""
        return Range(prefix + self.prefix, self.start and prefix + self.start, self.stop and prefix + self.stop)

    def holds(self, name: str) -> bool:
        """Whether the name is in this range."""
        return name.startswith(self.prefix) and self.start <= name and (not self.stop or name < self.stop)


def objects(url: str, wanted: Range, pages: Iterable[Mapping[str, Any]]) -> Iterator[Stored]:
    """Yield the objects of these pages; raises BucketError if they are not a listing of the range.

    A page is the JSON of https://cloud.google.com/storage/docs/json_api/v1/objects/list.
    """
    last, tokens = "", set[object]()
    for page in pages:
        for item in page.get("items", ()):
            stored = _stored(url, item)
            if not wanted.holds(stored.name) or (last and stored.name <= last):
                raise BucketError(
                    f"{url}: cannot be listed: {escaped(stored.name)} is out of order or was not requested"
                )
            last = stored.name
            yield stored
        token = page.get("nextPageToken")
        if token and token in tokens:
            raise BucketError(f"{url}: cannot be listed: the listing begins again, its page token is the same twice")
        tokens.add(token)


def _stored(url: str, item: Any) -> Stored:
    """Parse one object. Google's testbench omits zeros: the size of an empty object, and its checksum."""
    try:
        name, size = item["name"], int(item.get("size", 0))
        crc32c = decode_crc32c(item["crc32c"]) if "crc32c" in item else None if size else 0
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BucketError(f"{url}: cannot be listed: not an object of a listing: {escaped(repr(item))}") from error
    if not isinstance(name, str) or not name or size < 0:
        raise BucketError(f"{url}: cannot be listed: not an object of a listing: {escaped(repr(item))}")
    return Stored(name, size, crc32c)
