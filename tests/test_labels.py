"""What passes through becomes notes: an image's size, an annotation's boxes, for any bytes."""

from __future__ import annotations

import io
import json
import random
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datasets import AUSTIN, DATASETS, OXFORD, STANFORD, TSINGHUA, Layout
from manifest.labels.annotations import COMPACT, Box, boxes, facts, parsed_boxes, plain_boxes
from manifest.labels.headers import read_size
from manifest.labels.noted import ROWS_PER_PIECE, PackedRows
from manifest.labels.notes import (
    Annotation,
    ImageHeader,
    boxes_note,
    facts_note,
    image_note,
    note_of,
    read_annotation_note,
    read_image_note,
)
from manifest.labels.table import TableFile
from manifest.layout import annotation_of, group, is_annotation, is_photo, label
from sources.content_type import content_type

# ── images ───────────────────────────────────────────────────────────────────────────────────────


def encoded(form: str, mode: str, size: tuple[int, int], **options: object) -> bytes:
    file = io.BytesIO()
    noise = Image.frombytes("L", size, random.Random(1).randbytes(size[0] * size[1]))
    noise.convert(mode).save(file, form, **options)
    return file.getvalue()


ROTATED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: on its side
IMAGES = {
    "jpeg": encoded("JPEG", "RGB", (31, 17)),
    "progressive": encoded("JPEG", "RGB", (500, 3), progressive=True),
    "grey": encoded("JPEG", "L", (1, 65)),
    "cmyk": encoded("JPEG", "CMYK", (33, 44)),
    "restarts": encoded("JPEG", "RGB", (90, 70), restart_marker_blocks=1),
    "long segments": encoded("JPEG", "RGB", (31, 17), icc_profile=bytes(200_000), comment=b"\xff\xc0" * 9000),
    "rotated": encoded("JPEG", "RGB", (31, 17), exif=ROTATED),
    "filled": encoded("JPEG", "RGB", (31, 17)).replace(b"\xff\xc0", b"\xff\xff\xff\xc0", 1),
    "png": encoded("PNG", "RGBA", (31, 17)),
    "gif": encoded("GIF", "P", (31, 17)),
    "webp": encoded("WEBP", "RGB", (31, 17)),
    "bmp": encoded("BMP", "RGB", (31, 17)),
    "tiff": encoded("TIFF", "RGB", (31, 17)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_size_is_what_pillow_says(name: str) -> None:
    data = IMAGES[name]
    with Image.open(io.BytesIO(data)) as image:
        assert read_size(data, content_type(data)) == image.size


@pytest.mark.parametrize("name", IMAGES)
def test_of_a_part_there_is_the_same_size_or_none(name: str) -> None:
    data = IMAGES[name]
    size = read_size(data, content_type(data))
    ends = [*range(min(len(data), 700)), *range(0, len(data), 9973)]
    assert {read_size(data[:end], content_type(data)) for end in ends} <= {size, None}
    chunks = [data[at : at + 100] for at in range(0, len(data), 100)]
    assert image_note(chunks) == note_of(data, content_type(data))


@given(st.binary(max_size=60), st.sampled_from(["image/jpeg", "image/png", "image/webp", "image/avif", "image/heic"]))
def test_any_bytes_have_a_size_or_none(data: bytes, kind: str) -> None:
    starts = {"image/jpeg": b"\xff\xd8", "image/png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"}
    size = read_size(starts.get(kind, b"") + data, kind)
    assert size is None or all(size)


def test_notes_of_images_are_read_as_they_were_written() -> None:
    assert read_image_note(note_of(IMAGES["jpeg"], "image/jpeg")) == ImageHeader("jpeg", 31, 17)
    assert read_image_note(note_of(b"\xff\xd8\xff", "image/jpeg")) == ImageHeader("jpeg")
    assert note_of(b"\xff\xd8\xff", "image/jpeg", is_whole=False) == ""
    assert read_image_note(note_of(b"<svg></svg>", "image/svg+xml")) == ImageHeader("svg")
    assert image_note([]) == image_note([b"no image"]) == note_of(b"no image", "application/octet-stream") == "-"
    assert [read_image_note(note) for note in ("-", "[]", "{}", "!not XML", "jpeg", "jpeg 1 x")] == [None] * 6


# ── annotations ──────────────────────────────────────────────────────────────────────────────────


ODD = (
    b"<bndbox", b"</bndbox", b"<bndbox >", b"</a>", b"<a>", b"<!-- <a> -->", b"<![CDATA[<bndbox>]]>", b"&lt;", b"]]>",
    b"<a/>", b"<?x?>", b"<!DOCTYPE a>", b"\x0b", b"\x00", b"\xc3\xa9", b" x='>' ", b' x="1"', b"'", b"\xef\xbb\xbf",
    b"1", b"-1", b" ", b"1.5", b"<xmin>5</xmin>", b"<x:bndbox>", b"text", b">",
)  # fmt: skip


@given(st.sampled_from(["", "head", "x.y"]), st.booleans(),
       st.lists(st.tuples(st.integers(0, 400), st.integers(0, 12), st.sampled_from(ODD)), max_size=3))  # fmt: skip
def test_the_quick_way_finds_what_a_parser_finds_or_leaves_it_to_it(
    kind: str, is_marked: bool, edits: list[tuple[int, int, bytes]]
) -> None:
    box = "<xmin>1</xmin>\n<ymin>22</ymin> <xmax>3</xmax><ymax>4</ymax>"
    text = b"\xef\xbb\xbf\r\n" * is_marked + voc(box, kind).replace(b"<object>", b"<name>a, b</name><object>") + b"\n"
    for at, length, odd in edits:
        text = text[:at] + odd + text[at + length :]
    found = plain_boxes(text)
    assert found is not None or edits or kind == "x.y"
    if found is not None:
        assert found == COMPACT(parsed_boxes(text))


CORNERS = "<xmin>1000</xmin><ymin>1000</ymin><xmax>2000</xmax><ymax>2000</ymax>"
BOX_LINE = f"{CORNERS}</bndbox><bndbox>"


def voc(box: str, kind: str = "") -> bytes:
    return f"<a><object><{kind}bndbox>{box}</{kind}bndbox></object></a>".encode()


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (voc("<xmin>1</xmin><ymin>2.5</ymin><xmax>3</xmax><ymax>4</ymax>"), [Box("", 1, 2.5, 3, 4)]),
        (b"\xef\xbb\xbf\r\n" + voc("<ymin>2</ymin><xmin>1</xmin><xmax>3</xmax><ymax> 4\n</ymax>", "head"),
         [Box("head", 1, 2, 3, 4)]),
        (b"<annotation/>", []),
        (b"<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>-1</xmax><ymax>4.0</ymax></bndbox>", [Box("", 9, 9, -1, 4)]),
    ],
)  # fmt: skip
def test_boxes(annotation: bytes, expected: list[Box]) -> None:
    assert parsed_boxes(annotation) == [Box(*each) for each in json.loads(boxes(annotation))] == expected
    assert read_annotation_note(boxes_note(annotation)) == Annotation(tuple(expected))


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (voc("<xmin>1</xmin><ymin>2</ymin><xmax>3</xmax>"), "a box without four numbers"),
        (voc("<xmin>1</xmin><ymin>x</ymin><xmax>3</xmax><ymax>4</ymax>"), "a box without four numbers"),
        (voc("<xmin>inf</xmin><ymin>1</ymin><xmax>3</xmax><ymax>4</ymax>"), "a box without four numbers"),
        (b"", "not XML"),
        (b"<a>", "not XML"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "not XML"),
        (b"\x89PNG", "not XML"),
        (b"<!DOCTYPE a [" + b"".join(b'<!ENTITY e%d "%s">' % (i, b"&e%d;" % (i - 1) * 20 if i else b"lol" * 99)
                                      for i in range(9)) + b"]><a>&e8;</a>", "not XML"),
        (b'{"internal_id": 1', "not JSON"),
        (b'{"internal_id": "\xff"}', "not JSON"),
        (b'{"internal_id": ' + b"[" * 100_000, "not JSON"),
        (voc(f"<xmin>{'1' * 5000}</xmin><ymin>1</ymin><xmax>3</xmax><ymax>4</ymax>"), "a box without four numbers"),
        (voc(BOX_LINE * 20_000 + CORNERS), "larger than 1 MB"),
        (voc(BOX_LINE * 10_000 + CORNERS), "more than 100 KB of boxes or facts"),
    ],
)  # fmt: skip
def test_annotations_that_cannot_be_parsed_say_why(annotation: bytes, why: str) -> None:
    note = facts_note if why == "not JSON" else boxes_note
    assert read_annotation_note(note(annotation)) == Annotation(error=why)


