"""What SECURITY.md promises: secrets stay secret, TLS is verified, nothing leaves its prefix, no port is public."""

from __future__ import annotations

import contextlib
import csv
import io
import ipaddress
import json
import posixpath
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, Popen

import obstore
import pytest
from google.auth.credentials import AnonymousCredentials
from hypothesis import given
from hypothesis import strategies as st

from errors import SourceError, redact
from sources import sample
from sources.http import HttpClient
from sources.source import open_source
from storage.names import object_name
from storage.object_stores import ObjectStores
from support import certificates
from support.archives import some_members, tar_of
from support.miniature import DATA, sums
from support.program import ROOT, Cli, children, clean_environment, command, files_under, product_files
from support.source_server import Plan, SourceServer

SECRET = "hunter2secret"

# ── secrets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pw@host/a.tar: gone", "https://***@host/a.tar: gone"),
        ("https://me:p@w@host/a", "https://***@host/a"),
        ("x http://h/a?X-Goog-Signature=ab%2Fc&dl=1&t=9 y", "x http://h/a?X-Goog-Signature=***&dl=1&t=*** y"),
        (
            "Max retries exceeded with url: /x?sig=abc (Caused by",
            "Max retries exceeded with url: /x?sig=*** (Caused by",
        ),
        ("('http://h/?a=b', 1)", "('http://h/?a=***', 1)"),
        ("what? no secret = here", "what? no secret = here"),
        ("https://cloud.tsinghua.edu.cn/f/80013ef29c5f42728fc8/?dl=1", None),
        ("gs://bucket/a@b.jpg http://h/a@b", None),
    ],
)
def test_redaction(text: str, expected: str | None) -> None:
    assert redact(text) == (text if expected is None else expected)
    assert redact(redact(text)) == redact(text)


def with_password(url: str) -> str:
    return url.replace("http://", f"http://me:{SECRET}@")


def written(root: Path) -> str:
    """All that the program wrote of itself."""
    return "\n".join(data.decode() for name, data in files_under(root).items() if name.startswith("_extraction/"))


