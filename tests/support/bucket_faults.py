"""What buckets do wrong, as data: how each fault is provoked, and how a run must end with it."""

from __future__ import annotations

import random
from collections.abc import Callable

from support.fake_gcs import GcsFront
from support.fault_harness import Fault, Provoke, Site
from support.source_faults import ALWAYS, closed_port

PUTS = 90  # objects that a run puts, or a few more


def bucket(act: Callable[[GcsFront, random.Random], object]) -> Provoke:
    """Have the bucket do this."""

    def provoke(site: Site, rng: random.Random) -> None:
        act(site.front, rng)

    return provoke


def some(kind: str, status: int) -> Provoke:
    """Some of the requests of a kind are answered so, a random number from a random one on."""
    return bucket(lambda front, rng: front.fail(kind, status, rng.randint(1, 20), after=rng.randrange(PUTS // 2)))


def once(kind: str, status: int, name: str | None = None, latest: int = 1) -> Provoke:
    """One request is answered so, a random one of the first few."""
    return bucket(lambda front, rng: front.fail(kind, status, name=name, after=rng.randrange(latest)))


def always(kind: str, status: int, after: int = 0) -> Provoke:
    return bucket(lambda front, _: front.fail(kind, status, ALWAYS, after=after))


def pages(front: GcsFront, _: random.Random) -> None:
    front.page = 7


def broken_page(front: GcsFront, rng: random.Random) -> None:
    front.page = 7
    front.fail("json.list", 503, after=rng.randint(1, 15))
    front.drop("json.list", after=rng.randint(1, 15))


def slow(front: GcsFront, _: random.Random) -> None:
    front.delay = 0.2


def outage(status: int) -> Provoke:
    """From some put on every one is answered so, and the run waits for eight seconds."""

    def provoke(site: Site, rng: random.Random) -> None:
        site.front.fail("xml.put", status, ALWAYS, after=rng.randrange(2, PUTS // 2))
        site.environment["SPOTTED_OUTAGE"] = "8"

    return provoke


NO_WRITES = r"(?s)waiting for up to 8 s|trying for 8 s.*error: gs://.*(took no writes for \d+ s|cannot be written)"
VICTIM, LARGE = "stanford/Images/f1/50.jpg", "stanford/Images/large.bin"
JOURNAL, MANIFEST = "_extraction/stanford/journal", "_extraction/stanford/manifest.csv"
PASSING = (408, 429, 500, 502, 503, 504)

BUCKET = (
    *(Fault(f"{status} to some puts", some("xml.put", status)) for status in PASSING),
    Fault("reset before it is stored", bucket(lambda front, rng: front.drop("xml.put", 9, after=rng.randrange(PUTS)))),
    Fault(
        "reset after it is stored",
        bucket(lambda front, rng: front.commit_then_fail("xml.put", 9, after=rng.randrange(PUTS))),
    ),
    Fault(
        "504 after it is stored",
        bucket(lambda front, rng: front.commit_then_fail("xml.put", 9, 504, after=rng.randrange(PUTS))),
    ),
    Fault(
        "no answer after it is stored",
        bucket(lambda front, rng: front.commit_then_hang("xml.put", 2, after=rng.randrange(PUTS))),
        is_long=True,
    ),
    Fault("401 to a put, once", once("xml.put", 401, latest=PUTS)),
    Fault("401 for good", always("xml.put", 401), 1, "cannot write: .*401"),
    Fault("403 for good, from the middle on", always("xml.put", 403, after=30), 1, "cannot write: .*403"),
    Fault("403 to the listing", bucket(lambda front, _: front.deny("json.list")), 1, "cannot be listed: 403"),
    Fault("403 to whether the bucket exists", bucket(lambda front, _: front.deny("json.bucket.get"))),
    Fault("412 to a put", once("xml.put", 412, latest=PUTS), (1, 3), "412"),
    Fault("413 to a put", once("xml.put", 413, latest=PUTS), (1, 3), "413"),
    Fault(
        "the bucket is deleted in the middle",
        bucket(lambda front, rng: front.delete_bucket(rng.randrange(5, PUTS))),
        1,
        "cannot write: .*404",
    ),
    Fault("a listing in many pages", bucket(pages)),
    Fault("a listing that fails in the middle", bucket(broken_page)),
    *(Fault(f"{status} to every put, from the middle on", outage(status), 1, NO_WRITES) for status in (500, 503)),
    Fault("503 to the listing for good", always("json.list", 503), 1, "cannot be listed", is_long=True),
    Fault("429 to the listing", bucket(lambda front, rng: front.fail("json.list", 429, rng.randint(1, 3)))),
    Fault("stored, says the bucket, and it is not",
          bucket(lambda front, rng: front.lose("xml.put", 3, rng.randrange(PUTS)))),
    Fault("one bit flipped on the way", bucket(lambda front, _: front.corrupt("xml.put", name=VICTIM))),
    Fault(
        "one bit flipped each time",
        bucket(lambda front, _: front.corrupt("xml.put", VICTIM, ALWAYS)),
        3,
        "the bucket's listing lacks it, or has another size or checksum",
        spoils=True,
    ),
    Fault(
        "one bit of a large object flipped on the way",
        bucket(lambda front, _: front.corrupt("json.chunk", name=LARGE)),
        3,
        f"missing {LARGE}",
    ),
    Fault("503 to the start of a resumable upload", once("json.resumable", 503)),
    Fault("503 to a chunk of one", once("json.chunk", 503, latest=2)),
    Fault("a chunk reset before it is stored",
          bucket(lambda front, rng: front.drop("json.chunk", after=rng.randrange(2)))),
    Fault(
        "a chunk reset after it is stored",
        bucket(lambda front, rng: front.commit_then_fail("json.chunk", after=rng.randrange(2))),
    ),
    Fault("503 to a folder's placeholder", once("json.upload", 503, latest=5)),
    Fault("503 to what is deleted", once("xml.delete", 503, latest=3)),
    Fault("503 to the manifest", once("xml.put", 503, MANIFEST)),
    Fault("400 to the manifest", once("xml.put", 400, MANIFEST), 1, "manifest.csv cannot be written"),
    Fault("503 to what is read", once("xml.get", 503, latest=2)),
    Fault("a bucket that answers after 0.2 s", bucket(slow)),
    Fault("503 to whether the bucket exists", once("json.bucket.get", 503)),
    Fault("503 to the bucket's creation", once("json.bucket.create", 503)),
    Fault("the bucket's name is taken", once("json.bucket.create", 409), 1, "the name belongs to another project"),
    Fault("the bucket may not be created", once("json.bucket.create", 403), 1, "may not create it"),
    Fault(
        "no answer for the bucket",
        lambda site, _: site.environment.update(STORAGE_EMULATOR_HOST=closed_port()),
        1,
        "no answer from Google Cloud Storage",
        is_long=True,
    ),
)  # fmt: skip
