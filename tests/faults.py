"""What sources and buckets do wrong, as data: how each fault is provoked, and how a run must end with it."""

from __future__ import annotations

import random

from campaign import Fault, Site
from source_server import Plan

IMAGES = "/images.tar"


def cuts(site: Site, rng: random.Random) -> None:
    for _ in range(8):
        site.source.plan(IMAGES, Plan(cut=rng.randrange(6 << 20)), times=1)


SOURCE = (
    Fault("a connection cut at a random byte, many times", cuts, places=("api", "folder")),
    Fault("404", lambda site, _: site.source.plan(IMAGES, Plan(status=404)), 1, "images.tar: status 404"),
)  # fmt: skip
BUCKET = (Fault("503 to a put", lambda site, rng: site.front.fail("xml.put", 503, times=rng.randint(1, 9))),)
FAULTS = SOURCE + BUCKET
