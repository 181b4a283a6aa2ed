"""The published lists, as each dataset has them, become splits; lists that are missing or damaged cost their splits."""

from __future__ import annotations

import json
import logging
import struct
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets import AUSTIN, DATASETS, OXFORD, STANFORD, TSINGHUA, Split
from errors import SourceError
from manifest.labels.mat import cell_texts
from manifest.labels.splits import compare_counts, read_splits
from sources import sample
from storage.directory import FolderBucket
from support.archives import tar_of
from support.bench import Bench
from support.miniature import sums
from support.program import Cli
from support.source_server import Plan, SourceServer

# ── MAT-files ────────────────────────────────────────────────────────────────────────────────────


def element(order: str, kind: int, data: bytes, small: bool = False) -> bytes:
    if small:
        return struct.pack(f"{order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(order: str, kind: int, name: str, length: int, data: bytes) -> bytes:
    flags, size = struct.pack(f"{order}II", kind, 0), struct.pack(f"{order}ii", length, 1)
    head = element(order, 6, flags) + element(order, 5, size) + element(order, 1, name.encode(), 0 < len(name) <= 4)
    return element(order, 14, head + data)


def text(order: str, value: str, kind: int) -> bytes:
    utf = "utf-{}-le" if order == "<" else "utf-{}-be"
    encodings = {1: "latin-1", 2: "latin-1", 4: utf.format(16), 16: "utf-8", 17: utf.format(16), 18: utf.format(32)}
    data = value.encode(encodings[kind])
    return matrix(order, 4, "", len(value), element(order, kind, data, len(data) <= 4))


def mat(order: str, texts: list[str], kind: int = 4, packed: bool = False, name: str = "file_list") -> bytes:
    """A MAT-file with a matrix of numbers, and then a cell array of these texts."""
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100) + (b"IM" if order == "<" else b"MI")
    numbers = matrix(order, 6, "n", 3, element(order, 9, struct.pack(f"{order}3d", 1, 2, 3)))
    cells = matrix(order, 1, name, len(texts), b"".join(text(order, each, kind) for each in texts))
    if packed:
        numbers, cells = (struct.pack(f"{order}II", 15, len(data := zlib.compress(each))) + data
                          for each in (numbers, cells))  # fmt: skip
    return header + numbers + cells


