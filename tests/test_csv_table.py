"""Any byte of Austin's tables may be wrong: all photos that they have, or one error with table and line."""

from __future__ import annotations

import codecs
import json
import logging
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from errors import SourceError
from sources.photo_tables import Photo, join
from support import austin
from support.program import Cli, message
from support.source_server import SourceServer

DOGS = f"{austin.HEADER}\n{austin.DOG}\n8,Bo,Male,9,20150306,Beagle,White,NULL\n"
PHOTOS = "AnimalInternal-ID,PhotoUrl\n7,https://www.shelterluv.com/a.jpg\n8,https://www.shelterluv.com/b.jpg\n"
LONG = "x" * 100_000_000


def found(dogs: str | bytes = DOGS, photos: str | bytes = PHOTOS) -> list[tuple[str, str, str]]:
    tables = (each.encode() if isinstance(each, str) else each for each in (dogs, photos))
    return [(photo.name, photo.url, photo.refusal) for photo in join(*tables)]


WHOLE = found()


@pytest.mark.parametrize(
    ("dogs", "photos"),
    [
        (DOGS.replace("\n", "\r\n"), PHOTOS.replace("\n", "\r")),
        (DOGS.encode("utf-8-sig"), PHOTOS.encode("utf-16")),
        (codecs.BOM_UTF16_BE + DOGS.encode("utf-16-be"), PHOTOS.encode("utf-32")),
        (DOGS.replace("\n", "\n\n"), "\n" + PHOTOS.replace("\n", "\n,\n").removesuffix(",\n") + " , \n"),
        (DOGS.replace("Rex", '"Rex\nthe ""Great"""'), PHOTOS.rstrip()),
        (DOGS.replace("7,Rex", " 7.0 ,Rex"), PHOTOS.replace("7,h", "007, h").replace("a.jpg", "a.jpg ")),
        (DOGS + austin.DOG, PHOTOS.replace("https://www", "HTTPS://LIVE-CDN")),
        (DOGS.replace("AnimalName", " AnimalName "), PHOTOS),
    ],
    ids=["ends of lines", "UTF-16", "UTF-32", "blank lines", "quoted", "spaces and zeros", "capitals", "header"],
)
def test_what_only_looks_odd_is_read(dogs: str | bytes, photos: str | bytes) -> None:
    assert found(dogs, photos) == WHOLE


@pytest.mark.parametrize(
    ("dogs", "photos", "expected"),
    [
        (DOGS, PHOTOS + "8", "photos, line 4: expected 2 columns, got 1: 8"),
        (DOGS, PHOTOS + "8,", "photos, line 4: expected a URL as PhotoUrl, got nothing"),
        (DOGS, PHOTOS + "8,https://x/,9", "photos, line 4: expected 2 columns, got 3: 8,https://x/,9"),
        (DOGS + "9,Bella,Female\n", PHOTOS, "dogs, line 4: expected 8 columns, got 3: 9,Bella,Female"),
        (DOGS.replace("Rex", "René").encode("cp1252"), PHOTOS, "dogs, line 2: expected UTF-8, got the byte 0xE9"),
        (DOGS.encode("utf-16-le"), PHOTOS, "dogs, line 1: expected text, got a zero byte"),
        (DOGS.replace("Rex", "R\0x"), PHOTOS, "dogs, line 2: expected text, got a zero byte"),
        (DOGS.encode("utf-16") + b"x", PHOTOS, "dogs, line 4: expected UTF-16, got the byte 0x78"),
        (DOGS.replace("Rex", '"Rex'), PHOTOS, "dogs, line 2: expected quotation marks in pairs, got: unex"),
        (DOGS.replace("Rex", '"Rex').replace("Bo", 'Bo"'), PHOTOS, "dogs, line 2: expected quotation marks in pairs"),
        (DOGS.replace("Rex", '"Rex"s'), PHOTOS, "dogs, line 2: expected quotation marks in pairs"),
        (DOGS.replace("NULL\n8", '"NULL\n8').replace("White,NULL", 'White,NULL"'), PHOTOS,
         "dogs, line 2: expected quotation marks in pairs, got a field that has whole rows in it"),
        (DOGS, PHOTOS.replace(",https", ',"https').replace("b.jpg", 'b.jpg"'), "photos, line 2: expected quot"),
        (DOGS.replace(",", ";"), PHOTOS, "dogs: expected a column AnimalInternal-ID, got AnimalIn"),
        (DOGS, "<!DOCTYPE html>\n<p>404", "photos: expected a column AnimalInternal-ID, got <!DOCTYPE"),
        (DOGS.replace("Breed", "Name"), PHOTOS, "dogs, line 1: expected one column AnimalName, got 2"),
        (DOGS.replace("AnimalDOB", "DOB"), PHOTOS, "dogs: expected a column AnimalDOB, got Anim"),
        (DOGS + "7,Max,Male,1,2,Boxer,Red,NULL", PHOTOS, "dogs, line 4: expected each dog once, got 7 as in line 2"),
        (DOGS + DOGS, PHOTOS, "dogs, line 4: expected a number as AnimalInternal-ID, got 'AnimalInternal-ID'"),
        (DOGS.replace("7,Rex", "7_0,Rex"), PHOTOS, "dogs, line 2: expected a number as AnimalInternal-ID, got '7_0'"),
        (DOGS.replace("40.5", "inf"), PHOTOS, "dogs: dog 7: AnimalCurrentWeightPounds: expected float, got 'inf'"),
        (DOGS.replace("40.5", "-nan"), PHOTOS, "dogs: dog 7: AnimalCurrentWeightPounds: expected float, got '-nan'"),
        (DOGS.replace("40.5", "1" * 60_000 + "x"), PHOTOS, "dogs: dog 7: AnimalCurrentWeightPounds: expected float"),
        (DOGS.replace("40.5", "1e999"), PHOTOS, "dogs: dog 7: AnimalCurrentWeightPounds: expected float"),
        (DOGS, f"{PHOTOS}8,https://x/{LONG}\n", "photos, line 4: expected at most 65,536 characters, got 100,"),
        (DOGS, "", "photos: expected a column AnimalInternal-ID, got nothing"),
        (DOGS, "AnimalInternal-ID,PhotoUrl\n", "photos: expected photos of the dogs in apa_dogs.csv, got none"),
        (DOGS, PHOTOS.replace("\n7", "\n9").replace("\n8", "\n9"), "photos: expected photos of the dogs in"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(dogs: str | bytes, photos: str | bytes, expected: str) -> None:
    with pytest.raises(SourceError) as caught:
        found(dogs, photos)
    table, _, rest = expected.partition(",") if ", line" in expected.partition(":")[0] else expected.partition(":")
    start = f"apa_{table}.csv{expected[len(table)]}{rest}"
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.shelterluv.com/a b é.jpg", "https://www.shelterluv.com/a%20b%20%C3%A9.jpg"),
        ("https://www.shelterluv.com/a%20b.jpg?v=2", "https://www.shelterluv.com/a%20b.jpg?v=2"),
        ("https://Live-CDN.Shelterluv.com/A.jpg", "https://www.shelterluv.com/A.jpg"),
        ("ftp://www.shelterluv.com/a.jpg", ""),
        ("https:///a.jpg", ""),
        ("https://[::1/a.jpg", ""),
        ("https://host:port/a.jpg", ""),
        ("NULL", ""),
    ],
)
def test_urls(url: str, expected: str) -> None:
    (_, got, refusal), *_ = found(photos=PHOTOS.replace("https://www.shelterluv.com/a.jpg", url))
    assert (refusal == "the table names no http or https URL") if not expected else (got, refusal) == (expected, "")


@pytest.mark.parametrize("missing", ["", "NULL", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "None"])
def test_a_number_that_is_missing(missing: str) -> None:
    dogs = DOGS.replace("40.5,20150306", f"{missing},{missing}").replace("Rex", "NA")
    facts = json.loads(join(dogs.encode(), PHOTOS.encode())[0].annotation)
    assert (facts["weight_pounds"], facts["dob"], facts["name"]) == ("null", "null", "NA")


def test_photos_of_unknown_dogs_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "spotted"):
        assert found(photos=PHOTOS + "9,https://x/1\n9,https://x/2\n10,https://x/3\n") == WHOLE
    assert caplog.messages == ["apa_photos.csv: passing over 3 photos of 2 dogs that apa_dogs.csv lacks"]