def test_facts_of_a_dog() -> None:
    annotation = json.dumps({"internal_id": 7, "name": "Rex", "weight_pounds": 40.5, "pattern": "null"}).encode()
    assert facts(annotation) == {"internal_id": 7, "name": "Rex", "weight_pounds": 40.5, "pattern": None}
    assert read_annotation_note(facts_note(annotation)) == Annotation(facts=facts(annotation))
    assert {read_annotation_note(note).error for note in ("-", "jpeg 1 1")} == {"not XML"}
    with pytest.raises(ValueError, match="not JSON"):
        facts(b"[]")


def test_a_box_is_inside_up_to_the_last_pixel() -> None:
    assert Box("", 1, 1, 500, 375).is_inside(500, 375)
    assert not Box("", 1, 1, 501, 375).is_inside(500, 375)
    assert not Box("", -1, 1, 5, 5).is_inside(500, 375)
    assert not Box("", 5, 1, 4, 5).is_inside(500, 375)


# ── names ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("dataset", "image", "breed", "annotation"),
    [
        (STANFORD, "stanford/Images/n02085782-Japanese_spaniel/n1_2.jpg", "Japanese spaniel",
         "stanford/Annotation/n02085782-Japanese_spaniel/n1_2"),
        (TSINGHUA, "tsinghua/low-resolution/220-n000032-Fila Braziliero/n1.jpeg", "Fila Braziliero",
         "tsinghua/Low-Annotations/220-n000032-Fila Braziliero/n1.jpeg.xml"),
        (OXFORD, "oxford/images/Maine_Coon_1.jpg", "Maine Coon", "oxford/annotations/xmls/Maine_Coon_1.xml"),
        (AUSTIN, "austin/full_quality/1000_2.png", "1000", "austin/annotations/1000_2.json"),
    ],
)  # fmt: skip
def test_names(dataset: object, image: str, breed: str, annotation: str) -> None:
    layout = next(each.layout for each in DATASETS.values() if each == dataset)
    assert isinstance(layout, Layout)
    assert is_photo(layout, image) and not is_photo(layout, annotation)
    assert is_annotation(layout, annotation) and not is_annotation(layout, image)
    assert (label(group(layout, image)), annotation_of(layout, image)) == (breed, annotation)


def test_what_is_packed_is_read_as_often_as_it_takes() -> None:
    text, rows = TableFile(""), PackedRows[tuple[str, int]]()
    for number in range(2 * ROWS_PER_PIECE + 1):
        text.write(f"{number}\n")
        if number % ROWS_PER_PIECE == 0:
            text.flush()
        rows.add((f"ü\udc80\r\n{number}", number))
    assert [b"".join(text)] * 2 == [b"".join(b"%d\n" % number for number in range(2 * ROWS_PER_PIECE + 1))] * 2
    assert [len(piece) for piece in rows] == [ROWS_PER_PIECE, ROWS_PER_PIECE, 1]
    assert list(chain.from_iterable(rows)) == [
        (f"ü\udc80\r\n{number}", number) for number in range(2 * ROWS_PER_PIECE + 1)
    ]
