"""The Austin Pets Alive tables become a list of photos: where each is, what object it becomes, its annotation.

The tables' form, the wrong host and the naming are those of the collector's own repository:
https://github.com/alex-coward/spotted_dog_finder (src/data_extraction).
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import unquote

from errors import SourceError

WRONG_HOST, RIGHT_HOST = "//live-cdn.shelterluv.com/", "//www.shelterluv.com/"
DOG, URL = "AnimalInternal-ID", "PhotoUrl"
MISSING = frozenset({"", "NULL"})
# Column of dogs.csv → key of the annotation, in the annotation's order, and the type of its value.
FIELDS = {
    "AnimalName": ("name", str),
    "AnimalSex": ("sex", str),
    "AnimalCurrentWeightPounds": ("weight_pounds", float),
    "AnimalDOB": ("dob", int),
    "AnimalBreed": ("breed", str),
    "AnimalColor": ("color", str),
    "AnimalPattern": ("pattern", str),
}


class Photo(NamedTuple):
    """One photo: its URL, `<internal id>_<rank>`, the bytes of its JSON annotation, and why it is not fetched."""

    url: str
    name: str
    annotation: bytes
    refusal: str = ""


def join(dogs: bytes, photos: bytes) -> list[Photo]:
    """The photos of all known dogs, by dog and rank; photos of unknown dogs are dropped.

    Raises SourceError when a table is not in the published form.
    """
    known = {int(row[DOG]): row for row in _rows("apa_dogs.csv", dogs, (DOG, *FIELDS))}
    urls: dict[int, list[str]] = defaultdict(list)
    for row in _rows("apa_photos.csv", photos, (DOG, URL)):
        urls[int(row[DOG])].append(row[URL].replace(WRONG_HOST, RIGHT_HOST))
    return [
        Photo(url, f"{dog}_{rank}", _annotation(dog, rank, known[dog]), _refusal(url))
        for dog in sorted(urls.keys() & known.keys())
        for url, rank in ranks(urls[dog])
    ]


def ranks(urls: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each different URL of one dog with its rank: from 1 in the order of text, equal ones sharing the mean, cut."""
    ordered = sorted(urls)
    for url in dict.fromkeys(ordered):
        first = ordered.index(url) + 1
        yield url, (2 * first + ordered.count(url) - 1) // 2


def _refusal(url: str) -> str:
    """Why a URL of the table is not followed: a table is anybody's text, and must not name a file of this machine."""
    if not url.startswith(("http://", "https://")) or not url.isprintable():
        return "the table names no http or https URL"
    # In a --mirror directory the path of the URL is the path of a file.
    if ".." in unquote(unquote(url)).replace("\\", "/").split("/"):
        return "the table names a URL that leads out of its folder"
    return ""


def _annotation(dog: int, rank: int, row: dict[str, str]) -> bytes:
    values: dict[str, object] = {"internal_id": dog, "image_file": f"{dog}_{rank}.png"}
    for column, (key, kind) in FIELDS.items():
        try:
            values[key] = "null" if row[column] in MISSING else kind(row[column])
        except ValueError:
            raise SourceError(
                f"apa_dogs.csv: dog {dog}: {column}: expected {kind.__name__}, got {row[column]!r}"
            ) from None
    return json.dumps(values).encode()


def _rows(name: str, table: bytes, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline=""))
    lacking = [column for column in columns if column not in (reader.fieldnames or ())]
    if lacking:
        raise SourceError(f"{name}: expected a column {lacking[0]}, got {', '.join(reader.fieldnames or ['nothing'])}")
    for row in reader:
        try:
            int(row[DOG])
        except (TypeError, ValueError):
            raise SourceError(f"{name}, line {reader.line_num}: expected a number as {DOG}, got {row[DOG]!r}") from None
        yield row
