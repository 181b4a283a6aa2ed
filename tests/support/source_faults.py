"""What sources do wrong, as data: how each fault is provoked, and how a run must end with it."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

from sources import sample
from support.archives import tar_of
from support.fake_gcs_requests import flipped
from support.fault_harness import Fault, Provoke, Site, members, world
from support.source_server import Plan

TAR, ZIP, GZ = "/images.tar", "/low-resolution.zip", "/images.tar.gz"
SIZE = len(world()[TAR])
ALWAYS = 10**6  # times
LOOKED = 2  # requests for an archive that look what it is
MIDDLE = 5  # of the requests for an archive of several spans
BOTH = ("api", "folder")
MONDAY, TUESDAY = "Mon, 05 Jan 2026 10:00:00 GMT", "Tue, 06 Jan 2026 10:00:00 GMT"
TSINGHUA, OXFORD, AUSTIN = ("-d", "tsinghua"), ("-d", "oxford"), ("-d", "austin")
PHOTOS = sorted(path for path, data in sample.sources().items() if path.startswith("sites/") and data != sample.HTML)


Answer = Plan | Callable[[random.Random], Plan]


def source(what: Answer, times: int = ALWAYS, path: str = TAR, after: int = 0) -> Provoke:
    """Answer the next `times` requests for `path` so, after up to `after` of them that are answered well."""

    def provoke(site: Site, rng: random.Random) -> None:
        if after:
            site.source.plan(path, Plan(), times=rng.randint(2, after))
        if times == ALWAYS:
            site.source.plan(path, what(rng) if callable(what) else what)
        for _ in range(times % ALWAYS):
            site.source.plan(path, what(rng) if callable(what) else what, times=1)

    return provoke


def photo(what: Answer, times: int = ALWAYS, count: int = 1) -> Provoke:
    """Answer requests for some photos so."""

    def provoke(site: Site, rng: random.Random) -> None:
        for path in rng.sample(PHOTOS, count):
            source(what, times, f"/{path}")(site, rng)

    return provoke


def cut(rng: random.Random) -> Plan:
    return Plan(cut=rng.randrange(4 << 20))


def hang(rng: random.Random) -> Plan:
    return Plan(hang=rng.randrange(4 << 20))


def flip(path: str) -> Answer:
    """The archive with one bit changed where no header is."""

    def answer(rng: random.Random) -> Plan:
        data = world()[path]
        middle = len(data) // 2 + 2000  # within the member of 9 MB, or in one of the zip's
        return Plan(body=flipped(data, middle + rng.randrange(3000), rng.randrange(8)))

    return answer


def short(path: str) -> Answer:
    return lambda rng: Plan(body=world()[path][: -rng.randrange(20_000, 400_000)])


def other(path: str) -> bytes:
    """Another version of an archive, as long as it or longer."""
    return world()[path].replace(b"Images/f1/", b"Images/g1/") + bytes(10240)


def without_etag(after: Plan) -> Provoke:
    """A server that tells no version but Last-Modified, or none at all, and after some requests has another file."""

    def provoke(site: Site, rng: random.Random) -> None:
        before = Plan(etag=None, last_modified=after.last_modified and MONDAY)
        site.source.plan(TAR, before, times=rng.randint(2, MIDDLE))
        site.source.plan(TAR, after)

    return provoke


def replaced(site: Site, rng: random.Random) -> None:
    """Another file from now on, which is the right one."""
    site.source.plan(TAR, Plan(), times=rng.randint(3, 5))
    new = tar_of([member for number, member in enumerate(members(world()[TAR]).items()) if number % 3])
    site.source.plan(TAR, Plan(body=new, etag='"2"'))
    site.after = lambda: site.source.files.update({TAR: new})


def leads_to(location: str) -> Provoke:
    return lambda site, _: site.source.redirect(TAR, location)


def share(site: Site, rng: random.Random) -> None:
    site.source.redirect(TAR, site.source.share("1f2e3d", world()[TAR], uses=rng.randint(1, 4)))


def mirror(url: str) -> Provoke:
    return lambda site, _: site.environment.update(SPOTTED_MIRROR=url)


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def self_signed(site: Site, _: random.Random) -> None:
    site.source.redirect(TAR, f"{site.with_tls().url}{TAR}")


DRIP = Plan(drip=0.2, piece=1)  # passes every time-out
CHANGED = "images.tar: changed while it was read.*; run again"
GIVEN_UP = r"images.tar.*: gave up after \d attempts"

SOURCE = (
    Fault("connection cut at a random byte", source(cut, 3, after=MIDDLE), places=BOTH),
    Fault("every connection cut at a random byte", source(cut, 40)),
    Fault("connection closed before the answer", source(Plan(noise=b""), 3, after=MIDDLE)),
    Fault("an answer that is no HTTP", source(Plan(noise=b"\0\xff not http\r\n\r\n"), 3, after=MIDDLE)),
    Fault("no byte of the answer for --timeout", source(Plan(stall=5), 2, after=MIDDLE), places=BOTH),
    Fault("no further byte in the middle of the answer, for --timeout", source(hang, 2, after=MIDDLE)),
    Fault("silence for good", source(Plan(hang=0)), 1, GIVEN_UP),
    Fault("silence for good, from the middle on", source(Plan(hang=0), after=MIDDLE), 3, GIVEN_UP, is_long=True),
    Fault("status 200 to a Range, now and then", source(Plan(ranges=False), 2, after=MIDDLE)),
    Fault("a server without ranges", source(Plan(ranges=False)), says="does not support range requests", places=BOTH),
    Fault("a server without ranges that cuts", source(lambda rng: Plan(ranges=False, cut=rng.randrange(SIZE)), 2)),
    Fault(
        "Content-Range of other bytes",
        source(lambda rng: Plan(headers={"Content-Range": f"bytes {rng.randrange(9)}-99/{SIZE}"}), 2, after=MIDDLE),
    ),
    Fault("Content-Range that is none", source(Plan(headers={"Content-Range": "nonsense"}))),
    Fault("Content-Length too long", source(Plan(headers={"Content-Length": "99999999"}), 3, after=MIDDLE)),
    Fault(
        "Content-Length too short",
        source(lambda rng: Plan(headers={"Content-Length": f"{rng.randrange(1, 1 << 20)}"}), 3, after=MIDDLE),
    ),
    Fault(
        "Content-Encoding gzip", source(Plan(headers={"Content-Encoding": "gzip"})), 1, "got Content-Encoding gzip"
    ),
    Fault(
        "Content-Encoding gzip, once",
        source(Plan(headers={"Content-Encoding": "gzip"}), 1, after=MIDDLE),
        3,
        "got Content-Encoding gzip",
    ),
    Fault("another ETag in the middle", source(Plan(body=other(TAR), etag='"2"'), after=MIDDLE), 1, CHANGED,
          places=BOTH),
    Fault("replaced in the middle, and stays so", replaced, 1, CHANGED, places=BOTH),
    Fault(
        "another Last-Modified in the middle",
        without_etag(Plan(body=other(TAR), etag=None, last_modified=TUESDAY)),
        1,
        CHANGED,
    ),
    Fault("a source that grows", without_etag(Plan(body=other(TAR), etag=None)), 1, CHANGED),
    Fault("a source that shrinks", without_etag(Plan(body=world()[TAR][:-10240], etag=None)), 1, CHANGED, places=BOTH),
    Fault("an archive that was cut off", source(short(TAR)), 1, "images.tar: (cut off|expected)", spoils=True),
    Fault("a zip that was cut off", source(short(ZIP), path=ZIP), 1, "not a whole zip archive", data=TSINGHUA),
    Fault(
        "a .tar.gz that was cut off",
        source(lambda rng: Plan(body=world()[GZ][: -rng.randrange(1, 500)]), path=GZ),
        1,
        "not a whole .gz file",
        data=OXFORD,
        spoils=True,
    ),
    Fault("an empty archive", source(Plan(body=b"")), 1, "expected a file, got an empty one"),
    Fault("one bit flipped on the way, of a tar", source(flip(TAR)), 1, "expected sha256", spoils=True),
    Fault("one bit flipped on the way, of a zip", source(flip(ZIP), path=ZIP), (1, 3), "damaged|sha256", data=TSINGHUA),
    Fault("403", source(Plan(status=403)), 1, "images.tar: expected status 200 or 206, got status 403"),
    Fault("403, once", source(Plan(status=403), 1, after=MIDDLE), places=BOTH),
    Fault("404", source(Plan(status=404)), 1, "images.tar: status 404"),
    Fault("410", source(Plan(status=410)), 1, "images.tar: status 410"),
    Fault("408, a few times", source(Plan(status=408), 3, after=MIDDLE)),
    Fault("429 with Retry-After", source(Plan(status=429, headers={"Retry-After": "1"}), 3, after=MIDDLE)),
    Fault(
        "429 with a Retry-After of two hours",
        source(Plan(status=429, headers={"Retry-After": "7200"})),
        1,
        "it asks to wait 7,200 s",
    ),
    *(Fault(f"{status}, a few times", source(Plan(status=status), 4, after=MIDDLE)) for status in (500, 502, 503, 504)),
    Fault("500 for good", source(Plan(status=500)), 1, GIVEN_UP + ": status 500"),
    Fault("500 for good, from the middle on", source(Plan(status=500), after=MIDDLE), 3, GIVEN_UP, is_long=True),
    Fault("an HTML page instead of an archive", source(Plan(body=sample.HTML)), 1, "images.tar: .*got an HTML page"),
    Fault("an HTML page in the middle", source(Plan(body=sample.HTML, etag=None, ranges=False), 1, after=MIDDLE)),
    Fault("a redirect loop", leads_to(TAR), 1, "images.tar: Exceeded 30 redirects"),
    Fault("redirects to a link that expires", share),
    Fault("a redirect to file://", leads_to("file:///etc/passwd"), 1, "images.tar: No connection adapters"),
    Fault("a redirect to ftp://", leads_to("ftp://127.0.0.1/images.tar"), 1, "images.tar: No connection adapters"),
    Fault("a self-signed certificate", self_signed, 1, "(?i)images.tar: gave up after 1 attempt: .*certificate"),
    Fault("a name that DNS does not know", mirror("http://sources.invalid"), 1, "SHA256SUMS: gave up after 4 attempts"),
    Fault("connection refused", mirror(closed_port()), 1, "SHA256SUMS: gave up after 4 attempts: .*refused"),
    Fault("a slow drip", source(Plan(drip=0.001))),
    Fault("five bytes a second of an archive", source(DRIP, 2, after=MIDDLE)),
    Fault("five bytes a second of a table", source(DRIP, 1, "/apa_photos.csv"), data=AUSTIN),
    Fault("five bytes a second of some photos", photo(DRIP, 2, 3), data=AUSTIN),
    Fault("five bytes a second of a photo for good", photo(DRIP), 3,
          r"gave up after 8 attempts: expected 500 bytes/s at least, got \d+ in \d s", data=AUSTIN, is_long=True),
    Fault("a table without end", source(Plan(body=bytes(300 << 20), headers={"Content-Length": None}),
                                        path="/apa_photos.csv"), 1,
          "apa_photos.csv: expected at most 268,435,456 bytes, got more", data=AUSTIN),
    Fault("a photo without end", photo(Plan(body=bytes(70 << 20), headers={"Content-Length": None})), 3,
          "expected at most 67,108,864 bytes, got more", data=AUSTIN),
    Fault("each answer a second late", source(Plan(stall=1))),
    Fault("SHA256SUMS cannot be had", source(Plan(status=500), path="/SHA256SUMS"), 1, "SHA256SUMS: gave up"),
    Fault(
        "an HTML page instead of SHA256SUMS",
        source(Plan(body=sample.HTML), path="/SHA256SUMS"),
        1,
        "expected lines as sha256sum writes them",
    ),
    Fault("a zip's connection cut at a random byte", source(cut, 5, ZIP, after=LOOKED), data=TSINGHUA),
    Fault(
        "a .tar.gz's connection cut at a random byte",
        source(lambda rng: Plan(cut=rng.randrange(4000)), 3, GZ, after=LOOKED),
        data=OXFORD,
    ),
    Fault("photos cut at a random byte", photo(lambda rng: Plan(cut=rng.randrange(900)), 3, 9), data=AUSTIN),
    Fault("500 to photos, a few times", photo(Plan(status=500), 3, 9), data=AUSTIN),
    Fault("429 with Retry-After to photos", photo(Plan(status=429, headers={"Retry-After": "1"}), 2, 9), data=AUSTIN),
    Fault("photos that fall silent", photo(Plan(hang=100), 2, 3), data=AUSTIN),
    Fault("500 to a photo for good", photo(Plan(status=500)), 3,
          "missing .*: gave up after 8 attempts", data=AUSTIN, is_long=True),
    Fault("403 to a photo", photo(Plan(status=403)), 3, "missing .*got status 403", data=AUSTIN),
    Fault("404 to a third of the photos", photo(Plan(status=404), count=20), 3, "missing .*not there", data=AUSTIN),
    Fault(
        "Content-Encoding gzip of a photo",
        photo(Plan(headers={"Content-Encoding": "gzip"})),
        3,
        "missing .*got Content-Encoding gzip",
        data=AUSTIN,
    ),
    Fault("a photo that leads to file://", photo(Plan(status=302, headers={"Location": "file:///etc/passwd"})), 3,
          "missing .*No connection adapters", data=AUSTIN),
    Fault("an HTML page instead of the table of photos", source(Plan(body=sample.HTML), path="/apa_photos.csv"), 1,
          "apa_photos.csv: expected a column", data=AUSTIN),
)  # fmt: skip
