"""What has landed: pure decisions over rows and listings, and the book in a real bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from archives import Link
from buckets import Stored
from folders import FolderBucket
from manifest import FAILED, REFUSED, Book, Entry, Row, agrees, missing, still_valid, winners

ROW = Row("d/a", 3, 7, "http://x/a.tar", 512)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (Stored("d/a", 3, 7), True),
        (Stored("d/a", 3, None), True),
        (Stored("d/a", 2, None), False),
        (Stored("d/a", 3, 8), False),
        (None, False),
    ],
)
def test_agrees(stored: Stored | None, expected: bool) -> None:
    assert agrees(ROW, stored) is expected
    assert missing([ROW], {"d/a": stored} if stored else {}) == ([] if expected else [ROW])


def test_the_last_member_of_a_name_wins_and_only_stored_ones_count() -> None:
    later, refused = ROW._replace(offset=1024), ROW._replace(offset=2048, outcome=REFUSED)
    assert winners([ROW, later, refused]) == {"d/a": later}


def test_a_journal_entry_counts_only_for_its_version_and_while_its_objects_are_there() -> None:
    entry = Entry("u", "version 1", (ROW, ROW._replace(path="d/b", outcome=REFUSED)))
    listing = {"d/a": Stored("d/a", 3, 7)}
    assert still_valid(entry, "version 1", listing)
    assert not still_valid(entry, "version 2", listing)
    assert not still_valid(entry, "version 1", {})


def test_an_entry_survives_being_written_down(tmp_path: Path) -> None:
    book = Book(FolderBucket(tmp_path), "d")
    entry = Entry("a.tar/000", "v", (ROW,), Link(512, 1024, (("path", "x"),), True))
    book.write(entry)
    assert book.journal() == {"a.tar/000": entry}
    book.forget(["a.tar/000"])
    assert book.journal() == {}


@pytest.mark.parametrize(
    "rest", [b"", b"{", b"[]", b'{"unit":"u"}', b'{"unit":1,"fingerprint":"f","rows":3,"link":{}}']
)
def test_a_torn_journal_entry_is_no_entry(tmp_path: Path, rest: bytes) -> None:
    bucket = FolderBucket(tmp_path)
    bucket.put("_extraction/d/journal/a.tar/000.json", rest)
    assert Book(bucket, "d").journal() == {}


def test_the_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    book = Book(FolderBucket(tmp_path), "d")
    rows = [ROW, Row('d/with, "comma"', 0, 0xFFFFFFFF, "http://x/a.tar", 0)]
    book.write(Entry("a.tar/000", "v"))
    assert book.manifest() is None
    book.finish(rows, [ROW._replace(outcome=FAILED, reason="r")], {"objects": 2})
    assert book.manifest() == (rows, {"objects": 2})
    assert (tmp_path / "_extraction/d/manifest.csv").read_text().splitlines()[:2] == [
        "path,size,crc32c,source,offset",
        "d/a,3,AAAABw==,http://x/a.tar,512",
    ]
    assert "failed,r" in (tmp_path / "_extraction/d/failures.csv").read_text()
    assert sorted(path.name for path in (tmp_path / "_extraction/d").iterdir()) == [
        "failures.csv", "manifest.csv", "manifest.json",
    ]  # fmt: skip
    book.reopen()
    assert book.manifest() is None
