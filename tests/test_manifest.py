"""What has landed: pure decisions over rows and listings, and the book in a real bucket."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archives.spans import SpanBoundary
from datasets import DATASETS
from errors import BucketError, DamagedError
from manifest.compare import last_wins, marks, matches, merge_sorted, outer_join
from manifest.journal import JournalEntry
from manifest.records import FAILED, GONE, NOT_AN_IMAGE, REFUSED, STORED, Row, Rows
from manifest.store import ManifestStore
from pipeline.existing import existing_state
from storage.bucket import Stored
from storage.directory import FolderBucket
from storage.names import parents

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
    assert matches(ROW, stored) is expected


def test_the_last_member_of_a_name_wins_and_only_stored_ones_count() -> None:
    later, refused = ROW._replace(offset=1024), ROW._replace(offset=2048, outcome=REFUSED)
    assert [each.row for each in last_wins([Rows.of([ROW, later, refused])])] == [later]
    assert [each[1:] for each in last_wins([Rows.of([later]), Rows.of([refused]), Rows.of([ROW])])] == [(2, 2)]


def test_a_journal_entry_counts_while_its_objects_are_there_and_of_one_that_does_not_the_rest_is_loose(
    tmp_path: Path,
) -> None:
    bucket, stanford = FolderBucket(tmp_path), DATASETS["stanford"]
    for name in ("a/1", "a/2", "b/1", "c"):
        bucket.put(f"stanford/{name}", b"123")
    rows = {unit: [ROW._replace(path=f"stanford/{unit}/{number}") for number in (1, 2)] for unit in "ab"}
    refused = ROW._replace(path="stanford/a/3", outcome=REFUSED)
    journal = {unit: JournalEntry(unit, "v", Rows.of([*found, refused])) for unit, found in rows.items()}
    stock = existing_state(bucket, stanford, journal)
    assert stock.kept == {"a": journal["a"]}
    assert stock.loose == {name: Stored(name, 3, None) for name in ("stanford/b/1", "stanford/c")}
    assert stock.folders == {"stanford/", "stanford/a/", "stanford/b/"} and stock.objects == 4
    bucket.put("stanford/a/1", b"1234")
    assert existing_state(bucket, stanford, journal).kept == {}


def test_an_entry_survives_being_written_down(tmp_path: Path) -> None:
    book = ManifestStore(FolderBucket(tmp_path), "d")
    entry = JournalEntry("a.tar/000", "v", Rows.of([ROW]), 5, SpanBoundary(512, 1024, (("path", "x"),), True))
    book.write(entry)
    assert book.journal() == {"a.tar/000": entry}
    book.discard(["a.tar/000"])
    assert book.journal() == {}


@pytest.mark.parametrize(
    "rest", [b"", b"{", b"[]", b'{"unit":"u"}', b'{"unit":1,"fingerprint":"f","rows":3,"link":{}}']
)
def test_a_torn_journal_entry_is_no_entry(tmp_path: Path, rest: bytes) -> None:
    bucket = FolderBucket(tmp_path)
    bucket.put("_extraction/d/journal/a.tar/000.json", rest)
    assert ManifestStore(bucket, "d").journal() == {}


def test_a_manifest_of_another_version_is_none(tmp_path: Path) -> None:
    book = ManifestStore(FolderBucket(tmp_path), "d")
    book.commit(Rows.of([ROW]), [], {"objects": 1, "sources": []})
    with pytest.raises(DamagedError, match="another version wrote manifest.json, without sample, gone"):
        book.manifest()


def test_the_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    book = ManifestStore(FolderBucket(tmp_path), "d")
    rows = Rows.of([ROW, Row('d/with, "comma"', 0, 0xFFFFFFFF, "http://x/a.tar", 0)])
    book.write(JournalEntry("a.tar/000", "v"))
    assert book.manifest() is None
    fields = {"objects": 2, "sample": False, "sources": [], "gone": 0}
    book.commit(rows, [ROW._replace(outcome=FAILED, reason="r")], fields)
    assert book.manifest() == (rows, fields)
    assert (tmp_path / "_extraction/d/manifest.csv").read_text().splitlines()[:2] == [
        "path,size,crc32c,source,offset",
        "d/a,3,AAAABw==,http://x/a.tar,512",
    ]
    assert "failed,r" in (tmp_path / "_extraction/d/failures.csv").read_text()
    assert sorted(path.name for path in (tmp_path / "_extraction/d").iterdir()) == [
        "failures.csv", "manifest.csv", "manifest.json",
    ]  # fmt: skip
    book.mark_incomplete()
    assert book.manifest() is None


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────

PATHS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
ROWS = st.builds(
    Row, PATHS, st.integers(0, 1 << 40), st.integers(0, 0xFFFFFFFF), st.sampled_from(["http://x/a.tar", "http://x/b,c"]),
    st.integers(0, 1 << 40), st.sampled_from([STORED, STORED, GONE, NOT_AN_IMAGE, REFUSED, FAILED]),
    st.sampled_from(["", "b,c"]), st.sampled_from(["", "jpeg 1 1", '[["\\r",1,2,3,4]]']),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(ROWS))
def test_packed_rows_are_the_rows_in_the_order_of_their_paths(rows: list[Row]) -> None:
    packed = Rows.of(rows)
    assert list(packed) == list(packed) == sorted(rows, key=lambda row: (row.path, row.offset))
    assert Rows.decode(json.loads(json.dumps(packed.encode()))) == packed
    assert packed.stored == sum(row.outcome == STORED and not row.is_folder for row in rows)
    assert packed.folders == parents(row.path for row in rows if row.outcome == STORED)


@settings(deadline=None)
@given(st.lists(st.lists(ROWS, max_size=5), max_size=5), st.dictionaries(PATHS, st.integers(0, 3)))
def test_what_counts_beside_what_is_there_is_what_dictionaries_would_have(
    units: list[list[Row]], there: dict[str, int]
) -> None:
    runs = [Rows.of(rows) for rows in units]
    ordered = (row for rows in units for row in sorted(rows, key=lambda row: row.offset))
    won = {row.path: row for row in ordered if row.outcome == STORED}
    listing = [Stored(name, size, None) for name, size in sorted(there.items())]
    found = list(outer_join(last_wins(runs), listing))
    assert {each.row.path: each.row for each, _ in found if each} == won
    assert [stored for _, stored in found if stored] == listing
    assert [each.row.path if each else stored and stored.name for each, stored in found] == sorted({*won, *there})
    assert all(each.row.path == stored.name for each, stored in found if each and stored)


def test_runs_are_opened_when_their_first_path_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    walk = Rows.__iter__

    def watched(self: Rows) -> Iterator[Row]:
        opened.append(self.marks[0])
        return walk(self)

    monkeypatch.setattr(Rows, "__iter__", watched)
    runs = [Rows.of(ROW._replace(path=f"d/{run}{number}") for number in range(9)) for run in (2, 0, 1)]
    rows = merge_sorted(runs)
    assert [next(rows)[0].path for _ in range(9)][-1] == "d/08"
    assert opened == ["d/00"]
    assert next(rows) == (ROW._replace(path="d/10"), 2)


def test_marks_part_the_rows_into_pieces_of_about_one_size() -> None:
    runs = [Rows.of(ROW._replace(path=f"d/{run:02}{number:05}") for number in range(1_000)) for run in range(30)]
    found = marks(runs)
    assert 15 <= len(found) <= 18 and found == sorted(found)
    whole = [Rows.of(ROW._replace(path=f"{number:05}") for number in range(12_000))]
    assert marks(whole) == ["01750", "03500", "05250", "07000", "08750", "10500"]


def test_pieces_of_a_listing_are_of_one_size_though_the_units_are_not() -> None:
    large = [Rows.of(ROW._replace(path=f"a/{run}{number:05}") for number in range(8_000)) for run in range(3)]
    small = [Rows.of(ROW._replace(path=f"b/{run:03}{number:03}") for number in range(210)) for run in range(100)]
    found = marks([*small, *large])
    paths = sorted(row.path for run in (*small, *large) for row in run)
    ends = [0, *(bisect_left(paths, mark) for mark in found), len(paths)]
    assert max(stop - start for start, stop in pairwise(ends)) < 2_500


def test_a_listing_that_is_out_of_order_is_no_listing() -> None:
    with pytest.raises(BucketError, match="out of order: a comes after b"):
        list(outer_join([], [Stored("b", 0, None), Stored("a", 0, None)]))


def test_rows_of_an_older_journal_which_called_all_absent_photos_gone() -> None:
    rows = Rows.of([Row("a", 1, 2, "u", 0), Row("b", 0, 0, "u", 0, GONE, "a web page")])
    fields = rows.encode()
    assert fields.pop("not_images") == 0
    assert Rows.decode(fields) == rows and rows.absent == 1


def test_what_is_no_image_is_counted_apart() -> None:
    rows = Rows.of([Row("a", 0, 0, "u", 0, GONE), Row("b", 0, 0, "u", 0, NOT_AN_IMAGE), Row("c", 0, 0, "u", 0, FAILED)])
    assert (rows.gone, rows.not_images, rows.absent, rows.bad, rows.stored) == (1, 1, 2, 1, 0)
    assert Rows.decode(rows.encode()) == rows
