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


INSIDE = """
import sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from errors import SourceError
from sources.http import HttpClient
from sources.source import open_source
from support.source_server import SourceServer

class Leads(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

with SourceServer() as inside:
    inside.files["/latest/meta-data"] = b"secret" * 100
    to = inside.url + "/latest/meta-data"
    outside = ThreadingHTTPServer(("8.8.4.4", 8000), Leads)
    threading.Thread(target=outside.serve_forever, daemon=True).start()
    try:
        open_source(("http://8.8.4.4:8000/a.tar",), HttpClient())
    except SourceError as error:
        print(error)
    try:
        HttpClient().fetch("http://8.8.4.4:8000/table.csv", 1)
    except SourceError as error:
        print(error)
    print(len(inside.requests), "requests")
    print(open_source((to,), HttpClient()).size, "bytes where the source itself is inside")
"""


def test_a_source_outside_does_not_lead_inside() -> None:
    """In a network of its own, where an address of the Internet is this machine's."""
    script = 'ip link set lo up && ip address add 8.8.4.4/32 dev lo && exec "$@"'
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", "sh", "-c", script, "sh", sys.executable, "-c", INSIDE],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert "leads to 127.0.0.1, an address inside this network or machine" in said[0], done.stdout + done.stderr
    assert "leads to 127.0.0.1" in said[1]
    assert said[2:] == ["0 requests", "600 bytes where the source itself is inside"]
