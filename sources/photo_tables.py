"""Join the tables of Austin Pets Alive to a list of photos with URL, object name and annotation.

The tables' form, the wrong host and the naming are those of the collector's own repository:
https://github.com/alex-coward/spotted_dog_finder (src/data_extraction).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from errors import SourceError, escaped
from sources.csv_table import Line, read_table

log = logging.getLogger("spotted")

DOGS, PHOTOS = "apa_dogs.csv", "apa_photos.csv"
WRONG_HOST, RIGHT_HOST = "//live-cdn.shelterluv.com/", "//www.shelterluv.com/"
DOG, URL = "AnimalInternal-ID", "PhotoUrl"
MISSING = frozenset({"", "NULL"})
# In columns of numbers also what pandas and R write; elsewhere it could be a name.
MISSING_NUMBERS = MISSING | {"NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "None"}
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


INTEGER = re.compile(r"\s*(-?\d{1,18})(?:\.0*)?\s*", re.ASCII)  # pandas writes whole numbers with ".0"
DECIMAL = re.compile(r"\s*-?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d{1,3})?\s*", re.ASCII)
HTTP = re.compile(r"(https?)://([^/?#]*@)?([^/?#@]+)(.*)", re.IGNORECASE | re.DOTALL)
PLAIN = re.compile(r"https?://[a-z0-9][a-z0-9.-]*/[\w%/.-]*", re.ASCII)  # what nearly all URLs are like
AS_THEY_ARE = "%/:?#[]@!$&'()*+,;=~"  # characters of a URL that quote() would encode


class Photo(NamedTuple):
    """One photo: its URL, `<internal id>_<rank>`, the bytes of its JSON annotation, and why it is not fetched."""

    url: str
    name: str
    annotation: bytes
    refusal: str = ""


def join(dogs: bytes, photos: bytes) -> list[Photo]:
    """Return the photos of all known dogs, by dog and rank; those of unknown dogs are dropped and logged.

    Raises SourceError when a table is not in the published form.
    """
    known, urls = _dogs(dogs), _urls(photos)
    unknown = urls.keys() - known.keys()
    if unknown:
        count = sum(len(urls[dog]) for dog in unknown)
        log.info("%s: passing over %s photos of %s dogs that %s lacks", PHOTOS, f"{count:,}", f"{len(unknown):,}", DOGS)
    if unknown == urls.keys():
        raise SourceError(f"{PHOTOS}: expected photos of the dogs in {DOGS}, got none")
    return [photo for dog in sorted(urls.keys() & known.keys()) for photo in _photos(dog, known[dog], urls[dog])]


def _photos(dog: int, line: Line, urls: Iterable[str]) -> Iterator[Photo]:
    facts = _facts(dog, line)
    for url, rank in ranks(urls):
        name = f"{dog}_{rank}"
        annotation = json.dumps({"internal_id": dog, "image_file": f"{name}.png", **facts}).encode()
        yield Photo(_encoded(url), name, annotation, _refusal(url))


def _dogs(table: bytes) -> dict[int, Line]:
    known = dict[int, Line]()
    for line in read_table(DOGS, table, (DOG, *FIELDS)):
        dog = _id(DOGS, line)
        other = known.setdefault(dog, line)
        if other.values != line.values:
            raise SourceError(
                f"{DOGS}, line {line.number}: expected each dog once, got {dog} as in line {other.number}"
            )
    return known


def _urls(table: bytes) -> dict[int, list[str]]:
    """The URLs of each dog."""
    urls: dict[int, list[str]] = defaultdict(list)
    for line in read_table(PHOTOS, table, (DOG, URL)):
        url = line.values[URL].strip()
        if not url:
            raise SourceError(f"{PHOTOS}, line {line.number}: expected a URL as {URL}, got nothing")
        urls[_id(PHOTOS, line)].append(_normalised(url))
    return urls


def _id(name: str, line: Line) -> int:
    text = line.values[DOG]
    if found := INTEGER.fullmatch(text):
        return int(found[1])
    raise SourceError(f"{name}, line {line.number}: expected a number as {DOG}, got {escaped(text)!r}")


def ranks(urls: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield each URL of a dog with its rank in text order, from 1; equal URLs share the mean, rounded down."""
    first = 1
    for url, same in groupby(sorted(urls)):
        count = len(list(same))
        yield url, (2 * first + count - 1) // 2
        first += count


def _normalised(url: str) -> str:
    """Return the URL with scheme and host in small letters (RFC 3986, 6.2.2.1), and the right host."""
    if not PLAIN.fullmatch(url) and (found := HTTP.fullmatch(url)):
        scheme, user, host, rest = found.groups("")
        url = f"{scheme.lower()}://{user}{host.lower()}{rest}"
    return url.replace(WRONG_HOST, RIGHT_HOST, 1)


def _encoded(url: str) -> str:
    """Return the URL percent-encoded for a request; only after the ranks, which use the tables' own order."""
    found = None if PLAIN.fullmatch(url) else HTTP.fullmatch(url)
    return f"{url[: found.start(4)]}{quote(found[4], AS_THEY_ARE)}" if found else url


def _refusal(url: str) -> str:
    """Return why a URL is not followed: a table is untrusted, and must not name a file of this machine."""
    if not PLAIN.fullmatch(url) and not (HTTP.fullmatch(url) and url.isprintable() and _has_host(url)):
        return "the table names no http or https URL"
    # In a --mirror directory the path of the URL is the path of a file.
    if ".." in unquote(unquote(url)).replace("\\", "/").split("/"):
        return "the table names a URL that leads out of its folder"
    return ""


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and " " not in parts.netloc and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False


def _facts(dog: int, line: Line) -> dict[str, object]:
    """Return what the annotations of a dog's photos have in common."""
    facts = dict[str, object]()
    for column, (key, kind) in FIELDS.items():
        text = line.values[column]
        value = "null" if text.strip() in (MISSING if kind is str else MISSING_NUMBERS) else _value(text, kind)
        if value is None:
            raise SourceError(
                f"{DOGS}: dog {dog}: {column}: expected {kind.__name__}, got {escaped(text)!r} in line {line.number}"
            )
        facts[key] = value
    return facts


def _value(text: str, kind: type) -> str | float | None:
    """Parse a value of the annotation; None if it is invalid, as "nan" and "inf" are, which JSON lacks."""
    if kind is str:
        return text
    if kind is int:
        found = INTEGER.fullmatch(text)
        return int(found[1]) if found else None
    return value if DECIMAL.fullmatch(text) and math.isfinite(value := float(text)) else None
