"""What can be extracted, as data.

A new dataset is one more `Dataset` in DATASETS: where its archives are, and under which prefix their members go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One archive, or the raw parts of one, and the prefix its members go under.

    `size` (bytes) and `sha256` are the published ones, where there are any.
    """

    urls: tuple[str, ...]
    prefix: str
    file: str  # what it is called: by a mirror, in the journal, in messages; parts add .001, .002 …
    size: int | None = None
    sha256: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """The file names of the parts."""
        parts = len(self.urls)
        return (self.file,) if parts == 1 else tuple(f"{self.file}.{part:03d}" for part in range(1, parts + 1))


@dataclass(frozen=True)
class PhotoTables:
    """Tables that name photos, and the prefixes under which photos and annotations go."""

    dogs: str
    photos: str
    image_prefix: str
    annotation_prefix: str


@dataclass(frozen=True)
class Dataset:
    """A dataset: its name, the option that asks for it, its folder in the bucket, and where it comes from."""

    name: str
    title: str
    folder: str
    group: str = ""  # "breed", "individual", or "" for what only --dataset asks for
    archives: tuple[Archive, ...] = ()
    tables: PhotoTables | None = None

    @property
    def counted_in(self) -> str:
        """What its progress is measured in."""
        return "photo" if self.tables else "B"


def _tsinghua(token: str) -> str:
    return f"https://cloud.tsinghua.edu.cn/f/{token}/?dl=1"


_STANFORD = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
_THU = "https://cg.cs.tsinghua.edu.cn/ThuDogs/"
_AUSTIN = "https://raw.githubusercontent.com/alex-coward/spotted_dog_finder/main/src/data_extraction/csv/"
_HIGH_PARTS = (
    "d2031efb239c4dde9c6c", "6a242a6bba664537ba45", "d17034fa14f54e4381d8", "3740fc44cd484e1cb089",
    "ff5d96a0bc4e4dba9004", "d5fe5c88198c4387a7bb", "b13d6710ac85487e9487", "b6cf354fd04b4fe0b909",
    "06a421a528044b15838c",
)  # fmt: skip

# Sizes and checksums of Stanford: TensorFlow Datasets' url_checksums/stanford_dogs.txt. Tsinghua publishes none.
STANFORD = Dataset(
    "stanford",
    "Stanford Dogs: 20,580 photos of 120 breeds",
    "stanford/",
    "breed",
    (
        Archive((_STANFORD + "images.tar",), "stanford/", "images.tar", 793_579_520,
                "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58"),
        Archive((_STANFORD + "annotation.tar",), "stanford/", "annotation.tar", 21_852_160,
                "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd"),
        Archive((_STANFORD + "lists.tar",), "stanford/lists/", "lists.tar", 481_280,
                "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c"),
    ),
)  # fmt: skip
TSINGHUA = Dataset(
    "tsinghua",
    "Tsinghua Dogs, low resolution: 70,428 photos of 130 breeds",
    "tsinghua/",
    "breed",
    (
        Archive((_tsinghua("80013ef29c5f42728fc8"),), "tsinghua/", "low-resolution.zip"),
        Archive((_THU + "low-annotations.zip",), "tsinghua/", "low-annotations.zip"),
    ),
)
TSINGHUA_HIGH = Dataset(
    "tsinghua-high",
    "Tsinghua Dogs, high resolution: the same photos, 38.8 GB",
    "tsinghua/",
    "",
    (
        Archive(tuple(map(_tsinghua, _HIGH_PARTS)), "tsinghua/", "high-resolution.zip"),
        Archive((_THU + "high-annotations.zip",), "tsinghua/", "high-annotations.zip"),
    ),
)
AUSTIN = Dataset(
    "austin",
    "Austin Pets Alive: about 65,000 photos of 17,212 dogs",
    "austin/",
    "individual",
    tables=PhotoTables(
        _AUSTIN + "apa_dogs.csv", _AUSTIN + "apa_photos.csv", "austin/full_quality/", "austin/annotations/"
    ),
)
DATASETS = {dataset.name: dataset for dataset in (STANFORD, TSINGHUA, TSINGHUA_HIGH, AUSTIN)}


def chosen(groups: Iterable[str], names: Iterable[str]) -> list[Dataset]:
    """The datasets of these groups and of these names, each once, in the order of DATASETS."""
    groups, names = set(groups), set(names)
    return [dataset for dataset in DATASETS.values() if dataset.group in groups or dataset.name in names]
