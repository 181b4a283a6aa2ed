"""Credentials go only to the host that they are for, and a source outside leads to nothing inside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.program import ROOT, Cli
from support.source_server import SourceServer

LISTS = "/lists.tar"


def sent(mirror: SourceServer) -> set[str]:
    return {request.headers["Authorization"] for request in mirror.requests if "Authorization" in request.headers}


@pytest.mark.parametrize(
    ("entries", "is_sent"),
    [
        ("default login me password secret", False),
        ("machine elsewhere login me password secret\ndefault login me password secret", False),
        ("machine 127.0.0.1 login me password secret", True),
    ],
)
def test_netrc_is_for_the_host_that_it_names(
    cli: Cli, tmp_path: Path, mirror: SourceServer, entries: str, is_sent: bool
) -> None:
    (tmp_path / ".netrc").write_text(entries)
    (tmp_path / ".netrc").chmod(0o600)
    assert cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out").returncode == 0
    assert bool(sent(mirror)) == is_sent


@pytest.mark.parametrize("url", ["{}", "http://me:secret@{}"])
def test_a_redirect_to_another_host_takes_none_with_it(
    cli: Cli, tmp_path: Path, mirror: SourceServer, url: str
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\ndefault login me password secret")
    (tmp_path / ".netrc").chmod(0o600)
    here = mirror.url.removeprefix("http://")
    with SourceServer() as other:
        other.files = mirror.files
        for path in mirror.files:
            if path.endswith(".tar"):
                mirror.redirect(path, other.url.replace("127.0.0.1", "localhost") + path)
        to = url.format(here) if "@" in url else mirror.url
        assert cli("-d", "stanford", "--mirror", to, "--to", tmp_path / "out").returncode == 0
        assert other.requests and sent(other) == set() and sent(mirror)


OUTSIDE = """
import subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from errors import SourceError
from sources import sample
from sources.http import HttpClient
from sources.source import open_source
from support.source_server import SourceServer

class Leads(BaseHTTPRequestHandler):
    def do_GET(self):
        table = tables.get(self.path)
        self.send_response(200 if table else 302)
        self.send_header("Location", to)
        self.send_header("Content-Length", str(len(table or b"")))
        self.end_headers()
        self.wfile.write(table or b"")
    def log_message(self, *_):
        pass

with SourceServer() as inside:
    inside.files["/photo.png"] = sample.picture(1)
    to, url = inside.url + "/photo.png", "http://8.8.4.4:8000"
    photos = f"AnimalInternal-ID,PhotoUrl\\n1000,{to}\\n1000,{url}/photo.png\\n".encode()
    tables = {"/dogs.csv": sample.sources()["apa_dogs.csv"], "/photos.csv": photos}
    outside = ThreadingHTTPServer(("8.8.4.4", 8000), Leads)
    threading.Thread(target=outside.serve_forever, daemon=True).start()
    for lead in (lambda: open_source((f"{url}/a.tar",), HttpClient()), lambda: HttpClient().fetch(f"{url}/a.csv", 1)):
        try:
            lead()
        except SourceError as error:
            print(error)
    for options in [], ["--allow-private-addresses"]:
        run = [sys.executable, *sys.argv[1:], "--quiet", *options]
        print(subprocess.run(run, stdout=subprocess.DEVNULL).returncode, len(inside.requests), flush=True)
    print(open_source((to,), HttpClient()).size, "bytes where the source itself is inside")
"""
PETS = """
[pets]
[pets.tables]
dogs = "http://8.8.4.4:8000/dogs.csv"
photos = "http://8.8.4.4:8000/photos.csv"
image_prefix = "pets/images/"
annotation_prefix = "pets/annotations/"
"""


def in_a_network_of_its_own(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = 'ip link set lo up && ip address add 8.8.4.4/32 dev lo && exec "$@"'
    return subprocess.run(
        ["unshare", "--map-root-user", "--net", "sh", "-c", script, "sh", sys.executable, "-c", program, *arguments],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_source_outside_does_not_lead_inside(tmp_path: Path) -> None:
    """In a network of its own, where an address of the Internet is this machine's: an archive, a table, two photos.

    One of the photos is behind a redirect, the other in the table. An option allows them.
    """
    (tmp_path / "pets.toml").write_text(PETS)
    run = ["-d", "pets", "--datasets-file", str(tmp_path / "pets.toml"), "--to", str(tmp_path / "out")]
    done = in_a_network_of_its_own(OUTSIDE, str(ROOT / "cli.py"), *run)
    said = done.stdout.splitlines()
    assert len(said) == 5, done.stdout + done.stderr
    assert all("leads to 127.0.0.1, an address inside this network or machine" in line for line in said[:2])
    assert said[2:4] == ["3 0", "0 2"], done.stderr
    assert said[4].endswith(" bytes where the source itself is inside")
    assert len(list((tmp_path / "out/pets").rglob("*.png"))) == 2


REBOUND = """
import socket, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from errors import SourceError
from sources.http import HttpClient

OUTSIDE, INSIDE, asked = "8.8.4.4", "127.0.0.1", []

class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.server.server_address[0])
        self.send_response(302 if self.path == "/leads" else 200)
        self.send_header("Location", "http://rebound.example:8000/a")
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

for address in OUTSIDE, INSIDE:
    threading.Thread(target=ThreadingHTTPServer((address, 8000), Answers).serve_forever, daemon=True).start()
system = socket.getaddrinfo

def resolver(host, *others, **named):
    return system(answers.pop(0) if host == "rebound.example" else host, *others, **named)

socket.getaddrinfo = resolver
for is_open in False, True:
    client, answers = HttpClient(is_open=is_open), [OUTSIDE, INSIDE][is_open:]  # looked up, then connected to
    for urls in ["http://8.8.4.4:8000/leads"], ["http://rebound.example:8000/a"] * 2:
        try:
            for url in urls:
                client.fetch(url, 1)
            print("read", *asked)
        except SourceError as error:
            print(error, *asked)
        asked.clear()
        client, answers = HttpClient(is_open=is_open), [OUTSIDE, INSIDE]  # at the first connection, at the second
"""


def test_a_name_that_means_another_address_once_it_is_connected_to_leads_nowhere_inside() -> None:
    """A resolver that answers first with an address outside, then with this machine's."""
    done = in_a_network_of_its_own(REBOUND)
    refused = "rebound.example: leads to 127.0.0.1, an address inside this network or machine"
    said = done.stdout.splitlines()
    assert [refused in line for line in said] == [True, True, False, False], done.stdout + done.stderr
    assert [line.split()[-1] for line in said] == ["8.8.4.4", "8.8.4.4", "127.0.0.1", "127.0.0.1"]
