"""Draws a small sample of all sources and serves it over HTTP from this machine.

It has what makes the real ones hard: archives in parts, a space in a folder's name, a photo that is gone, a web page
under an image's name, photos on a wrong host. The bytes are always the same, so that an interrupted run can continue.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import random
import re
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STANFORD_BREEDS = ("n02085620-Chihuahua", "n02099601-golden_retriever", "n02113799-standard_poodle")
OXFORD_BREEDS = ("Abyssinian", "american_bulldog", "Maine_Coon")
TSINGHUA_BREEDS = ("200-n000008-Airedale", "220-n000032-Fila Braziliero", "1043-n000001-Shiba_Dog")
DOGS, PHOTOS_PER_DOG = 12, 5
PICTURES = 12
TRAINED_ON = 4  # photos of each of Stanford's breeds, of six
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
def picture(number: int) -> bytes:
    """A small real JPEG: a dog's head, in colours that depend on the number."""
    rng = random.Random(number)
    colours = {letter: tuple(rng.randrange(30, 226) for _ in range(3)) for letter in ".#@*"}
    return encode_jpeg([[colours[letter] for letter in line] for line in DOG.split()])


def encode_jpeg(cells: list[list[tuple[int, ...]]]) -> bytes:
    """A baseline JPEG of 8 x 8 pixels for each cell of one colour (red, green, blue).

    A block of one colour has no coefficient but its mean (ITU T.81, A.3.3), so the two Huffman tables can be tiny:
    a code of four bits for each size of a mean's difference, and one bit for "no further coefficients".
    """
    bits = "".join(_blocks(cells))
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    height, width = len(cells) * 8, len(cells[0]) * 8
    sizes = bytes(range(12))
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
            _segment(0xDB, b"\0" + bytes([8] * 64)),
            _segment(0xC0, struct.pack(">BHHB", 8, height, width, 3) + b"\1\x11\0\2\x11\0\3\x11\0"),
            _segment(0xC4, b"\0" + bytes([0, 0, 0, len(sizes), *[0] * 12]) + sizes),
            _segment(0xC4, b"\x10" + bytes([1, *[0] * 15]) + b"\0"),
            _segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0"),
            data,
            b"\xff\xd9",
        )
    )


