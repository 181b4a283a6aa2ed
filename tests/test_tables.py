"""The table of images: each image once, the same bytes however a run went, sealed in the manifest."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.dom import minidom

import pytest
from PIL import Image

from commands.repair import repair
from commands.verify import verify
from datasets import DATASETS, Dataset, Layout
from errors import SourceError
from manifest.journal import VERSION, JournalEntry
from manifest.labels.noted import ROWS_PER_PIECE, NotedRows
from manifest.labels.table import tables
from manifest.records import Row, Rows
from manifest.seal import seal, unseal
from manifest.store import ManifestStore
from pipeline.options import RunOptions
from sources import sample
from storage.directory import FolderBucket
from support.archives import tar_of, zip_of
from support.bench import Bench
from support.images import encoded
from support.program import Cli, files_under

LAYOUT = Layout("mini/images/", "mini/boxes/{stem}.xml", grouped_by="breed")
NAMES = ("metadata.csv", "metadata.jsonl")
MEMBERS = {f"images/n1-{breed}/{number}.jpg": sample.picture(number) for breed in "ab" for number in range(3)}
BOXES = {name.replace("images", "boxes").replace("jpg", "xml"): sample.voc("a/b", "body", "head") for name in MEMBERS}


def mini(bench: Bench, members: dict[str, bytes]) -> Dataset:
    return replace(bench.dataset(a_tar=tar_of(list(members.items()))), layout=LAYOUT)


def table_of(bench: Bench) -> dict[str, bytes | None]:
    return {name: bench.bucket.get(f"_extraction/mini/{name}") for name in NAMES}


def lines_of(bench: Bench) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (table_of(bench)["metadata.jsonl"] or b"").splitlines()]


# ── the sample ───────────────────────────────────────────────────────────────────────────────────


def found_apart(root: Path, line: dict[str, str]) -> tuple[object, ...]:
    """What a line should say of its image, with other parsers."""
    with Image.open(root / line["path"]) as image:
        size, form = image.size, (image.format or "").lower()
    corners: list[list[int]] = []
    if line["annotation"] and not line["annotation"].endswith(".json"):
        document = minidom.parseString((root / line["annotation"]).read_bytes().strip(b"\r\n\xef\xbb\xbf"))
        for tag in ("bodybndbox", "headbndbox", "bndbox"):
            boxes = document.getElementsByTagName(tag)
            corners += [[int(re.sub("<.*?>", "", each.toxml())) for each in box.childNodes] for box in boxes]
    return (*size, form, corners, (root / line["path"]).stat().st_size)


def test_the_tables_of_the_sample(cli: Cli, tmp_path: Path) -> None:
    assert cli("-a", "-d", "oxford", "--sample", "--to", tmp_path).returncode == 0
    for name in ("stanford", "tsinghua", "austin", "oxford"):
        folder = tmp_path / "_extraction" / name
        lines = list(csv.DictReader(io.StringIO((folder / "metadata.csv").read_text("utf-8"))))
        manifest = {row["path"]: row for row in csv.DictReader(io.StringIO((folder / "manifest.csv").read_text()))}
        layout = DATASETS[name].layout
        assert layout
        images = [path for path in manifest if path.startswith(layout.images) and not path.endswith(".mat")]
        assert [line["path"] for line in lines] == images
        assert {line["crc32c"] == manifest[line["path"]]["crc32c"] for line in lines} == {True}
        for line in lines:
            said = [[box[key] for key in ("xmin", "ymin", "xmax", "ymax")] for box in json.loads(line["boxes"])]
            values = (int(line["width"]), int(line["height"]), line["format"], said, int(line["size"]))
            assert values == found_apart(tmp_path, line), line["path"]
        again = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        for one, other in zip(lines, again, strict=True):
            assert list(one) == list(other)
            texts = {key: json.dumps(value, separators=(",", ":")) if isinstance(value, list) else value
                     for key, value in other.items()}  # fmt: skip
            assert one == {key: "" if value is None else str(value) for key, value in texts.items()}
        labels = dict.fromkeys((line["label_index"], line["label"]) for line in lines)
        assert sorted(int(index) for index, _ in labels) == list(range(len(labels)))
        sealed = json.loads((folder / "manifest.json").read_text())["tables"]
        assert {file: sealed[file]["sha256"] for file in NAMES} == {
            file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in NAMES
        }


def test_what_is_known_of_a_dog(cli: Cli, tmp_path: Path) -> None:
    assert cli("-i", "--sample", "--to", tmp_path).returncode == 0
    with (tmp_path / "_extraction/austin/metadata.csv").open() as file:
        line = next(csv.DictReader(file))
    assert {key: line[key] for key in list(line)[11:]} == {
        "name": "Dog 0", "sex": "Female", "weight_pounds": "53.3", "dob": "20150306", "breed": "Mixed",
        "color": "Tan /None", "pattern": "",
    }  # fmt: skip
    assert (line["label"], line["annotation"]) == ("1000", "austin/annotations/1000_1.json")


def test_the_bytes_are_the_same_for_any_number_of_workers(cli: Cli, tmp_path: Path) -> None:
    ways: dict[str, list[str | Path]] = {"one": ["--connections", "1"], "usual": [], "workers": ["--workers", "2"]}
    for name, options in ways.items():
        assert cli("-b", "-i", "-d", "oxford", "--sample", "--to", tmp_path / name, *options).returncode == 0
    found = [
        {path: data for path, data in files_under(tmp_path / name).items() if "metadata." in path} for name in ways
    ]
    assert found[0] == found[1] == found[2] and len(found[0]) == 8


# ── odd ones ─────────────────────────────────────────────────────────────────────────────────────


def test_odd_images_and_annotations(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    members = {
        "images/n1-a/1.jpg": encoded(Image.new("RGB", (10, 4)), "PNG"),  # a PNG named .jpg
        "images/n1-a/2.jpg": b"<!DOCTYPE html>",
        "images/n1-a/3.jpg": sample.picture(1)[:30],
        "images/n1-a/4.jpg": sample.picture(1),
        "images/n1-a/5.jpg": sample.picture(2),
        "images/n1-a/5.png": sample.picture(3),  # both have the same annotation
        "images/n2-b, c/6.jpg": sample.picture(4),
        "images/README": b"no image",
        "boxes/n1-a/4.xml": b"<annotation><object><bndbox></annotation>",
        "boxes/n1-a/5.xml": sample.voc("a/b"),
        "boxes/n2-b, c/6.xml": sample.voc("a/b").replace(b"112", b"129"),
        "boxes/n9-of/nothing.xml": sample.voc("a/b"),
    }
    with caplog.at_level(logging.WARNING, "spotted"):
        assert bench.extract(mini(bench, members)).state == "complete"
    lines = lines_of(bench)
    keys = ("label", "label_index", "width", "height", "format")
    assert [tuple(line[key] for key in keys) for line in lines] == [
        ("a", 0, 10, 4, "png"), ("a", 0, None, None, None), ("a", 0, None, None, "jpeg"), ("a", 0, 128, 128, "jpeg"),
        ("a", 0, 128, 128, "jpeg"), ("a", 0, 128, 128, "jpeg"), ("b, c", 1, 128, 128, "jpeg"),
    ]  # fmt: skip
    assert [len(line["boxes"]) for line in lines] == [0, 0, 0, 0, 1, 1, 1]
    assert [bool(line["annotation"]) for line in lines] == [False, False, False, True, True, True, True]
    assert [record.message for record in caplog.records if "parsed" in record.message] == [
        "mini: 1 annotations cannot be parsed, their images have no boxes in the table: mini/boxes/n1-a/4.xml: not XML"
    ]
    labels = bench.metadata()["labels"]
    assert isinstance(labels, dict)
    assert labels["unparsed"] == {"count": 1, "examples": ["mini/boxes/n1-a/4.xml: not XML"]}
    assert labels["outside"] == {"count": 1, "examples": ["mini/images/n2-b, c/6.jpg"]}
    assert labels["boxes_per_image"] == {"0": 4, "1": 3}


@pytest.mark.usefixtures("small_limits")
def test_a_large_image_whose_size_is_not_in_its_first_bytes(any_bench: Bench) -> None:
    large = encoded(Image.new("RGB", (40, 30)), "JPEG", icc_profile=bytes(3000))
    assert any_bench.extract(mini(any_bench, {**MEMBERS, "images/large.jpg": large})).state == "complete"
    assert [(line["width"], line["height"]) for line in lines_of(any_bench)] == [(40, 30), *[(128, 128)] * 6]


# ── resuming, verifying ──────────────────────────────────────────────────────────────────────────


def interrupted(bench: Bench) -> Dataset:
    """A run whose second archive is broken: its journal has all of the first."""
    whole = mini(bench, {**MEMBERS, **BOXES})
    good = zip_of([("x", random.Random(1).randbytes(2000))])
    broken = bench.dataset(b_zip=good[:999] + bytes([good[999] ^ 1]) + good[1000:])
    both = replace(whole, archives=(*whole.archives, *broken.archives))
    assert bench.extract(both).state == "incomplete"
    assert lines_of(bench) == []
    bench.server.files["/b.zip"] = good
    return both


def entries(bench: Bench) -> list[str]:
    return [stored.name for stored in bench.bucket.list("_extraction/mini/journal/") if stored.name.endswith(".json")]


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_resumed_run_has_all_notes_and_an_older_journal_has_them_read_back(any_bench: Bench, version: int) -> None:
    dataset = interrupted(any_bench)
    for name in entries(any_bench) if version < VERSION else []:
        data = any_bench.bucket.get(name) or b""
        entry, fields = JournalEntry.decode(data), unseal(data)
        assert fields["version"] == VERSION
        old = fields | {"version": version, "rows": Rows.of(row._replace(note="") for row in entry.rows).encode()}
        any_bench.bucket.put(name, seal({key: old[key] for key in old if key != "version" or version}))
    assert any_bench.extract(dataset).state == "complete"
    resumed = table_of(any_bench)
    assert all(line["width"] == 128 and len(line["boxes"]) == 2 for line in lines_of(any_bench))
    any_bench.bucket.delete([f"_extraction/mini/{name}" for name in (*NAMES, "manifest.csv")])
    assert any_bench.extract(dataset).state == "complete"
    assert table_of(any_bench) == resumed


def test_a_lost_table_is_made_again_and_nothing_is_stored_for_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = mini(bench, {**MEMBERS, **BOXES})
    bench.extract(dataset)
    before = table_of(bench)
    for other in (b"another", (before["metadata.csv"] or b"")[:-1] + b"x"):
        caplog.clear()
        bench.bucket.put("_extraction/mini/metadata.csv", other)
        with caplog.at_level(logging.WARNING, "spotted"):
            assert bench.extract(dataset).state == "complete"
        assert "1 objects of the complete dataset are missing or changed" in caplog.text
        assert table_of(bench) == before
        assert bench.extract(dataset).was_complete


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "croissant.json"])
def test_verify_names_a_lost_table_and_repair_makes_it_from_what_is_stored(name: str, any_bench: Bench) -> None:
    bench, dataset = any_bench, mini(any_bench, {**MEMBERS, **BOXES})
    bench.extract(dataset)
    before, about = table_of(bench), bench.metadata()
    bench.bucket.put(f"_extraction/mini/{name}", b"damaged")
    (found,) = verify(dataset, bench.bucket).missing
    assert found.path == f"_extraction/mini/{name}" and "--repair makes it again" in found.reason
    bench.server.heal()
    bench.server.files.clear()  # no source is needed
    assert repair(dataset, bench.job()).status == 0
    assert table_of(bench) == before and bench.metadata()["tables"] == about["tables"]
    assert bench.extract(dataset).was_complete and bench.bucket.get("_extraction/mini/card.html")


def test_a_table_is_not_made_of_images_that_are_missing(bench: Bench) -> None:
    dataset = mini(bench, {**MEMBERS, **BOXES})
    bench.extract(dataset)
    bench.bucket.delete([f"mini/{next(iter(MEMBERS))}", "_extraction/mini/metadata.csv"])
    bench.server.files.clear()
    with pytest.raises(SourceError):
        repair(dataset, bench.job())
    assert bench.bucket.get("_extraction/mini/metadata.csv") is None and ManifestStore(bench.bucket, "mini").manifest()


def test_a_repair_that_corrects_an_image_makes_the_table_again(any_bench: Bench) -> None:
    bench, whole = any_bench, tar_of(list({**MEMBERS, **BOXES}.items()))
    dataset, at = mini(bench, {**MEMBERS, **BOXES}), whole.index(sample.picture(1)) + 300
    assert bench.extract(dataset).state == "complete"
    right = table_of(bench)
    bench.server.files["/a.tar"] = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    assert bench.extract(dataset, RunOptions(force=True)).state == "complete"
    assert table_of(bench) != right
    bench.server.files["/a.tar"] = whole
    assert repair(dataset, bench.job(RunOptions(deep=True))).status == 0
    assert table_of(bench) == right
    lines = (bench.bucket.get("_extraction/mini/manifest.csv") or b"").decode().splitlines()
    assert {line.count(",") for line in lines} == {4}
    assert bench.extract(dataset).was_complete


def test_photos_that_are_kept_have_their_facts(cli: Cli, tmp_path: Path) -> None:
    assert cli("-i", "--sample", "--to", tmp_path).returncode == 0
    table = tmp_path / "_extraction/austin/metadata.csv"
    before = table.read_bytes()
    next((tmp_path / "austin/full_quality").iterdir()).unlink()
    assert cli("-i", "--sample", "--to", tmp_path).returncode == 0
    assert table.read_bytes() == before


def test_a_dataset_that_an_older_version_completed_gets_a_table_by_repair(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = mini(bench, MEMBERS)
    bench.extract(dataset)
    before = table_of(bench)
    metadata = {key: value for key, value in bench.metadata().items() if key not in ("tables", "labels", "crc32c")}
    bench.bucket.put("_extraction/mini/manifest.json", seal(metadata, indent=2))
    bench.bucket.delete([f"_extraction/mini/{name}" for name in (*NAMES, "croissant.json", "card.html", "card.json")])
    with caplog.at_level(logging.INFO, "spotted"):
        assert bench.extract(dataset).was_complete
    assert "mini: no metadata.csv: an older version completed it; --repair makes the table" in caplog.messages
    assert json.loads(bench.bucket.get("_extraction/mini/card.json") or b"")["labels"] is None
    assert repair(dataset, bench.job()).status == 0
    assert table_of(bench) == before and bench.extract(dataset).was_complete
    assert json.loads(bench.bucket.get("_extraction/mini/card.json") or b"")["labels"]["images"] > 0


# ── many ─────────────────────────────────────────────────────────────────────────────────────────


def test_images_find_their_annotations_whatever_the_order_of_the_names(tmp_path: Path) -> None:
    """ "a-b.jpg" comes before "a.jpg", but "a" before "a-b"."""
    stems = [f"{number:04d}{end}" for number in range(2 * ROWS_PER_PIECE) for end in ("", "-b", " c", "!")]
    rows = [Row(f"mini/images/{stem}.jpg", 1, 1, "", 0, note="jpeg 1 1") for stem in stems]
    rows += [Row(f"mini/boxes/{stem}", 1, 1, "", 0, note=f'[["{stem}",1,1,1,1]]') for stem in stems[::3]]
    noted = NotedRows(replace(LAYOUT, annotation="mini/boxes/{stem}"))
    for row in sorted(rows):
        noted.add(row)
    found = list(noted.images(FolderBucket(tmp_path)))
    assert [image.path for image in found] == sorted(f"mini/images/{stem}.jpg" for stem in stems)
    assert all(box.kind == image.path[12:-4] for image in found for box in image.said.boxes)
    assert sum(len(image.said.boxes) for image in found) == len(stems[::3])
    assert [file.size > 0 for file in tables(noted, FolderBucket(tmp_path), lambda path: "")[0]] == [True, True]


def test_the_journal_says_which_version_it_is(tmp_path: Path) -> None:
    store = ManifestStore(FolderBucket(tmp_path), "d")
    entry = JournalEntry("a.tar/0", "v", Rows.of([Row("d/a", 1, 2, "s", 3, note="jpeg 1 1"), Row("d/b", 1, 2, "s", 3)]))
    store.write(entry)
    assert [row.note for row in store.journal()["a.tar/0"].rows] == ["jpeg 1 1", ""]
