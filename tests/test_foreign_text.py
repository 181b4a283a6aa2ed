"""Text of servers, archives and tables reaches no terminal, log or list of failures as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from errors import ExtractionError, MemberError, shown
from support.archives import tar_of, zip_of
from support.fault_harness import Run, Site
from support.source_server import Plan

EVIL = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202eback"  # a terminal's title, colour, clear screen; text turned round
HEADER = EVIL.encode().decode("latin-1").replace("\x85", "")  # as a header can carry it


def answered(path: str, **plan: object) -> object:
    return lambda site: site.source.plan(path, Plan(**plan))  # type: ignore[arg-type]


def named(site: Site) -> None:
    members = [(f"Images/{EVIL}.jpg", b"1"), (f"Images/../{EVIL}", b"2"), ("Images/a\nerror: forged line", b"3")]
    site.source.files["/images.tar"] = tar_of(members)
    site.publish()


def named_in_a_zip(site: Site) -> None:
    site.source.files["/low-resolution.zip"] = zip_of([(f"../{EVIL}", b"1"), (f"{EVIL}.jpg", b"2")])
    site.publish()


def tabled(path: str, old: bytes, new: bytes) -> object:
    def change(site: Site) -> None:
        site.source.files[path] = site.source.files[path].replace(old, new, 1)

    return change


PLACES = {
    "a reason phrase": (("-d", "stanford"), answered("/images.tar", noise=f"HTTP/1.1 403 {EVIL}\r\n\r\n".encode())),
    "a status line": (("-d", "stanford"), answered("/images.tar", noise=f"{EVIL} HTTP\r\n\r\n".encode())),
    "Content-Encoding": (("-d", "stanford"), answered("/images.tar", headers={"Content-Encoding": HEADER})),
    "Content-Range": (("-d", "stanford"), answered("/images.tar", headers={"Content-Range": HEADER})),
    "Content-Type, of a page": (("-d", "stanford"), answered("/images.tar", body=f"<html>{EVIL}".encode())),
    "Location": (("-d", "stanford"), answered("/images.tar", status=302, headers={"Location": f"evil:{HEADER}"})),
    "Retry-After": (("-d", "stanford"), answered("/images.tar", status=403, headers={"Retry-After": HEADER})),
    "names in a tar": (("-d", "stanford"), named),
    "names in a zip": (("-d", "tsinghua"), named_in_a_zip),
    "the list of checksums": (("-d", "stanford"), tabled("/SHA256SUMS", b"  images", f"  {EVIL}".encode())),
    "no list of checksums": (("-d", "stanford"), tabled("/SHA256SUMS", b"", f"{EVIL}\n".encode())),
    "a table's header": (("-d", "austin"), tabled("/apa_dogs.csv", b"AnimalName", EVIL.encode())),
    "a table's number": (("-d", "austin"), tabled("/apa_photos.csv", b"\n10", f"\n{EVIL}".encode())),
    "a table's URL": (("-d", "austin"), tabled("/apa_photos.csv", b"https", f"{EVIL}https".encode())),
}


def not_harmless(run: Run, out: Path) -> list[str]:
    lists = [path.read_text() for path in out.rglob("failures.csv")]
    found = [line for text in (run.said, run.summary, *lists) for line in text.split("\n") if not line.isprintable()]
    forged = [line for line in run.said.split("\n") if line.startswith("error: forged")]
    return found + forged


@pytest.mark.parametrize("place", PLACES)
def test_foreign_text_is_shown_and_not_carried_out(place: str) -> None:
    data, provoke = PLACES[place]
    with Site("folder", data) as site:
        assert callable(provoke)
        provoke(site)
        for options in ((), ("-v",), ("--plan", "-v"), ("--check",), ("--verify",)):
            run = site.run(*options)
            assert not_harmless(run, Path(site.to)) == [], options
            assert re.search("[a-z]", run.said + run.summary)


@pytest.mark.parametrize("make", [ExtractionError, MemberError, shown])
def test_every_message_goes_through_one_function(make: type[Exception]) -> None:
    text = str(make(f"a{EVIL}\nb http://u:p@h/?sig=x"))
    assert text.isprintable() and "u:p" not in text and "=x" not in text
