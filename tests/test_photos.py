"""The Austin join, ranks, names and annotations."""

from __future__ import annotations

import json
import subprocess

import pytest

from datasets import DATASETS, Dataset, PhotoTables
from errors import SourceError
from pipeline.planner import plan_photos
from sources.http import HttpClient
from sources.photo_tables import join, ranks
from support.source_server import SourceServer

DOGS = b"""\
"AnimalID","AnimalInternal-ID","AnimalName","AnimalType","AnimalSex","AnimalCurrentWeightPounds","AnimalDOB","AnimalBreed","AnimalColor","AnimalPattern"
1,20,"Emma","Dog","Female",53.3,20150306,"Retriever, Yellow Labrador /Mix","Blond /None",NULL
2,7,"Bo","Dog","",20,NULL,"NULL",,"Merle"
"""
HEADER = b'"AnimalInternal-ID","PhotoUrl"\n'
HOST = "https://www.shelterluv.com/sites/default/files/animal_pics/464/2018/"


def table(*rows: tuple[int, str]) -> bytes:
    return HEADER + "".join(f'{dog},"{url}"\n' for dog, url in rows).encode()


def test_join_names_ranks_and_annotates() -> None:
    photos = join(DOGS, table((20, HOST + "b.png"), (7, HOST + "c.png"), (20, HOST + "a.png"), (99, HOST + "d.png")))
    assert [(photo.name, photo.url) for photo in photos] == [
        ("7_1", HOST + "c.png"),
        ("20_1", HOST + "a.png"),
        ("20_2", HOST + "b.png"),
    ]
    assert list(json.loads(photos[1].annotation).items()) == [
        ("internal_id", 20),
        ("image_file", "20_1.png"),
        ("name", "Emma"),
        ("sex", "Female"),
        ("weight_pounds", 53.3),
        ("dob", 20150306),
        ("breed", "Retriever, Yellow Labrador /Mix"),
        ("color", "Blond /None"),
        ("pattern", "null"),
    ]


def test_missing_values_are_the_string_null_and_weights_are_floats() -> None:
    (photo,) = join(DOGS, table((7, HOST + "c.png")))
    found = json.loads(photo.annotation)
    assert {key for key, value in found.items() if value == "null"} == {"sex", "dob", "breed", "color"}
    assert b'"weight_pounds": 20.0' in photo.annotation


def test_the_wrong_host_is_put_right_before_ranking() -> None:
    wrong = HOST.replace("www.", "live-cdn.")
    photos = join(DOGS, table((20, wrong + "b.png"), (20, HOST + "a.png"), (20, HOST + "b.png")))
    assert [(photo.url, photo.name) for photo in photos] == [(HOST + "a.png", "20_1"), (HOST + "b.png", "20_2")]


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        (["a"], [("a", 1)]),
        (["b", "a"], [("a", 1), ("b", 2)]),
        (["a", "b", "b"], [("a", 1), ("b", 2)]),  # equal at 2 and 3 → 2.5, cut to 2, and there is no 3
        (["a", "b", "b", "c"], [("a", 1), ("b", 2), ("c", 4)]),
        (["a", "a", "a"], [("a", 2)]),
        (["b", "B", "a"], [("B", 1), ("a", 2), ("b", 3)]),
    ],
)
def test_ranks(urls: list[str], expected: list[tuple[str, int]]) -> None:
    assert list(ranks(urls)) == expected


@pytest.mark.parametrize(
    ("dogs", "photos", "message"),
    [
        (DOGS, b"<html>", "apa_photos.csv: expected a column AnimalInternal-ID, got <html>"),
        (b"", HEADER, "apa_dogs.csv: expected a column AnimalInternal-ID, got nothing"),
        (DOGS, HEADER + b'x,"u"\n', "apa_photos.csv, line 2: expected a number as AnimalInternal-ID, got 'x'"),
        (DOGS.replace(b"53.3", b"heavy"), table((20, "u")), "apa_dogs.csv: dog 20: AnimalCurrentWeightPounds"),
    ],
)
def test_a_table_in_another_form_is_named(dogs: bytes, photos: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=f"^{message.replace('(', '[(]')}"):
        join(dogs, photos)


# ── copies ───────────────────────────────────────────────────────────────────────────────────────


def blob(data: bytes) -> str:
    """As `git hash-object` prints it."""
    done = subprocess.run(["git", "hash-object", "--stdin"], input=data, capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.mark.parametrize(
    "trouble", ["none", "gone", "another", "gone, and the copy is another", "another, with no copy"]
)
def test_a_table_that_is_gone_or_another_is_taken_from_its_copy(
    mirror: SourceServer, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    names = ("/apa_dogs.csv", "/apa_photos.csv")
    data = [mirror.files[name] for name in names]
    blobs = tuple(map(blob, data))
    mirror.files |= {f"/copies/{each}": table for each, table in zip(blobs, data, strict=True)}
    if trouble.startswith("gone"):
        del mirror.files[names[1]]
    elif trouble.startswith("another"):
        mirror.files[names[1]] += b"1000,https://example.com/a.png\n"
    if "copy is another" in trouble:
        mirror.files[f"/copies/{blobs[1]}"] += b"1000,https://example.com/a.png\n"
    copy = "" if "no copy" in trouble else f"{mirror.url}/copies/{{}}"
    tables = PhotoTables(mirror.url + names[0], mirror.url + names[1], "a/", "b/", blobs, copy)
    dataset = Dataset("own", "Own", "own/", tables=tables)
    if "copy is" in trouble or "no copy" in trouble:
        with pytest.raises(SourceError, match=f"expected the table with the Git object ID {blobs[1]}, got "):
            plan_photos(dataset, "", HttpClient())
    else:
        assert sum(unit.objects or 0 for unit in plan_photos(dataset, "", HttpClient())) == 120
        assert ("taking the copy" in caplog.text) == (trouble != "none")


def test_a_mirror_without_a_table_is_named(mirror: SourceServer) -> None:
    """No copy is asked for, as there is no ID to ask with."""
    del mirror.files["/apa_photos.csv"]
    with pytest.raises(SourceError, match=f"^{mirror.url}/apa_photos.csv: status 404"):
        plan_photos(DATASETS["austin"], mirror.url, HttpClient())


def test_a_mirror_in_capitals(mirror: SourceServer) -> None:
    (unit,) = plan_photos(DATASETS["austin"], mirror.url.replace("http", "HTTP"), HttpClient())
    assert unit.objects == 120
