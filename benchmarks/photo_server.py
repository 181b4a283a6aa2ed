"""Photos, and the two tables that name them, from a server that answers every request after a while.

    python benchmarks/photo_server.py PORT [--photos 10000] [--kilobytes 60] [--delay-ms 50]

It is the objects' server with other answers: one process on uvloop and httptools, good for some 10,000 photos a second.
"""

from __future__ import annotations

import argparse
import random

import uvloop

from bucket_server import Reply, Request, encode, seconds, serve

PHOTOS_PER_DOG = 5
DOGS = (
    "AnimalID,AnimalInternal-ID,AnimalName,AnimalType,AnimalSex,AnimalCurrentWeightPounds,AnimalDOB,AnimalBreed,"
    "AnimalColor,AnimalPattern"
)
FOLDER = "/sites/default/files/animal_pics/464/"


class Photos:
    """The answers; every photo has the same size, and bytes of its own."""

    def __init__(self, photos: int, size: int, delay: float) -> None:
        self.delay = delay  # seconds
        self.body = b"\xff\xd8\xff\xfe" + random.Random(1).randbytes(size)
        dogs = [
            f"{dog},{dog},Rex,Dog,Male,40,20180101,Mix,Black,NULL" for dog in range(1, photos // PHOTOS_PER_DOG + 2)
        ]
        rows = [
            f"{1 + photo // PHOTOS_PER_DOG},https://www.shelterluv.com{FOLDER}{photo}.png" for photo in range(photos)
        ]
        self.tables = {
            "/apa_dogs.csv": "\n".join([DOGS, *dogs, ""]).encode(),
            "/apa_photos.csv": "\n".join(["AnimalInternal-ID,PhotoUrl", *rows, ""]).encode(),
        }

    def answer(self, request: Request) -> bytes:
        path = request.target.partition("?")[0]
        if path in self.tables:
            return encode(request, Reply(200, self.tables[path], "Content-Type: text/csv\r\n"))
        if path.startswith(FOLDER):
            body = self.body + path.encode()
            return encode(request, Reply(200, body, 'Content-Type: image/jpeg\r\nETag: "1"\r\n'))
        return encode(request, Reply(404))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--kilobytes", type=int, default=60)
    parser.add_argument("--delay-ms", type=seconds, default=0.05, dest="delay", help="(default: 50)")
    arguments = parser.parse_args()
    photos = Photos(arguments.photos, arguments.kilobytes * 1000, arguments.delay)
    uvloop.run(serve(arguments.port, photos))


if __name__ == "__main__":
    main()