def encode_png(lines: list[bytes], channels: int) -> bytes:
    """A PNG of these lines of pixels, of 1 byte (grey) or 3 (red, green, blue) each: W3C PNG, chapters 5 and 11."""
    kind = {1: 0, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", len(lines[0]) // channels, len(lines), 8, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _blocks(cells: list[list[tuple[int, ...]]]) -> Iterator[str]:
    before = [0, 0, 0]
    for red, green, blue in (cell for line in cells for cell in line):
        luma = 0.299 * red + 0.587 * green + 0.114 * blue  # JFIF 1.02, page 3
        means = [round(luma) - 128, round(0.564 * (blue - luma)), round(0.713 * (red - luma))]
        for mean, last in zip(means, before, strict=True):
            difference = mean - last
            size = abs(difference).bit_length()
            value = difference if difference > 0 else difference + (1 << size) - 1
            yield f"{size:04b}" + (f"{value:0{size}b}" if size else "") + "0"
        before = means


# ── sources ──────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1)
def sources() -> dict[str, bytes]:
    """All files of the miniature, by their path on a mirror."""
    stanford = [f"{breed}/{breed.split('-')[0]}_{number}" for breed in STANFORD_BREEDS for number in range(1, 7)]
    tsinghua = [
        f"{breed}/n{number}{end}" for breed in TSINGHUA_BREEDS for number, end in ((101, ".jpg"), (102, ".jpeg"))
    ]
    pictures = [picture(number % PICTURES) for number in range(len(stanford))]
    high = _zip("high-resolution", {name: picture(number) for number, name in enumerate(tsinghua)})
    archives = {
        "images.tar": _tar({f"Images/{name}.jpg": data for name, data in zip(stanford, pictures, strict=True)}),
        "annotation.tar": _tar({f"Annotation/{name}": _voc(name) for name in stanford}),
        "lists.tar": _tar(
            {
                "file_list.mat": _list(stanford),
                "train_list.mat": _list(name for name in stanford if int(name[-1]) <= TRAINED_ON),
                "test_list.mat": _list(name for name in stanford if int(name[-1]) > TRAINED_ON),
            }
        ),
        "low-resolution.zip": _zip("low-resolution", {name: picture(number) for number, name in enumerate(tsinghua)}),
        "low-annotations.zip": _zip(
            "Low-Annotations", {f"{name}.xml": _voc(name, "body", "head") for name in tsinghua}
        ),
        "high-annotations.zip": _zip(
            "High-Annotations", {f"{name}.xml": _voc(name, "body", "head") for name in tsinghua}
        ),
        "TrainValSplit.zip": _zip(
            "TrainAndValList",
            {
                "train.lst": _thu_list(name for name in tsinghua if "n101" in name),
                "validation.lst": _thu_list(name for name in tsinghua if "n101" not in name),
            },
        ),
        **_oxford(),
    }
    sums = {**archives, "high-resolution.zip": high}
    listing = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sums.items())
    step = -(-len(high) // 9)
    parts = {f"high-resolution.zip.{part + 1:03d}": high[part * step : (part + 1) * step] for part in range(9)}
    return {**archives, **parts, "SHA256SUMS": listing.encode(), **_austin()}


def _oxford() -> dict[str, bytes]:
    """Compressed tars; a PNG named .jpg, a file that is no image among them, boxes for only some, AppleDouble files."""
    photos = {f"{breed}_{number}": picture(number) for breed in OXFORD_BREEDS for number in range(1, 5)}
    pet = [bytes(2 if cell == "." else 1 for cell in line) for line in DOG.split()]  # 2 is the background
    trimap = encode_png(pet, 1)
    photos["Abyssinian_4"] = encode_png([bytes(each * 90 for each in line for _ in "rgb") for line in pet], 3)
    boxed = [name for name in photos if int(name[-1]) <= 2]
    annotations = {
        "README": b"a miniature\n",
        "trainval.txt": "".join(f"{name} 1 1 1\n" for name in boxed).encode(),
        "test.txt": "".join(f"{name} 1 1 1\n" for name in photos if name not in boxed).encode(),
        **{f"xmls/{name}.xml": _voc(f"{name}/{name}.jpg") for name in boxed},
        **{f"trimaps/{name}.png": trimap for name in photos},
        **{f"trimaps/._{name}.png": b"\0\5\x16\7" for name in photos},
    }
    images = {f"images/{name}.jpg": data for name, data in photos.items()} | {"images/Abyssinian_4.mat": b"MATLAB 5.0"}
    return {
        "images.tar.gz": gzip.compress(_tar(images), mtime=0),
        "annotations.tar.gz": gzip.compress(
            _tar({f"annotations/{key}": data for key, data in annotations.items()}), mtime=0
        ),
    }


def _austin() -> dict[str, bytes]:
    dogs = [("AnimalID", "AnimalInternal-ID", "AnimalName", "AnimalType", "AnimalSex", "AnimalCurrentWeightPounds",
             "AnimalDOB", "AnimalBreed", "AnimalColor", "AnimalPattern")]  # fmt: skip
    rows, files = [("AnimalInternal-ID", "PhotoUrl")], dict[str, bytes]()
    for dog in range(DOGS):
        dogs.append(
            (f"{dog}", f"{1000 + dog}", f"Dog {dog}", "Dog", "Female", "53.3", "20150306", "Mixed", "Tan /None", "NULL")
        )
        for number in range(PHOTOS_PER_DOG):
            path = f"sites/default/files/animal_pics/464/2018/01/{dog + 1:02d}/00/{dog}_{number}.png"
            host = ("www", "live-cdn")[number % 2]
            rows.append((f"{1000 + dog}", f"https://{host}.shelterluv.com/{path}"))
            files[path] = picture((dog * PHOTOS_PER_DOG + number) % PICTURES)
    gone, page = list(files)[7], list(files)[23]
    del files[gone]
    return {"apa_dogs.csv": _csv(dogs), "apa_photos.csv": _csv(rows), **files, page: HTML}


def _csv(rows: Iterable[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


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
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"{folder}/{name}"), data, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _voc(name: str, *kinds: str) -> bytes:
    """An annotation in the form of Pascal VOC; with kinds of boxes in Tsinghua's, which begins with a BOM."""
    breed, _, file = name.partition("/")
    box = "<{0}bndbox><xmin>{1}</xmin><ymin>{1}</ymin><xmax>112</xmax><ymax>112</ymax></{0}bndbox>"
    size = "<size><width>128</width><height>128</height><depth>3</depth></size>"
    found = "".join(box.format(kind, 24 if kind == "head" else 8) for kind in kinds or ("",))
    text = f"<annotation><filename>{file}</filename>{size}<object><name>{breed}</name>{found}</object></annotation>\n"
    return b"\xef\xbb\xbf\r\n" * bool(kinds) + text.encode()


def _list(names: Iterable[str]) -> bytes:
    """A list of Stanford's: a MAT-file of version 5 with the names of images, and the numbers of their breeds.

    https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
    """
    names = list(names)
    labels = [float(STANFORD_BREEDS.index(name.partition("/")[0]) + 1) for name in names]
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM")
    cells = b"".join(
        _matrix(4, "", 1, len(text), _element(4, text.encode("utf-16-le"))) for text in map("{}.jpg".format, names)
    )
    numbers = _element(9, struct.pack(f"<{len(labels)}d", *labels))
    return header + _matrix(1, "file_list", len(names), 1, cells) + _matrix(6, "labels", len(names), 1, numbers)


def _thu_list(names: Iterable[str]) -> bytes:
    """A list of Tsinghua's: text that begins with a byte order mark."""
    return "".join(f".//{name}\n" for name in names).encode("utf-8-sig")


def _matrix(kind: int, name: str, rows: int, columns: int, data: bytes) -> bytes:
    flags, size = _element(6, struct.pack("<II", kind, 0)), _element(5, struct.pack("<ii", rows, columns))
    return _element(14, flags + size + _element(1, name.encode()) + data)


def _element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


# ── serving ──────────────────────────────────────────────────────────────────────────────────────


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Close the connection without a word: its other end, the run, says what it missed."""


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
    """Serve the miniature on loopback; the URL of its mirror."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