def test_a_mirrors_password_is_used_and_never_shown(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/lists.tar"] = tar_of([("good.mat", b"1"), ("../bad", b"2")])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    done = cli("-a", "-v", "--to", tmp_path / "out", SPOTTED_MIRROR=with_password(mirror.url))
    assert done.returncode == 3, done.stderr
    assert all("Authorization" in request.headers for request in mirror.requests if request.path.endswith(".tar"))
    written_out = done.stdout + done.stderr + written(tmp_path / "out")
    assert "http://***@127.0.0.1" in written_out and SECRET not in written_out
    assert list((tmp_path / "out/_extraction/stanford/journal").rglob("*.json"))  # it was looked at too


@pytest.mark.parametrize("fault", [Plan(status=403), Plan(body=b"<html>no</html>"), Plan(ranges=False, cut=100)])
def test_no_error_shows_a_password_or_a_signature(cli: Cli, tmp_path: Path, mirror: SourceServer, fault: Plan) -> None:
    mirror.redirect("/images.tar", f"{mirror.url}/signed?X-Goog-Signature={SECRET}")
    mirror.files[f"/signed?X-Goog-Signature={SECRET}"] = DATA["images.tar"]
    mirror.plan(f"/signed?X-Goog-Signature={SECRET}", fault)
    mirror.plan("/SHA256SUMS", Plan(status=404))
    done = cli("-d", "stanford", "-v", "--to", tmp_path, "--mirror", with_password(mirror.url))
    assert done.returncode == 1 and "error: " in done.stderr and SECRET not in done.stdout + done.stderr


def test_an_unreachable_redirect_does_not_show_its_signature(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.redirect("/images.tar", f"http://127.0.0.1:9/x?sig={SECRET}")
    done = cli("-d", "stanford", "-v", "--to", tmp_path, "--mirror", mirror.url)
    assert done.returncode == 1 and "error: " in done.stderr and SECRET not in done.stderr


@pytest.mark.parametrize("key", [SECRET, json.dumps({"type": "service_account", "private_key": SECRET})])
def test_a_key_file_that_is_none_is_not_shown(cli: Cli, tmp_path: Path, key: str) -> None:
    (tmp_path / "key.json").write_text(key)
    done = cli("-a", "-v", "--to", "gs://spot-raw-data", GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "key.json"))
    assert done.returncode == 1 and "key.json" in done.stderr and SECRET not in done.stdout + done.stderr


def test_process_lists_show_no_secret_and_no_port_is_open_to_others(tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/images.tar"] = tar_of([(f"Images/{name}", data) for name, data in some_members(100, 20_000)])
    mirror.plan("/images.tar", Plan(drip=0.08))
    environment = clean_environment(tmp_path, {"SPOTTED_MIRROR": with_password(mirror.url)})
    arguments = command("-d", "stanford", "--to", tmp_path / "out", "--workers", "2")
    process = Popen(arguments, env=environment, stderr=PIPE)
    try:
        while not any(request.range and request.path == "/images.tar" for request in mirror.requests[1:]):
            assert process.poll() is None
            time.sleep(0.05)
        family = [process.pid, *children(process.pid)]
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family]
        places = [place for pid in family for place in listening(pid)]
        greetings = [greeting(place) for place in places]
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert len(family) >= 3 and not [line for line in lines if SECRET.encode() in line]
    assert len(places) >= 3 and [ip for ip, _ in places if not ipaddress.ip_address(ip).is_loopback] == []
    assert set(greetings) == {b""}  # dask would greet in the clear; TLS and HTTP wait for the other to begin


def greeting(place: tuple[str, int]) -> bytes:
    with socket.create_connection(place, timeout=1) as connection:
        try:
            return connection.recv(100)
        except TimeoutError:
            return b""


def listening(pid: int) -> Iterator[tuple[str, int]]:
    """The addresses and ports at which a process listens (proc(5), /proc/net/tcp: 0A is LISTEN)."""
    sockets = set[str]()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets |= set(re.findall(r"socket:\[(\d+)\]", str(path.readlink())))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in sockets:
                ip, _, port = local.partition(":")
                raw = bytes.fromhex(ip)
                words = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
                yield str(ipaddress.ip_address(words)), int(port, 16)


# ── TLS, redirects ───────────────────────────────────────────────────────────────────────────────


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.answered.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"data")

    do_PUT = do_POST = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _TlsServer(ThreadingHTTPServer):
    answered: list[str]

    def handle_error(self, request: object, client_address: object) -> None:
        """That a client refuses the certificate is what is wanted."""


