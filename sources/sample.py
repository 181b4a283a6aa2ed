"""Draw a small sample of all sources, and serve it over HTTP from this machine.

It has what makes the real ones hard: archives in parts, a space in a folder's name, a photo that is gone, a web page
under an image's name, photos on a wrong host. The bytes are always the same, so that an interrupted run can continue.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import re
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

STANFORD_BREEDS = ("n02085620-Chihuahua", "n02099601-golden_retriever", "n02113799-standard_poodle")
OXFORD_BREEDS = ("Abyssinian", "american_bulldog", "Maine_Coon")
TSINGHUA_BREEDS = ("200-n000008-Airedale", "220-n000032-Fila Braziliero", "1043-n000001-Shiba_Dog")
DOGS, PHOTOS_PER_DOG = 12, 5
PICTURES = 12
TRAINED_ON = 4  # photos of each of Stanford's breeds, of six
STOPS_WITHIN = 0.05  # seconds that the server takes to end; half a second by default
HTML = b"<!DOCTYPE html><html><title>Error</title><body>Access denied</body></html>"

DOG = """
................
..##........##..
.####......####.
.##############.
.#..##....##..#.
.#...######...#.
.#.@.######.@.#.
.#...######...#.
.#############..
..####@@@@####..
..###.@@@@.###..
...####@@####...
....##.**.##....
.....#.**.#.....
......#**#......
................
"""


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=PICTURES)
def picture(number: int, kind: str = "JPEG") -> bytes:
    """Draw a dog's head of 128 x 128 pixels, in colours that depend on the number."""
    rng = random.Random(number)
    return _draw("RGB", {cell: bytes(rng.randrange(30, 226) for _ in "rgb") for cell in ".#@*"}, kind)


def _draw(mode: str, colours: dict[str, bytes], kind: str) -> bytes:
    lines, file = DOG.split(), io.BytesIO()
    pixels = b"".join(colours[cell] for line in lines for cell in line)
    image = Image.frombytes(mode, (len(lines[0]), len(lines)), pixels)
    image.resize((128, 128), Image.Resampling.NEAREST).save(file, kind, optimize=True, quality=60)
    return file.getvalue()


