"""A miniature of Austin's source with any photos: one dog, and a photo of it for each of these bodies."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from sources import sample
from support.source_server import SourceServer

HEADER = (
    "AnimalInternal-ID,AnimalName,AnimalSex,AnimalCurrentWeightPounds,AnimalDOB,AnimalBreed,AnimalColor,AnimalPattern"
)
DOG = "7,Rex,Male,40.5,20150306,Boxer,Brown,NULL"
HOST = "https://www.shelterluv.com"


def tables(urls: list[str]) -> dict[str, bytes]:
    """Both tables for one dog with these photos."""
    rows = "".join(f"7,{url}\n" for url in urls)
    return {
        "/apa_dogs.csv": f"{HEADER}\n{DOG}\n".encode(),
        "/apa_photos.csv": f"AnimalInternal-ID,PhotoUrl\n{rows}".encode(),
    }


def path(number: int) -> str:
    """Where the photo of this rank is."""
    return f"/pics/{number:03d}.jpg"


def serve(server: SourceServer, bodies: list[bytes], good: int = 0) -> None:
    """Have the server offer these photos, and after them so many good ones."""
    bodies = [*bodies, *(sample.picture(number % sample.PICTURES) for number in range(good))]
    photos = {path(number): body for number, body in enumerate(bodies, 1)}
    server.files = tables([HOST + each for each in photos]) | photos


def failures(out: Path) -> Mapping[str, tuple[str, str]]:
    """Outcome and reason of each photo that is not stored, by its object's name."""
    file = out / "_extraction/austin/failures.csv"
    text = file.read_text() if file.exists() else ""
    rows = csv.DictReader(io.StringIO(text))
    return {row["path"].rpartition("/")[2]: (row["outcome"], row["reason"]) for row in rows}


def photos(out: Path) -> dict[str, bytes]:
    """The stored photos by name."""
    return {file.name: file.read_bytes() for file in (out / "austin/full_quality").glob("*")}
