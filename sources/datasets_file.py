"""Read datasets from a TOML file (https://toml.io): one table each, with the fields of `datasets.Dataset`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from datasets import DATASETS, Archive, Dataset, Layout, PhotoTables
from errors import UsageError

ABOUT = ("home", "licence", "citation", "creator", "published")
TEXTS, NUMBERS = ("title", "folder", *ABOUT), ("objects", "size")
TABLES = ("dogs", "photos", "image_prefix", "annotation_prefix")
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"  # of a dataset: it becomes a folder's, and is written after -d
PATH = r"(?:(?!\.{1,2}/)[^/\\]+/)+"  # a folder's name in the bucket
TAKEN = "_extraction/", "shards/"  # where journals, manifests and tables are, and --shards writes


def read_datasets(path: Path) -> dict[str, Dataset]:
    """Return the datasets of a TOML file by name; raises UsageError that names the file, the table and the field."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"--datasets-file {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # of TOML's syntax, or not UTF-8
        raise UsageError(f"{path}: not a TOML file: {error}") from error
    return {name: _Table(path, name, table).dataset(name) for name, table in tables.items()}


class _Table:
    """One table of the file; each value is checked when it is read."""

    def __init__(self, path: Path, name: str, values: Any) -> None:
        self.path, self.name = path, name
        if not isinstance(values, dict):
            self._refuse("a table", values)
        self.values: dict[str, Any] = values

    def dataset(self, name: str) -> Dataset:
        self._known((*TEXTS, *NUMBERS, "archives", "tables", "layout"))
        if name in DATASETS or not re.fullmatch(NAME, name):
            self._refuse("a new name of letters, digits, - and _", name)
        folder = self._folder("folder", f"{name}/")
        archives = tuple(part.archive(folder) for part in self._parts("archives"))
        tables = [part.photo_tables(folder) for part in self._parts("tables")]
        if len(tables) + bool(archives) != 1:
            self._refuse("either archives or one table named tables", sorted(self.values))
        layouts = [part.layout(folder) for part in self._parts("layout")]
        home, licence, citation, creator, published = (self._text(each, "") for each in ABOUT)
        objects, size = (self._number(each) or 0 for each in NUMBERS)
        return Dataset(
            name, self._text("title", name), folder, "", archives, next(iter(tables), None), next(iter(layouts), None),
            home, licence, citation, creator, published, objects, size,
        )  # fmt: skip

    def archive(self, folder: str) -> Archive:
        self._known(("url", "urls", "prefix", "file", "size", "sha256", "objects"))
        urls = self.values["urls"] if "urls" in self.values else [self._text("url")]
        if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
            self._refuse("urls: a list of URLs or paths", urls)
        file = self._text("file", urlsplit(urls[0]).path.rpartition("/")[2])
        if not re.fullmatch(r"[^/\s]+", file):
            self._refuse("file: a file's name, which its URL does not end with", file)
        sha256 = self._text("sha256", "").lower()
        if not re.fullmatch("(?:[0-9a-f]{64})?", sha256):
            self._refuse("sha256: 64 hexadecimal digits", sha256)
        prefix = self._folder("prefix", folder, within=folder)
        return Archive(tuple(urls), prefix, file, self._number("size"), sha256, self._number("objects"))

    def photo_tables(self, folder: str) -> PhotoTables:
        self._known(TABLES)
        dogs, photos = self._text("dogs"), self._text("photos")
        images, annotations = (self._folder(key, None, within=folder) for key in TABLES[2:])
        return PhotoTables(dogs, photos, images, annotations)

    def layout(self, folder: str) -> Layout:
        self._known(("images", "annotation", "photos", "groups", "grouped_by"))
        images, annotation = self._folder("images", folder, within=folder), self._text("annotation")
        if not re.fullmatch(r"[^{}]*\{(name|stem)\}[^{}]*", annotation):
            self._refuse("annotation: a path with {name} or {stem} in it", annotation)
        numbers = self._number("photos"), self._number("groups")
        return Layout(images, annotation, *numbers, self._text("grouped_by", "breed"))

    # ── values ───────────────────────────────────────────────────────────────────────────────────

    def _parts(self, key: str) -> Iterable[_Table]:
        found = self.values.get(key, [])
        tables = found if isinstance(found, list) else [found]
        return [_Table(self.path, f"{self.name}.{key}", each) for each in tables]

    def _text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        return value if isinstance(value, str) else self._refuse(f"{key}: a text", value)

    def _number(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is not None and (type(value) is not int or value < 0):
            self._refuse(f"{key}: a number of bytes or objects", value)
        return value

    def _folder(self, key: str, default: str | None, within: str = "") -> str:
        value = self._text(key, default)
        if not re.fullmatch(PATH, value) or value.startswith(TAKEN) or not value.startswith(within):
            where = f"in {within}" if within else f"outside of {' and '.join(TAKEN)}"
            self._refuse(f"{key}: a path in the bucket that ends with /, {where}", value)
        return value

    def _known(self, keys: Iterable[str]) -> None:
        if unknown := sorted(self.values.keys() - set(keys)):
            self._refuse(f"only {', '.join(keys)}", ", ".join(unknown))

    def _refuse(self, expected: str, got: Any) -> NoReturn:
        raise UsageError(f"{self.path}: [{self.name}]: expected {expected}, got {got!r}")
