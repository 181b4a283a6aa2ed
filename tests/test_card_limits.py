"""Images and annotations that are too large to be drawn end no run, and take no memory to speak of."""

from __future__ import annotations

import json
import sys

import pytest
from PIL import Image

from support.archives import tar_of
from support.fault_harness import Site
from support.images import encoded

MOST = 500 << 10  # kB of memory that the program may have at most; before, it was a gigabyte and more
PEAK = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)
"""


def huge() -> bytes:
    """A PNG of 64 megapixels, 190 kB."""
    return encoded(Image.new("RGB", (8000, 8000), "red"), "PNG")


def annotation() -> bytes:
    """20 MB of boxes."""
    box = b"<object><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>"
    return b"<annotation>" + box * (20_000_000 // len(box)) + b"</annotation>"


@pytest.mark.parametrize("place", ["api", "folder"])
def test_huge_images_and_annotations(place: str) -> None:
    image, boxes = huge(), annotation()
    names = [f"n0{number}-Dog/a_{number}" for number in range(24)]
    with Site(place) as site:
        site.source.files["/images.tar"] = tar_of([(f"Images/{name}.jpg", image) for name in names])
        site.source.files["/annotation.tar"] = tar_of([(f"Annotation/{name}", boxes) for name in names[:12]])
        site.publish()
        site.wrapper = [sys.executable, "-c", PEAK, str(peak := site.home / "peak")]
        run = site.run("-v")
        assert run.status == 0 and "no card could be made" not in run.said, run.said
        card = json.loads(site.read("_extraction/stanford/card.json") or b"{}")
        assert card["looked_at"] == 12 and card["widths"]["largest"] == 8000
        assert int(peak.read_text()) < MOST, peak.read_text()