# ── sources ──────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1)
def sources() -> dict[str, bytes]:
    """Return all files of the sample by their path on a mirror."""
    archives, high = {**_stanford(), **_tsinghua(), **_oxford()}, "high-resolution.zip"
    listing = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in archives.items())
    data = archives.pop(high)
    step = -(-len(data) // 9)
    parts = {f"{high}.{part + 1:03d}": data[part * step : (part + 1) * step] for part in range(9)}
    return {**archives, **parts, "SHA256SUMS": listing.encode(), **_austin()}


def _stanford() -> dict[str, bytes]:
    names = [f"{breed}/{breed.split('-')[0]}_{number}" for breed in STANFORD_BREEDS for number in range(1, 7)]
    lists = {
        "file_list.mat": names,
        "train_list.mat": [name for name in names if int(name[-1]) <= TRAINED_ON],
        "test_list.mat": [name for name in names if int(name[-1]) > TRAINED_ON],
    }
    return {
        "images.tar": _tar({f"Images/{name}.jpg": picture(number % PICTURES) for number, name in enumerate(names)}),
        "annotation.tar": _tar({f"Annotation/{name}": voc(name) for name in names}),
        "lists.tar": _tar({file: _mat_list(listed) for file, listed in lists.items()}),
    }


def _tsinghua() -> dict[str, bytes]:
    names = [f"{breed}/{file}" for breed in TSINGHUA_BREEDS for file in ("n101.jpg", "n102.jpeg")]
    photos = {name: picture(number) for number, name in enumerate(names)}
    boxes = {f"{name}.xml": voc(name, "body", "head") for name in names}
    lists = {"train.lst": names[::2], "validation.lst": names[1::2]}
    texts = {file: "".join(f".//{name}\n" for name in listed) for file, listed in lists.items()}
    return {
        "low-resolution.zip": _zip("low-resolution", photos),
        "low-annotations.zip": _zip("Low-Annotations", boxes),
        "high-resolution.zip": _zip("high-resolution", photos),
        "high-annotations.zip": _zip("High-Annotations", boxes),
        "TrainValSplit.zip": _zip("TrainAndValList", {file: text.encode("utf-8-sig") for file, text in texts.items()}),
    }


def _oxford() -> dict[str, bytes]:
    """Compressed tars; a PNG named .jpg, a file that is no image among them, boxes for only some, AppleDouble files."""
    photos = {f"{breed}_{number}": picture(number) for breed in OXFORD_BREEDS for number in range(1, 5)}
    photos["Abyssinian_4"] = picture(4, "PNG")
    trimap = _draw("L", {".": b"\2", "#": b"\1", "@": b"\1", "*": b"\1"}, "PNG")  # 2 is the background
    boxed = [name for name in photos if int(name[-1]) <= 2]
    annotations = {
        "README": b"a miniature\n",
        "trainval.txt": "".join(f"{name} 1 1 1\n" for name in boxed).encode(),
        "test.txt": "".join(f"{name} 1 1 1\n" for name in photos if name not in boxed).encode(),
        **{f"xmls/{name}.xml": voc(f"{name}/{name}.jpg") for name in boxed},
        **{f"trimaps/{name}.png": trimap for name in photos},
        **{f"trimaps/._{name}.png": b"\0\5\x16\7" for name in photos},
    }
    images = {f"images/{name}.jpg": data for name, data in photos.items()} | {"images/Abyssinian_4.mat": b"MATLAB 5.0"}
    tars = {"images": images, "annotations": {f"annotations/{name}": data for name, data in annotations.items()}}
    return {f"{name}.tar.gz": gzip.compress(_tar(members), mtime=0) for name, members in tars.items()}


def _austin() -> dict[str, bytes]:
    dogs = ["AnimalID,AnimalInternal-ID,AnimalName,AnimalType,AnimalSex,AnimalCurrentWeightPounds,AnimalDOB,"
            "AnimalBreed,AnimalColor,AnimalPattern"]  # fmt: skip
    rows, photos = ["AnimalInternal-ID,PhotoUrl"], dict[str, bytes]()
    for dog in range(DOGS):
        dogs.append(f"{dog},{1000 + dog},Dog {dog},Dog,Female,53.3,20150306,Mixed,Tan /None,NULL")
        for number in range(PHOTOS_PER_DOG):
            path = f"sites/default/files/animal_pics/464/2018/01/{dog + 1:02d}/00/{dog}_{number}.png"
            host = ("www", "live-cdn")[number % 2]
            rows.append(f"{1000 + dog},https://{host}.shelterluv.com/{path}")
            photos[path] = picture((dog * PHOTOS_PER_DOG + number) % PICTURES)
    gone, page = list(photos)[7], list(photos)[23]
    del photos[gone]
    tables = {"apa_dogs.csv": dogs, "apa_photos.csv": rows}
    return {**{name: "\n".join([*lines, ""]).encode() for name, lines in tables.items()}, **photos, page: HTML}


def _tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for folder in dict.fromkeys(name.rpartition("/")[0] for name in members if "/" in name):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _zip(folder: str, members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"{folder}/{name}"), data, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def voc(name: str, *kinds: str) -> bytes:
    """Write a Pascal VOC annotation; with kinds of boxes in Tsinghua's form, which begins with a BOM."""
    breed, _, file = name.partition("/")
    box = "<{0}bndbox><xmin>{1}</xmin><ymin>{1}</ymin><xmax>112</xmax><ymax>112</ymax></{0}bndbox>"
    size = "<size><width>128</width><height>128</height><depth>3</depth></size>"
    found = "".join(box.format(kind, 24 if kind == "head" else 8) for kind in kinds or ("",))
    text = f"<annotation><filename>{file}</filename>{size}<object><name>{breed}</name>{found}</object></annotation>\n"
    return b"\xef\xbb\xbf\r\n" * bool(kinds) + text.encode()


def _mat_list(names: list[str]) -> bytes:
    """Write a list of Stanford's: a MAT-file of version 5 with names of images and numbers of their breeds.

    https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
    """
    labels = [float(STANFORD_BREEDS.index(name.partition("/")[0]) + 1) for name in names]
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM")
    cells = b"".join(
        _matrix(4, "", 1, len(text), _element(4, text.encode("utf-16-le"))) for text in map("{}.jpg".format, names)
    )
    numbers = _element(9, struct.pack(f"<{len(labels)}d", *labels))
    return header + _matrix(1, "file_list", len(names), 1, cells) + _matrix(6, "labels", len(names), 1, numbers)


def _matrix(kind: int, name: str, rows: int, columns: int, data: bytes) -> bytes:
    flags, size = _element(6, struct.pack("<II", kind, 0)), _element(5, struct.pack("<ii", rows, columns))
    return _element(14, flags + size + _element(1, name.encode()) + data)


def _element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


# ── serving ──────────────────────────────────────────────────────────────────────────────────────


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Close the connection silently: the run reports what it missed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet; in two, Nagle and delayed ACK cost 40 ms a request

    def do_GET(self) -> None:
        data = sources().get(self.path.lstrip("/"))
        if data is None:
            self.send_error(404)
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(match[1]), min(int(match[2]) + 1, len(data))) if match else (0, len(data))
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:16]}"')
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(data[start:stop])

    def log_message(self, *_: object) -> None:
        pass  # the library is silent


@contextmanager
def serve() -> Iterator[str]:
    """Serve the sample on loopback; yield the URL of its mirror."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, args=(STOPS_WITHIN,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