def attempt(dogs: bytes, photos: bytes) -> list[Photo]:
    """The photos, or none where the tables are an error; what else is raised fails the test."""
    try:
        return join(dogs, photos)
    except SourceError as error:
        return [] if str(error).startswith(("apa_dogs.csv", "apa_photos.csv")) else pytest.fail(str(error))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_byte_may_be_wrong(data: st.DataObject) -> None:
    """A damaged table is an error, or gives a photo for each row; its annotations are JSON that all readers take."""
    tables = [DOGS.encode(), PHOTOS.encode()]
    which, at = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 200))
    table = tables[which]
    tables[which] = table[:at] + data.draw(st.binary(max_size=4)) + table[at + data.draw(st.integers(0, 4)) :]
    for photo in attempt(*tables):
        json.loads(photo.annotation, parse_constant=pytest.fail)


@given(
    st.text('7,"\n\r; é\0\ufeffhttps://x/AnimalInternal-ID,PhotoUrl', max_size=60),
    st.sampled_from(["utf-8", "utf-16", "latin-1"]),
)
@example('"', "utf-8")
@settings(deadline=None)
def test_any_text_is_photos_or_an_error(text: str, encoding: str) -> None:
    attempt(DOGS.encode(), PHOTOS.encode() + text.encode(encoding, "replace"))


# ── through the program ──────────────────────────────────────────────────────────────────────────


def test_a_quotation_mark_that_never_ends(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    austin.serve(mirror, [], good=3)
    mirror.files["/apa_dogs.csv"] = DOGS.replace("Rex", '"Rex').encode()
    done = cli("-i", "--mirror", mirror.url, "--to", tmp_path)
    assert done.returncode == 1 and not (tmp_path / "_extraction/austin/manifest.csv").exists()
    assert message(done).startswith("error: apa_dogs.csv, line 2: expected quotation marks in pairs")


def test_a_directory_as_mirror_has_the_names_that_urls_stand_for(cli: Cli, tmp_path: Path) -> None:
    names = {
        "a b.jpg": "a%20b.jpg",
        "c%20d.jpg": "c%20d.jpg",
        "é.jpg": "é.jpg",
        "f.jpg": "f.jpg?v=2",
        "g.jpg?v=2": "g.jpg?v=2",
    }
    urls = [f"{austin.HOST}/{url}" for url in sorted(names.values())]
    for name, data in austin.tables(urls).items():
        (tmp_path / name[1:]).write_bytes(data)
    for name in names:
        (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0" + name.encode() * 20)
    for mirror in (str(tmp_path), tmp_path.as_uri()):
        done = cli("-i", "--force", "--mirror", mirror, "--to", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert sorted(austin.photos(tmp_path / "out").values()) == sorted(
            (tmp_path / name).read_bytes() for name in names
        )
