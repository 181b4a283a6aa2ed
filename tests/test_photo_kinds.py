"""What is a photo, what is none, what is cut off, what is too large: by signatures, and through the whole program."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import context
from pipeline.photos import LARGEST_PHOTO, USUAL_PHOTO_BYTES
from sources import sample
from sources.content_type import content_type, describe, image_type, is_image, misnamed
from sources.cut_images import cut_off
from support import austin
from support.images import encoded
from support.program import Cli
from support.source_server import Plan, SourceServer

EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
PAGE = "<!DOCTYPE html><html><title>Página não encontrada</title><p>404</html>"


def drawn(kind: str, **options: Any) -> bytes:
    return encoded(Image.effect_noise((96, 64), 90).convert("RGB"), kind, **options)


def box(name: bytes, body: bytes) -> bytes:
    return (8 + len(body)).to_bytes(4, "big") + name + body


def still(brands: bytes) -> bytes:
    """An ISO-BMFF still image with a major brand, a minor version, and compatible brands."""
    return box(b"ftyp", brands[:4] + bytes(4) + brands[4:]) + box(b"meta", bytes(40)) + box(b"mdat", bytes(900))


IMAGES = {
    "jpeg": ("image/jpeg", drawn("JPEG")),
    "progressive": ("image/jpeg", drawn("JPEG", progressive=True)),
    "exif and icc": ("image/jpeg", drawn("JPEG", exif=EXIF, icc_profile=bytes(70_000))),
    "restarts": ("image/jpeg", drawn("JPEG", restart_marker_blocks=2)),
    "drawn by the sample": ("image/jpeg", sample.picture(1)),
    "png": ("image/png", drawn("PNG")),
    "gif": ("image/gif", drawn("GIF")),
    "webp": ("image/webp", drawn("WEBP")),
    "webp lossless": ("image/webp", drawn("WEBP", lossless=True, exif=EXIF)),
    "avif": ("image/avif", drawn("AVIF")),
    "avif with exif and icc": ("image/avif", drawn("AVIF", exif=EXIF, icc_profile=bytes(500))),
    "heic": ("image/heic", still(b"heicmif1heic")),
    "heic by a compatible brand": ("image/heic", still(b"mif1miafheix")),
    "heif": ("image/heif", still(b"mif1miaf")),
    "heic with a large first box": ("image/heic", b"\0\0\0\1ftyp\0\0\0\0\0\0\0\x18heic" + bytes(99)),
    "tiff": ("image/tiff", drawn("TIFF")),
    "big tiff": ("image/tiff", drawn("TIFF", big_tiff=True)),
    "tiff, the other order": ("image/tiff", b"MM\0*\0\0\0\x08" + bytes(40)),
    "bmp": ("image/bmp", drawn("BMP")),
    "os/2 bmp": ("image/bmp", b"BM" + bytes(12) + b"\x0c\0\0\0\x09\0\x09\0\1\0\x18\0" + bytes(300)),
    "jpeg xl": ("image/jxl", b"\xff\x0a" + bytes(range(256))),
    "jpeg xl in boxes": ("image/jxl", box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl ") + box(b"jxlc", b"x")),
    "jpeg 2000": ("image/jp2", drawn("JPEG2000")),
    "jpeg 2000, the codestream alone": ("image/jp2", drawn("JPEG2000", no_jp2=True)),
    "jpeg with fill bytes": ("image/jpeg", drawn("JPEG").replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1)),
    "gif without a trailer": ("image/gif", drawn("GIF")[:-1]),
    "gif with a comment": ("image/gif", drawn("GIF", comment=bytes(300))),
    "png of an Apple tool": ("image/png", drawn("PNG").replace(b"\0\0\0\x0dIHDR", b"\0\0\0\4CgBI")),
    "bmp of compressed rows": ("image/bmp", b"BM" + bytes(12) + b"\x28" + bytes(11) + b"\1\0\x08\0\1" + bytes(90)),
    "icon": ("image/ico", drawn("ICO")),
    "psd": ("image/psd", b"8BPS\0\1" + bytes(90)),
    "svg": ("image/svg+xml", f'\ufeff<?xml version="1.0"?>\n<!-- <html> -->\n{SVG}'.encode()),
    "svg in utf-16": ("image/svg+xml", SVG.encode("utf-16")),
    "svg behind a licence": ("image/svg+xml", f"<!--{'licence ' * 1000}-->{SVG}".encode()),
    "svg with a doctype": ("image/svg+xml", f'<!DOCTYPE svg PUBLIC "a" "b" [<!ENTITY x "y">]>{SVG}'.encode()),
}  # fmt: skip
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252")
OTHERS = {
    "nothing": ("an empty body", b""),
    **{f"page in {each}": ("a web page", PAGE.encode(each)) for each in ENCODINGS},
    **{f"JSON in {each}": ("JSON", '{"error": "não"}'.encode(each)) for each in ENCODINGS},
    **{f"text in {each}": ("text", "Acesso não permitido".encode(each)) for each in ENCODINGS},
    "a page that shows a drawing": ("a web page", f"<html><body>{SVG}</body></html>".encode()),
    "a store's error": ("an XML document", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'),
    "PDF": ("a PDF", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
    "gzip": ("gzip data", gzip.compress(PAGE.encode())),
    "a text that begins as a BMP": ("text", b"BMW is no dog, and these are no pixels, but letters"),
    "RIFF that is no WebP": ("unknown bytes", b"RIFF\x24\0\0\0WAVEfmt " + bytes(90)),
    "a film": ("unknown bytes", box(b"ftyp", b"isom\0\0\2\0isommp41") + box(b"mdat", bytes(90))),
    "very many comments": ("an XML document", b"<!--a-->" * 900 + b"<svgs/>"),
    "a PNG that was sent as text": ("unknown bytes", drawn("PNG").replace(b"\r\n", b"\n", 1)),
    "bytes": ("unknown bytes", bytes(range(256))),
}


@pytest.mark.parametrize(("kind", "data"), IMAGES.values(), ids=IMAGES)
def test_an_image_is_what_its_signature_says(kind: str, data: bytes) -> None:
    assert content_type(data) == image_type(data) == kind
    assert cut_off(data, kind) == cut_off(data + b"appended by a phone", kind) == ""


@pytest.mark.parametrize(("what", "data"), OTHERS.values(), ids=OTHERS)
def test_what_is_none_is_called_what_it_is(what: str, data: bytes) -> None:
    assert (image_type(data), describe(data)) == ("", what)


@given(st.binary(max_size=80))
def test_any_bytes_are_something(data: bytes) -> None:
    kind = image_type(data)
    assert kind.startswith("image/") or describe(data)
    cut_off(data, kind)


CUT = [*list(IMAGES)[: list(IMAGES).index("heif")], "bmp", "jpeg 2000, the codestream alone", "svg"]


@pytest.mark.parametrize("name", CUT)
def test_wherever_an_image_is_cut_that_is_seen(name: str) -> None:
    kind, data = IMAGES[name]
    unseen = [size for size in range(24, len(data)) if not cut_off(data[:size], kind)]
    assert unseen == ([len(data) - 1] if name == "gif" else [])  # many have no trailer, and all of their pixels


@pytest.mark.parametrize(
    ("segment", "lack"), [(b"\xff\xe1\x20\0Exif\0\0MM", "no end marker"), (b"\xff\xe1\0\1" + bytes(20), "")]
)
def test_only_a_known_first_segment_proves_a_jpeg(segment: bytes, lack: str) -> None:
    assert cut_off(b"\xff\xd8" + segment, "image/jpeg") == lack


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xd9", b"GIF89a\1\0\1\0\0\0\0;"], ids=["jpeg", "gif"])
def test_an_image_without_pixels_is_not_whole(data: bytes) -> None:
    assert cut_off(data, image_type(data)) == "no pixels"


@pytest.mark.parametrize(
    ("name", "kind", "warning"),
    [
        ("a.heic", "image/heif", ""), ("a.heif", "image/heic", ""), ("a.avif", "image/heic", "HEIC named .avif"),
        ("a.png", "image/jxl", "JXL named .png"), ("a.jpg", "image/svg+xml", "SVG named .jpg"),
        ("a.TIFF", "image/tiff", ""),
    ],
)  # fmt: skip
def test_names_of_the_newer_kinds(name: str, kind: str, warning: str) -> None:
    assert is_image(name) and misnamed(name, kind) == warning


# ── through the program ──────────────────────────────────────────────────────────────────────────


def test_every_kind_of_image_is_stored(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    bodies = [data for _, data in IMAGES.values()]
    austin.serve(mirror, bodies)
    done = cli("-i", "--mirror", mirror.url, "--to", tmp_path)
    assert done.returncode == 0 and not austin.failures(tmp_path), done.stderr
    assert austin.photos(tmp_path) == {f"7_{rank}.png": data for rank, data in enumerate(bodies, 1)}


def test_what_is_no_image_is_listed_as_what_it_is(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    austin.serve(mirror, [data for _, data in OTHERS.values()], good=3)
    done = cli("-i", "--mirror", mirror.url, "--to", tmp_path)
    assert done.returncode == 3  # more than 5 % of the photos
    assert austin.failures(tmp_path) == {
        f"7_{rank}.png": ("not an image", f"{mirror.url}{austin.path(rank)}: expected an image, got {what}")
        for rank, (what, _) in enumerate(OTHERS.values(), 1)
    }
    assert len(austin.photos(tmp_path)) == 3


def test_a_few_that_are_no_images_are_normal_and_counted(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    austin.serve(mirror, [PAGE.encode(), b"", b"gone"], good=57)
    del mirror.files[austin.path(3)]
    for _ in range(2):  # the second run finds it complete
        done = cli("-i", "--mirror", mirror.url, "--to", tmp_path)
        assert done.returncode == 0
        header, line = (line.split() for line in done.stdout.splitlines())
        assert dict(zip(reversed(header), reversed(line), strict=False))["not-images"] == "2"
    assert {name: outcome for name, (outcome, _) in austin.failures(tmp_path).items()} == {
        "7_1.png": "not an image", "7_2.png": "not an image", "7_3.png": "gone",
    }  # fmt: skip


def test_too_many_pages_are_asked_for_again_by_the_next_run(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    austin.serve(mirror, [], good=10)
    mirror.plan(austin.path(4), Plan(body=PAGE.encode()))
    assert cli("-i", "--mirror", mirror.url, "--to", tmp_path).returncode == 3
    mirror.heal()
    assert cli("-i", "--mirror", mirror.url, "--to", tmp_path).returncode == 0
    assert len(austin.photos(tmp_path)) == 10 and not austin.failures(tmp_path)


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp", "avif"])
def test_a_photo_that_breaks_off_without_a_sign_is_fetched_again(
    cli: Cli, tmp_path: Path, mirror: SourceServer, kind: str
) -> None:
    data = IMAGES[kind][1]
    austin.serve(mirror, [data])
    unsaid: dict[str, str | None] = {"Content-Length": None}
    mirror.plan(austin.path(1), Plan(headers=unsaid, cut=len(data) // 2), times=2)
    assert cli("-i", "--mirror", mirror.url, "--to", tmp_path).returncode == 0
    assert austin.photos(tmp_path) == {"7_1.png": data}


def test_a_photo_that_is_cut_off_at_the_source_is_listed(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    whole = [IMAGES[kind][1] for kind in ("jpeg", "png")]
    austin.serve(mirror, [data[:-5] for data in whole], good=2)
    done = cli("-i", "--mirror", mirror.url, "--to", tmp_path)
    assert done.returncode == 3
    found = austin.failures(tmp_path)
    assert [outcome for outcome, _ in found.values()] == ["failed"] * 2
    assert found["7_1.png"][1].endswith("gave up after 3 attempts: damaged: the image is cut off: no end marker")
    assert found["7_2.png"][1].endswith("gave up after 3 attempts: damaged: the image is cut off: no IEND chunk")
    assert sorted(austin.photos(tmp_path)) == ["7_3.png", "7_4.png"]


def test_a_large_photo_is_fetched_alone_and_one_that_is_too_large_is_listed(
    cli: Cli, tmp_path: Path, mirror: SourceServer
) -> None:
    large = sample.picture(1) + bytes(USUAL_PHOTO_BYTES)
    austin.serve(mirror, [large, large, sample.picture(2), sample.picture(3)])
    unsaid: dict[str, str | None] = {"Content-Length": None}
    mirror.plan(austin.path(2), Plan(headers=unsaid, cut=len(large)))
    mirror.plan(austin.path(3), Plan(headers={"Content-Length": str(LARGEST_PHOTO + 1)}))
    mirror.plan(austin.path(4), Plan(body=large * 9, headers=unsaid, cut=len(large) * 9))
    done = cli("-i", "--mirror", mirror.url, "--to", tmp_path)
    assert done.returncode == 3
    assert austin.photos(tmp_path) == {"7_1.png": large, "7_2.png": large}
    why = f"expected at most {context.MAX_WAITING_BYTES:,} bytes, got more"
    assert austin.failures(tmp_path) == {
        f"7_{rank}.png": ("failed", f"{mirror.url}{austin.path(rank)}: {why}") for rank in (3, 4)
    }
    mirror.heal()
    assert cli("-i", "--mirror", mirror.url, "--to", tmp_path).returncode == 0


def test_a_photo_that_was_gzipped_on_its_way_is_unpacked(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    austin.serve(mirror, [], good=2)
    packed = {"Content-Encoding": "gzip"}
    mirror.plan(austin.path(1), Plan(body=gzip.compress(mirror.files[austin.path(1)]), headers=packed))
    mirror.plan(austin.path(2), Plan(body=gzip.compress(PAGE.encode()), headers=packed))
    assert cli("-i", "--mirror", mirror.url, "--to", tmp_path).returncode == 3
    assert austin.photos(tmp_path) == {"7_1.png": mirror.files[austin.path(1)]}
    assert austin.failures(tmp_path)["7_2.png"][1].endswith("expected an image, got a web page")