TEXTS = ["n02085620-Chihuahua/n02085620_5927.jpg", "a", "", "abcd", "abcde"]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 2, 4, 16, 17, 18])
@pytest.mark.parametrize("packed", [False, True])
def test_lists_in_every_form_of_a_mat_file(order: str, kind: int, packed: bool) -> None:
    assert cell_texts(mat(order, TEXTS, kind, packed), "file_list") == TEXTS
    assert cell_texts(mat(order, TEXTS, kind, packed, name="list"), "list") == TEXTS


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a MAT-file of version 5"),
        (bytes(200_000), "not a MAT-file of version 5"),
        (mat("<", TEXTS)[:300], "a damaged MAT-file"),
        (mat("<", TEXTS, packed=True)[:-9], "a damaged MAT-file"),
        (mat("<", TEXTS, name="others"), "a MAT-file without file_list"),
        (mat("<", TEXTS)[:128], "a MAT-file without file_list"),
        (mat("<", [])[:128] + struct.pack("<II", 15, len(bomb := zlib.compress(bytes(100 << 20), 9))) + bomb,
         "a damaged MAT-file"),
    ],
    ids=["empty", "noise", "cut off", "compressed, cut off", "another name", "only a header", "a bomb"],
)  # fmt: skip
def test_what_is_no_such_file_says_so(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        cell_texts(data, "file_list")


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damaged_files_raise_nothing_else(noise: bytes, at: int) -> None:
    whole = mat("<", TEXTS)
    try:
        found = cell_texts(whole[: 128 + at] + noise + whole[128 + at + len(noise) :], "file_list")
    except ValueError:
        return
    assert all(isinstance(each, str) for each in found)


# ── lists ────────────────────────────────────────────────────────────────────────────────────────


def test_the_splits_of_the_sample(cli: Cli, tmp_path: Path) -> None:
    names = ("stanford", "tsinghua", "tsinghua-high", "austin", "oxford")
    done = cli(*(word for name in names for word in ("-d", name)), "--sample", "--to", tmp_path)
    assert done.returncode == 0 and "published are" not in done.stderr
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        splits = found.setdefault(name, {})
        for line in (tmp_path / f"_extraction/{name}/metadata.jsonl").read_text().splitlines():
            image = json.loads(line)
            splits.setdefault(image["split"], []).append(image["path"].rpartition("/")[2])
    assert {name: {split: len(images) for split, images in splits.items()} for name, splits in found.items()} == {
        "stanford": {"train": 12, "test": 6},
        "tsinghua": {"train": 3, "validation": 3},
        "tsinghua-high": {"train": 3, "validation": 3},
        "austin": {"train": 54, "test": 4},
        "oxford": {"trainval": 6, "test": 6},
    }
    assert {int(name[-5]) <= sample.TRAINED_ON for name in found["stanford"]["train"]} == {True}
    assert {name.split(".")[0] for name in found["tsinghua-high"]["train"]} == {"n101"}
    assert {int(name[-5]) <= 2 for name in found["oxford"]["trainval"]} == {True}
    dogs = [{name.split("_")[0] for name in images} for images in found["austin"].values()]
    assert not dogs[0] & dogs[1]
    labels = {
        name: json.loads((tmp_path / f"_extraction/{name}/manifest.json").read_text())["labels"] for name in names
    }
    assert labels["stanford"]["splits"] == {"test": 6, "train": 12}
    assert labels["stanford"]["splits_published"] == {"train": 12_000, "test": 8_580}
    assert {name: each["splits_origin"] for name, each in labels.items()} == dict.fromkeys(names, "published") | {
        "austin": "not published: ours, by the SHA-256 of what identifies the dog"
    }
    assert labels["oxford"]["labels"]["Maine Coon"] == {"test": 2, "trainval": 2}


def test_each_dog_is_in_one_split_for_ever(tmp_path: Path) -> None:
    assert AUSTIN.layout
    splits = read_splits(AUSTIN, AUSTIN.layout, FolderBucket(tmp_path))
    of = {dog: splits.of(f"austin/full_quality/{dog}_1.png") for dog in range(20_000)}
    assert [of[dog] for dog in (1000, 1004, 1014)] == ["train", "test", "validation"]
    assert all(splits.of(f"austin/full_quality/{dog}_12.png") == of[dog] for dog in range(100))
    shares = Counter(of.values())
    assert {name: round(count / 200) for name, count in shares.items()} == {"train": 80, "validation": 10, "test": 10}


def test_the_published_numbers_add_up() -> None:
    def published(splits: tuple[Split, ...]) -> list[tuple[str, int | None]]:
        return [(split.name, split.images) for split in splits]

    layouts = {name: dataset.layout for name, dataset in DATASETS.items()}
    assert {name: published(layout.splits) for name, layout in layouts.items() if layout} == {
        "stanford": [("train", 12_000), ("test", 8_580)],
        "tsinghua": [("train", 65_228), ("validation", 5_200)],
        "tsinghua-high": [("train", 65_228), ("validation", 5_200)],
        "austin": [("train", None), ("validation", None), ("test", None)],
        "oxford": [("trainval", 3_680), ("test", 3_669)],
    }
    assert AUSTIN.layout and sum(split.percent for split in AUSTIN.layout.splits) == 100


def test_other_counts_than_published_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert STANFORD.layout
    with caplog.at_level(logging.WARNING, "spotted"):
        compare_counts(STANFORD, STANFORD.layout.splits, Counter(train=11_999, test=8_580))
    assert caplog.messages == ["stanford: 11,999 images in the split train, published are 12,000"]


@pytest.mark.parametrize(
    ("dataset", "name", "data", "why"),
    [
        (STANFORD, "stanford/lists/train_list.mat", bytes(160_000), "not a MAT-file of version 5"),
        (TSINGHUA, "tsinghua/lists/TrainAndValList/train.lst", b"\xff\xfe\xff", "not a list in UTF-8"),
        (OXFORD, "oxford/annotations/test.txt", None, "it is not there"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(
    dataset: object, name: str, data: bytes | None, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    its, bucket = next(each for each in DATASETS.values() if each == dataset), FolderBucket(tmp_path)
    assert its.layout
    if data is not None:
        bucket.put(name, data)
    with caplog.at_level(logging.WARNING, "spotted"):
        splits = read_splits(its, its.layout, bucket)
    assert f"{its.name}: {name}: {why}; its images have no split in the table" in caplog.messages
    assert splits.of(f"{its.layout.images}a/b.jpg") == ""


def test_odd_lines_of_lists(tmp_path: Path) -> None:
    bucket = FolderBucket(tmp_path)
    bucket.put("oxford/annotations/test.txt", b"#Image CLASS-ID SPECIES\r\n\r\nAbyssinian_1 1 1 1\r\nB.C_2 1 1 1")
    bucket.put("tsinghua/lists/TrainAndValList/train.lst", "\ufeff.//220-n1-Fila Braziliero/n1.jpeg\n\n".encode())
    assert OXFORD.layout and TSINGHUA.layout
    oxford, tsinghua = (read_splits(each, each.layout, bucket) for each in (OXFORD, TSINGHUA) if each.layout)
    names = [f"oxford/images/{name}.jpg" for name in ("Abyssinian_1", "B.C_2", "Abyssinian_2")]
    assert [oxford.of(name) for name in names] == ["test", "test", ""]
    assert tsinghua.of("tsinghua/low-resolution/220-n1-Fila Braziliero/n1.jpeg") == "train"


def test_a_mirror_without_the_lists_of_tsinghua(mirror: SourceServer, cli: Cli, tmp_path: Path) -> None:
    del mirror.files["/TrainValSplit.zip"]
    mirror.files["/SHA256SUMS"] = sums(mirror)
    for command in ((), ("--plan",), ("--check",)):
        done = cli("-d", "tsinghua", "--mirror", mirror.url, "--to", tmp_path / "out", *command)
        assert done.returncode == 0, done.stderr
    assert cli("-d", "tsinghua", "--verify", "--to", tmp_path / "out").returncode == 0
    done = cli("-d", "tsinghua", "--mirror", mirror.url, "--to", tmp_path / "again")
    assert "tsinghua: going on without TrainValSplit.zip" in done.stderr
    assert "tsinghua: 0 images in the split train, published are 65,228" in done.stderr
    assert '"split":null' in (tmp_path / "out/_extraction/tsinghua/metadata.jsonl").read_text()


def test_an_optional_archive_whose_server_is_down_is_not_given_up(bench: Bench, waits: list[float]) -> None:
    dataset = bench.dataset(a_tar=tar_of([("a", b"a")]))
    optional = replace(dataset, archives=(replace(dataset.archives[0], is_optional=True),))
    bench.server.plan("/a.tar", Plan(status=503))
    with pytest.raises(SourceError, match="503"):
        bench.extract(optional)
    bench.server.plan("/a.tar", Plan())
    assert bench.extract(optional).objects == 1