@pytest.fixture
def self_signed(tmp_path: Path) -> Iterator[_TlsServer]:
    """An HTTPS server for 127.0.0.1 with a self-signed certificate."""
    with _TlsServer(("127.0.0.1", 0), _Answers) as server:
        server.answered = []
        server.socket = certificates.self_signed(tmp_path).wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_self_signed_certificate_is_refused(self_signed: _TlsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"https://127.0.0.1:{self_signed.server_port}"
    for read in (
        lambda: open_source((f"{url}/a.tar",), HttpClient()),
        lambda: HttpClient().fetch_photo(f"{url}/photo.png", 1 << 20),
    ):
        with pytest.raises(SourceError, match="(?i)certificate"):
            read()
    assert HttpClient()._fetch_fast(f"{url}/photo.png") is None
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    with pytest.raises(obstore.exceptions.BaseError):
        stores = ObjectStores("bucket", "", AnonymousCredentials(), {})
        stores.run(lambda each: obstore.put(each.puts, "a", b"1", use_multipart=False))
    assert self_signed.answered == []


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1/", "data:,x"])
def test_redirects_go_to_http_and_https_only(mirror: SourceServer, to: str) -> None:
    mirror.redirect("/there", to)
    with pytest.raises(SourceError):
        HttpClient().fetch(f"{mirror.url}/there")
    with pytest.raises(SourceError):
        open_source((f"{mirror.url}/there",), HttpClient())


# ── nothing but the prefix is written, nothing local is read ─────────────────────────────────────


@given(st.text(st.sampled_from("./\\aé:~\0\n\r %") | st.characters(), max_size=40))
def test_no_name_leads_out_of_the_prefix(name: str) -> None:
    full, refusal = object_name("d/e/", name)
    if not refusal:
        for path in (full, full.replace("\\", "/")):  # which separates folders where it is downloaded to Windows
            assert path.startswith("d/e/") and posixpath.normpath(f"/bucket/{path}").startswith("/bucket/d/e")
            assert ".." not in path.split("/")
        assert not set(full) & set("\0\r\n")


HOSTILE = ["file:///etc/hostname", "/etc/hostname", "FILE:///etc/hostname", "ftp://127.0.0.1/a.png", "etc/hostname",
           "https://www.shelterluv.com/../../secret.png", "https://www.shelterluv.com/%2e%2e/%2E%2e/secret.png",
           "https://www.shelterluv.com/a/..\\..\\secret.png", "http\n://x/y.png"]  # fmt: skip


@pytest.mark.parametrize("place", ["server", "directory"])
def test_a_photo_table_cannot_name_files_of_this_machine(
    cli: Cli, tmp_path: Path, mirror: SourceServer, place: str
) -> None:
    picture = sample.picture(1)
    (tmp_path / "secret.png").write_bytes(picture)  # where ../../ of the mirror's folder would lead
    urls = [*HOSTILE, f"file://{tmp_path}/secret.png", f"{tmp_path}/secret.png"]
    rows = [["AnimalInternal-ID", "PhotoUrl"], *(["1000", url] for url in urls)]
    where = tmp_path / "a/b/mirror"
    where.mkdir(parents=True)
    with (where / "apa_photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (where / "apa_dogs.csv").write_bytes(mirror.files["/apa_dogs.csv"])
    mirror.files["/apa_photos.csv"] = (where / "apa_photos.csv").read_bytes()
    to = tmp_path / "out"
    done = cli("-i", "--mirror", mirror.url if place == "server" else where, "--to", to)
    assert done.returncode == 3, done.stderr
    assert not [name for name in files_under(to) if name.startswith("austin/")]
    failures = list(csv.DictReader(io.StringIO((to / "_extraction/austin/failures.csv").read_text())))
    assert [row["outcome"] for row in failures] == ["refused"] * len(urls)


def test_an_archive_cannot_write_the_books(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    names = ["../_extraction/stanford/manifest.csv", "_extraction/stanford/manifest.csv", "/_extraction/x"]
    mirror.files["/lists.tar"] = tar_of([(name, b"forged") for name in names])
    mirror.files["/SHA256SUMS"] = sums(mirror)
    assert cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path / "out").returncode == 3
    forged = [name for name, data in files_under(tmp_path).items() if data == b"forged"]
    assert forged == ["out/stanford/lists/_extraction/stanford/manifest.csv"]


# ── what is installed ────────────────────────────────────────────────────────────────────────────


def test_every_package_is_pinned_with_its_hashes() -> None:
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    packages = {**lock["default"], **lock["develop"]}
    assert len(packages) > 50
    for name, package in packages.items():
        assert re.fullmatch(r"==[\w.+!]+", package["version"]), name
        assert package["hashes"] and all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in package["hashes"]), name
    assert all(source["verify_ssl"] and source["url"].startswith("https://") for source in lock["_meta"]["sources"])
    assert "--require-hashes" in (ROOT / "Dockerfile").read_text()


def test_no_connection_is_made_without_its_certificate_being_verified() -> None:
    for path in product_files():
        text = path.read_text()
        assert not re.search(r"verify *= *False|CERT_NONE|allow_invalid_certificates|_create_unverified", text), path
