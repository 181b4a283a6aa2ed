"""The dataset card: what it says of the sample, of odd files and hostile names, and that it holds no run up."""

from __future__ import annotations

import html.parser
import io
import json
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets import Dataset, Layout
from errors import BucketError
from manifest.layout import label
from pipeline.options import RunOptions
from pipeline.results import Result
from report.card.facts import BINS, Histogram, Preview, preview, round_step
from report.humanize import amount
from sources import sample
from sources.content_type import content_type, misnamed
from support.archives import tar_of
from support.bench import Bench
from support.fake_gcs import GcsFront
from support.images import encoded
from support.program import Cli

VOID = {"meta", "image", "rect", "line"}  # the page writes the last three as <rect …/>
SAFE = {"html", "head", "meta", "title", "style", "body", "main", "header", "section", "footer", "div", "p", "h1", "h2",
        "h3", "dl", "dt", "dd", "ul", "ol", "li", "b", "i", "em", "span", "strong", "small", "a", "figure",
        "figcaption", "svg", "image", "rect", "line", "text", "table", "tr", "td", "pre"}  # fmt: skip
ENTITY = b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'
LAYOUT = Layout("mini/images/", "mini/boxes/{stem}.xml", 4, 2)


class Page(html.parser.HTMLParser):
    """A page taken apart: its elements with their attributes, its text; it must be balanced."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    def all(self, tag: str, cls: str = "") -> list[dict[str, str | None]]:
        return [
            attributes for name, attributes in self.elements if name == tag and cls in (attributes.get("class") or "")
        ]


def check_page(page: str) -> Page:
    """Nothing but what a card has, nothing from elsewhere, nothing that runs."""
    found = Page(page)
    assert {tag for tag, _ in found.elements} <= SAFE
    for tag, attributes in found.elements:
        assert not any(key.startswith("on") for key in attributes), attributes
        assert not {"src", "srcset", "xlink:href"} & attributes.keys()
        if tag == "image":
            assert (attributes["href"] or "").startswith("data:image/jpeg;base64,")
        elif "href" in attributes:
            assert tag == "a"
            assert re.match(
                r"https?://|(manifest|metadata)\.csv$|metadata\.jsonl$|(card|croissant)\.json$",
                attributes["href"] or "",
            )
    assert not re.search(r"@import|url\(", page)
    return found


# ── the sample ───────────────────────────────────────────────────────────────────────────────────


def test_the_cards_of_the_sample(cli: Cli, tmp_path: Path) -> None:
    assert cli("-a", "-d", "oxford", "--sample", "--to", tmp_path).returncode == 0
    books = {path.name: path for path in (tmp_path / "_extraction").iterdir()}
    cards = {name: json.loads((path / "card.json").read_text()) for name, path in books.items()}
    pages = {name: check_page((path / "card.html").read_text()) for name, path in books.items()}

    def counts(name: str) -> list[int]:
        return [cards[name][key] for key in ("images", "groups", "annotations", "objects")]

    assert counts("stanford") == [18, 3, 18, 39]
    assert counts("tsinghua") == [6, 3, 6, 14]
    assert counts("austin") == [58, 12, 58, 116]
    assert counts("oxford") == [12, 3, 6, 12 + 1 + 6 + 24 + 3]
    for name, page in pages.items():
        card = cards[name]
        assert f"{card['images']:,}" in page.texts and card["licence"] in page.texts
        assert "only the small sample that comes with the tool" in page.texts
        assert len(page.all("figure")) == min(card["images"], 12)
        assert sum(card["image_sizes"]["counts"]) == card["images"]
        assert len(page.all("i")) == card["groups"] == len(card["images_of"])
        assert card["size"] == json.loads((books[name] / "manifest.json").read_text())["bytes"]
    assert [len(pages[name].all("rect", "box")) for name in ("stanford", "tsinghua", "austin", "oxford")] == [
        12,
        12,
        0,
        6,
    ]
    assert len(pages["tsinghua"].all("rect", "box-head")) == 6  # of those twelve
    labels = {name: card["labels"] for name, card in cards.items()}
    assert labels["stanford"]["splits"] == {"test": 6, "train": 12}
    assert labels["tsinghua"]["boxes_per_image"] == {"2": 6} and labels["oxford"]["boxes_per_image"] == {"0": 6, "1": 6}
    assert labels["oxford"]["labels"]["Maine Coon"] == {"test": 2, "trainval": 2}
    assert "published: 12,000" in pages["stanford"].texts and "12 images" in pages["stanford"].texts
    assert "test 2, train 4" in pages["stanford"].texts and "every box lies in its image" in pages["oxford"].texts
    assert any("ours, by the SHA-256" in text for text in pages["austin"].texts)
    for page in pages.values():
        assert {"metadata.csv", "croissant.json"} <= {link["href"] for link in page.all("a")}
        assert "import pandas as pd" in "".join(page.texts)
    assert [cards["stanford"]["widths"][key] for key in ("median", "largest")] == [128, 128]
    assert cards["oxford"]["without_annotation"]["count"] == 6
    odd = cards["oxford"]["wrong_format"]
    assert odd["PNG named .jpg"] == {"count": 1, "examples": ["oxford/images/Abyssinian_4.jpg"]}
    assert (
        odd["not an image, but named .png"]["count"] == 12
        and "/._Abyssinian_1" in odd["not an image, but named .png"]["examples"][0]
    )
    assert cards["austin"]["wrong_format"]["JPEG named .png"]["count"] == 58
    assert {what: some["count"] for what, some in cards["austin"]["failures"].items()} == {"gone": 1, "not an image": 1}
    assert "Airedale" in pages["tsinghua"].texts and "golden retriever" in pages["stanford"].texts


# ── odd files, hostile names ─────────────────────────────────────────────────────────────────────


def extract(bench: Bench, members: dict[str, bytes], options: RunOptions = RunOptions()) -> Result:  # noqa: B008 - frozen
    made = bench.dataset(a_tar=tar_of(list(members.items())))
    dataset = Dataset(made.name, "Mini: <4> photos", "mini/", archives=made.archives, layout=LAYOUT,
                      home="http://mini.example/?a=1&b=2", licence='"none" & <nothing>', citation="a, b")  # fmt: skip
    return bench.extract(dataset, options)


def card_of(bench: Bench) -> tuple[dict[str, Any], Page]:
    card = "_extraction/mini/card"
    page = (bench.bucket.get(f"{card}.html") or b"").decode()
    return json.loads(bench.bucket.get(f"{card}.json") or b"{}"), check_page(page)


def png(width: int, height: int) -> bytes:
    """A PNG that claims these dimensions, and holds a single grey pixel."""
    data = encoded(Image.new("L", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def test_odd_files_are_reported_and_fail_nothing(bench: Bench) -> None:
    good = [sample.picture(number) for number in range(2)]
    members = {
        "images/a/one.jpg": good[0],
        "images/a/two.jpg": good[1],
        "images/a/twin.jpg": good[1],
        "images/a/gif.jpg": encoded(Image.new("P", (9, 7)), "GIF"),
        "images/b/cut.jpg": good[0][: len(good[0]) // 2],
        "images/b/page.jpg": sample.HTML,
        "images/b/empty.jpg": b"",
        "images/b/bomb.png": png(60_000, 60_000),
        "images/b/notes.txt": b"no image, and not called one",
        "boxes/a/one.xml": b"<a><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>5</ymax></bndbox></a>",
        "boxes/a/two.xml": b"<a><bndbox>",
        "boxes/a/nobody.xml": b"<a/>",
    }
    assert extract(bench, members).state == "complete"
    card, page = card_of(bench)
    assert (card["images"], card["groups"], card["annotations"], card["objects"]) == (8, 2, 3, 12)
    assert (card["images_published"], card["groups_published"]) == (4, 2)
    assert card["images_of"] == {"a": 4, "b": 4}
    assert card["without_annotation"]["count"] == 6 and "mini/images/b/cut.jpg" not in card["duplicates"]
    assert card["without_image"] == {"count": 1, "examples": ["mini/boxes/a/nobody.xml"]}
    assert card["duplicates"] == [["mini/images/a/twin.jpg", "mini/images/a/two.jpg"]]
    assert {what: some["count"] for what, some in card["wrong_format"].items()} == {
        "GIF named .jpg": 1,
        "not an image, but named .jpg": 2,
    }
    unreadable = {path for some in card["unreadable"].values() for path in some["examples"]}
    assert unreadable == {f"mini/images/b/{name}" for name in ("cut.jpg", "page.jpg", "empty.jpg", "bomb.png")}
    assert card["looked_at"] == 8 and sum(card["widths"]["counts"]) == 4
    assert len(page.all("rect", "box")) == 1 and "published: 4" in page.texts


def test_hostile_names_are_shown_and_do_nothing(bench: Bench) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&amp;$name"
    members = {f"images/{evil}/{evil}.jpg": sample.picture(1), f"images/{evil}/{evil}2.jpg": sample.HTML,
               f"images/</style><script>1</script>_{evil}.jpg": sample.picture(1), f"boxes/{evil}.xml": b"<a/>",
               f"boxes/{evil}/{evil}.xml": ENTITY}  # fmt: skip
    assert extract(bench, members).state == "complete"
    card, page = card_of(bench)
    assert evil in card["images_of"] and f"{evil}.jpg" in page.texts and "<4> photos" in page.texts
    assert '"none" & <nothing>' in page.texts
    assert f"mini/boxes/{evil}.xml" in page.texts


def test_nothing_at_all_and_very_many_groups(bench: Bench) -> None:
    assert extract(bench, {"README": b"no images here"}).state == "complete"
    card, page = card_of(bench)
    assert (card["images"], card["widths"], page.all("figure")) == (0, None, [])
    members = {f"images/{dog}_{rank}.jpg": sample.picture(rank) for dog in range(300) for rank in range(1 + dog % 3)}
    assert extract(bench, members, RunOptions(force=True)).state == "complete"
    card, page = card_of(bench)
    assert (card["images"], card["groups"], card["images_of"], card["looked_at"]) == (600, 300, {}, 30)
    assert card["images_per_group"]["counts"] == [0, 100, 100, 100]
    assert len(page.all("figure")) == 12


def test_what_stands_in_the_way_of_a_card_is_reported(
    api_bench: Bench, front: GcsFront, caplog: pytest.LogCaptureFixture
) -> None:
    front.fail("xml.put", 400, name="_extraction/mini/card.html")
    assert extract(api_bench, {"images/a/one.jpg": sample.picture(1)}).state == "complete"
    assert "mini: no card could be made: " in caplog.text and "card.html" in caplog.text
    assert api_bench.bucket.get("_extraction/mini/manifest.csv")
    again = extract(api_bench, {"images/a/one.jpg": sample.picture(1)})
    assert again.was_complete and card_of(api_bench)[0]["images"] == 1


def test_a_card_is_made_where_there_is_none_and_left_alone_where_there_is(bench: Bench) -> None:
    def run(options: RunOptions = RunOptions()) -> bytes:  # noqa: B008 - frozen
        assert extract(bench, {"images/a/one.jpg": sample.picture(1)}, options).state == "complete"
        return bench.bucket.get("_extraction/mini/card.html") or b""

    first = run()
    bench.bucket.put("_extraction/mini/card.html", b"kept")
    assert run() == b"kept"
    bench.bucket.delete(["_extraction/mini/card.json"])
    assert run() == first
    bench.bucket.put("_extraction/mini/card.html", b"of another time")
    assert run(RunOptions(force=True)).startswith(b"<!DOCTYPE html>")


def test_a_card_is_never_there_before_its_manifest(api_bench: Bench, front: GcsFront) -> None:
    front.fail("xml.put", 400, name="_extraction/mini/manifest.csv")
    with pytest.raises(BucketError, match=r"manifest\.csv cannot be written"):
        extract(api_bench, {"images/a/one.jpg": sample.picture(1)})
    assert not [name for name in front.puts if "card" in name]


def test_a_file_of_a_card_that_is_lost_is_made_again(api_bench: Bench) -> None:
    extract(api_bench, {"images/a/one.jpg": sample.picture(1)})
    page = card_of(api_bench)[0], api_bench.bucket.get("_extraction/mini/card.html")
    for lost in ("html", "json"):
        api_bench.bucket.delete([f"_extraction/mini/card.{lost}"])
        assert extract(api_bench, {"images/a/one.jpg": sample.picture(1)}).was_complete
        assert (card_of(api_bench)[0], api_bench.bucket.get("_extraction/mini/card.html")) == page


def test_an_incomplete_dataset_has_no_card(bench: Bench) -> None:
    assert extract(bench, {"images/a/one.jpg": sample.picture(1)}).state == "complete"
    assert (
        extract(bench, {"images/a/one.jpg": sample.picture(2), "../x": b""}, RunOptions(force=True)).state
        == "incomplete"
    )
    assert not [each for each in bench.bucket.list("_extraction/mini/") if "card" in each.name]


# ── parts ────────────────────────────────────────────────────────────────────────────────────────


@example([24])  # on the edge of the last step
@example([1] * 99 + [10**6])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60))
def test_a_histogram_counts_everything_once(values: list[int]) -> None:
    found = Histogram.of(values)
    assert found and sum(found.counts) == len(values) and len(found.counts) <= BINS and found.counts[-1]
    for index, count in enumerate(found.counts[:-1] if len(found.counts) == BINS else found.counts):
        assert count == sum(index * found.step <= value < (index + 1) * found.step for value in values)
    assert found.largest == max(values) and min(values) <= found.median <= found.most <= found.largest


@settings(deadline=None)
@given(st.floats(0.001, 1e12))
def test_steps_are_round_and_not_much_larger_than_they_must_be(least: float) -> None:
    step = round_step(least)
    assert least <= step <= max(2.5 * least, 1) and re.fullmatch("(1|2|5|25)0*", str(step))


def test_a_thumbnail_is_small_whatever_the_image() -> None:
    data = encoded(Image.linear_gradient("L").resize((1200, 600)).convert("RGBA"), "PNG")
    seen = preview("a.png", data, b"", True)
    assert (seen.width, seen.height, seen.error) == (1200, 600, "")
    with Image.open(io.BytesIO(seen.thumbnail)) as small:
        assert small.size == (300, 150) and small.format == "JPEG"
    assert preview("a.png", data, b"", False) == replace(seen, thumbnail=b"")
    assert preview("a.png", png(9000, 8000), b"", True) == Preview("a.png", 9000, 8000)  # too large to be decoded


def test_formats_that_no_dataset_has_are_not_given_to_their_readers() -> None:
    data = encoded(Image.new("RGB", (9, 7)), "PPM")
    assert preview("a.jpg", data, b"", True) == Preview("a.jpg", error="not readable as an image")


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("a/b.jpg", b"\xff\xd8\xff\xe0", ""),
        ("a/b.JPEG", b"\x89PNG\r\n\x1a\n", "PNG named .jpeg"),
        ("a/b.png", b"", "not an image, but named .png"),
        ("a.jpg/b", b"<a/>", ""),
        ("a/.png", b"GIF8", ""),
        ("a/b.xml", b"\xff\xd8\xff\xe0", ""),
    ],
)
def test_misnamed(path: str, data: bytes, expected: str) -> None:
    assert misnamed(path, content_type(data)) == expected


def test_words() -> None:
    assert [label(each) for each in ("n02085620-Chihuahua", "220-n000032-Fila Braziliero", "Maine_Coon", "")] == [
        "Chihuahua", "Fila Braziliero", "Maine Coon", "",
    ]  # fmt: skip
    assert [amount(size) for size in (0, 999, 1000, 37_123, 792_200_000, 38.8e9)] == [
        "0 B", "999 B", "1.0 kB", "37.1 kB", "792.2 MB", "38.8 GB",
    ]  # fmt: skip
