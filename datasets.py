"""The datasets that can be extracted, as data.

A new dataset is one more `Dataset` in DATASETS: the URLs of its archives, and the prefix of their members. Users can
define more of them in a TOML file (sources/datasets_file.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType


@dataclass(frozen=True)
class Archive:
    """One archive, or the raw parts of one, and the prefix of its members' object names.

    `size` (bytes), `sha256` and `objects` (number of files) are the published ones, if any.
    """

    urls: tuple[str, ...]
    prefix: str
    file: str  # its name on a mirror, in the journal and in messages; parts add .001, .002 …
    size: int | None = None
    sha256: str = ""
    objects: int | None = None
    is_optional: bool = False  # if the source does not have it, the dataset is complete without it

    @property
    def files(self) -> tuple[str, ...]:
        """The file names of the parts."""
        parts = len(self.urls)
        return (self.file,) if parts == 1 else tuple(f"{self.file}.{part:03d}" for part in range(1, parts + 1))


@dataclass(frozen=True)
class PhotoTables:
    """The URLs of two tables that list photos, and the prefixes of photos and annotations.

    `blobs` are the expected Git object IDs of the tables; `copy` is a second URL of each, with {} for its ID.
    """

    dogs: str
    photos: str
    image_prefix: str
    annotation_prefix: str
    blobs: tuple[str, ...] = ("", "")
    copy: str = ""


@dataclass(frozen=True)
class Split:
    """A split of a dataset's images: the object `list` names them, and `images` is their published number.

    A dataset without lists has `percent` instead: its groups are assigned by the hash of their names.
    """

    name: str
    list: str = ""
    images: int | None = None
    percent: int = 0


@dataclass(frozen=True)
class Layout:
    """The folders of a dataset's images and annotations, and the published numbers.

    Images are grouped by their folder below `images`; without one, by their name up to the last "_". In `annotation`,
    {name} is an image's path below `images`, and {stem} that path without its suffix. `columns` are keys of JSON
    annotations that become columns of the table of images.
    """

    images: str
    annotation: str
    photos: int | None = None
    groups: int | None = None
    grouped_by: str = "breed"
    columns: tuple[str, ...] = ()
    splits: tuple[Split, ...] = ()

    @cached_property
    def annotation_parts(self) -> tuple[str, str, str]:
        """`annotation` split into the text before, in and after the braces."""
        before, _, rest = self.annotation.partition("{")
        return (before, *rest.partition("}")[::2])


@dataclass(frozen=True)
class Dataset:
    """A dataset: its sources, its folder in the bucket, its licence and its citation.

    `licence` is the publisher's statement, or says that there is none; `citation` is what the publisher asks for.
    """

    name: str
    title: str
    folder: str
    group: str = ""  # "breed" (-b), "individual" (-i), or "": selected by --dataset only
    archives: tuple[Archive, ...] = ()
    tables: PhotoTables | None = None
    layout: Layout | None = None
    home: str = ""
    licence: str = ""
    citation: str = ""
    creator: str = ""
    published: str = ""  # year, or date: YYYY-MM-DD
    objects: int = 0  # published, or counted by others; 0 if unknown
    size: int = 0  # bytes to fetch; exact if the sizes of the archives are published; 0 if unknown


def _thu_layout(images: str, annotations: str, lists: str) -> Layout:
    folder = f"tsinghua/{lists}/TrainAndValList/"
    splits = Split("train", f"{folder}train.lst", 65_228), Split("validation", f"{folder}validation.lst", 5_200)
    return Layout(f"tsinghua/{images}/", f"tsinghua/{annotations}/{{name}}.xml", 70_428, 130, splits=splits)


def _tsinghua(token: str) -> str:
    return f"https://cloud.tsinghua.edu.cn/f/{token}/?dl=1"


_STANFORD = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
_THU = "https://cg.cs.tsinghua.edu.cn/ThuDogs/"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
_AUSTIN = (
    "https://raw.githubusercontent.com/alex-coward/spotted_dog_finder/42c3fce3863bf7d70fa297c064b197f97c12bae5"
    "/src/data_extraction/csv/"
)
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
                "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58", 20_580),
        Archive((_STANFORD + "annotation.tar",), "stanford/", "annotation.tar", 21_852_160,
                "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd", 20_580),
        Archive((_STANFORD + "lists.tar",), "stanford/lists/", "lists.tar", 481_280,
                "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c", 3),
    ),
    layout=Layout("stanford/Images/", "stanford/Annotation/{stem}", 20_580, 120, splits=(
        Split("train", "stanford/lists/train_list.mat", 12_000), Split("test", "stanford/lists/test_list.mat", 8_580),
    )),
    home=_STANFORD,
    licence="None stated. The photos are ImageNet's, which gives them for non-commercial research and education only.",
    citation="Aditya Khosla, Nityananda Jayadevaprakash, Bangpeng Yao and Li Fei-Fei: Novel dataset for Fine-Grained "
             "Image Categorization. First Workshop on Fine-Grained Visual Categorization, CVPR, 2011.",
    creator="Stanford University",
    published="2011",
    objects=41_163,
    size=815_912_960,
)  # fmt: skip
TSINGHUA = Dataset(
    "tsinghua",
    "Tsinghua Dogs, low resolution: 70,428 photos of 130 breeds",
    "tsinghua/",
    "breed",
    (
        Archive((_tsinghua("80013ef29c5f42728fc8"),), "tsinghua/", "low-resolution.zip", objects=70_428),
        Archive((_THU + "TrainValSplit.zip",), "tsinghua/lists/", "TrainValSplit.zip", objects=2, is_optional=True),
        Archive((_THU + "low-annotations.zip",), "tsinghua/", "low-annotations.zip", objects=70_428),
    ),
    layout=_thu_layout("low-resolution", "Low-Annotations", "lists"),
    home=_THU,
    licence="None stated; available for academic purposes, as the paper says.",
    citation="Ding-Nan Zou, Song-Hai Zhang, Tai-Jiang Mu and Min Zhang: A new dataset of dog breed images and a "
    "benchmark for fine-grained classification. Computational Visual Media 6(4), 2020. "
    "https://doi.org/10.1007/s41095-020-0184-6",
    creator="Tsinghua University",
    published="2020",
    objects=140_858,
    size=2_500_000_000,
)
TSINGHUA_HIGH = replace(
    TSINGHUA,
    name="tsinghua-high",
    title="Tsinghua Dogs, high resolution: the same photos, 38.8 GB",
    group="",
    archives=(
        Archive(tuple(map(_tsinghua, _HIGH_PARTS)), "tsinghua/", "high-resolution.zip", objects=70_428),
        Archive(
            (_THU + "TrainValSplit.zip",), "tsinghua/high-lists/", "TrainValSplit.zip", objects=2, is_optional=True
        ),
        Archive((_THU + "high-annotations.zip",), "tsinghua/", "high-annotations.zip", objects=70_428),
    ),
    layout=_thu_layout("high-resolution", "High-Annotations", "high-lists"),
    size=38_800_000_000,
)
AUSTIN = Dataset(
    "austin",
    "Austin Pets Alive: about 65,000 photos of 17,212 dogs",
    "austin/",
    "individual",
    tables=PhotoTables(
        _AUSTIN + "apa_dogs.csv",
        _AUSTIN + "apa_photos.csv",
        "austin/full_quality/",
        "austin/annotations/",
        ("077cac63b82cb2b7473e9853008b673edee62356", "b414d90c817ed77331ba642678076be66afda8da"),
        "https://archive.softwareheritage.org/api/1/content/sha1_git:{}/raw/",
    ),
    layout=Layout(
        "austin/full_quality/",
        "austin/annotations/{stem}.json",
        grouped_by="dog",
        columns=("name", "sex", "weight_pounds", "dob", "breed", "color", "pattern"),
        splits=(Split("train", percent=80), Split("validation", percent=10), Split("test", percent=10)),
    ),
    home="https://github.com/alex-coward/spotted_dog_finder",
    licence="None stated. The photos are the shelter's and its helpers', as published on shelterluv.com.",
    citation="Austin Pets Alive!, dogs and photos on Shelterluv, collected for spotted_dog_finder.",
    creator="Austin Pets Alive!",
    published="2024-08-11",
    objects=130_000,
    size=4_000_000_000,
)
# Sizes and checksums: TensorFlow Datasets' url_checksums/oxford_iiit_pet.txt.
OXFORD = Dataset(
    "oxford",
    "Oxford-IIIT Pet: 7,390 photos of 37 breeds of cats and dogs",
    "oxford/",
    archives=(
        Archive((_OXFORD + "images.tar.gz",), "oxford/", "images.tar.gz", 791_918_971,
                "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d"),
        Archive((_OXFORD + "annotations.tar.gz",), "oxford/", "annotations.tar.gz", 19_173_078,
                "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91"),
    ),
    layout=Layout("oxford/images/", "oxford/annotations/xmls/{stem}.xml", 7_390, 37, splits=(
        Split("trainval", "oxford/annotations/trainval.txt", 3_680),
        Split("test", "oxford/annotations/test.txt", 3_669),
    )),
    home="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    licence="CC BY-SA 4.0; the copyright of the photos remains with their owners.",
    citation="Omkar M. Parkhi, Andrea Vedaldi, Andrew Zisserman and C. V. Jawahar: Cats and Dogs. IEEE Conference on "
             "Computer Vision and Pattern Recognition, 2012.",
    creator="University of Oxford and IIIT Hyderabad",
    published="2012",
    size=811_092_049,
)  # fmt: skip
GROUPS = ("breed", "individual")
DATASETS = {dataset.name: dataset for dataset in (STANFORD, TSINGHUA, TSINGHUA_HIGH, AUSTIN, OXFORD)}


def select(
    groups: Iterable[str], names: Iterable[str], known: Mapping[str, Dataset] = MappingProxyType(DATASETS)
) -> list[Dataset]:
    """Those of the known datasets that are of these groups or have these names, each once, in their order."""
    groups, names = set(groups), set(names)
    return [dataset for dataset in known.values() if dataset.group in groups or dataset.name in names]


def sharing(dataset: Dataset, known: Iterable[Dataset] = DATASETS.values()) -> list[Dataset]:
    """The other datasets of those known whose objects may lie in its folder, or in one within it or around it."""
    folders = ((other, sorted((other.folder, dataset.folder))) for other in known if other.name != dataset.name)
    return [other for other, (outer, inner) in folders if inner.startswith(outer)]
