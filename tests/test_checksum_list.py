"""SHA256SUMS in every form that tools write, and what it says about an archive that it does not name."""

from __future__ import annotations

import codecs
import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archives.spans import LIMITS
from datasets import DATASETS, Archive
from errors import SourceError
from pipeline.planner import plan
from sources.checksum_list import ChecksumList
from sources.http import HttpClient
from support.miniature import sums
from support.program import Cli, message
from support.source_server import Plan, SourceServer

NAME, DATA = "images.tar", b"an archive"
SUM = hashlib.sha256(DATA).hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()
LINE = f"{SUM}  {NAME}\n"


def of(text: str | bytes, name: str = NAME) -> str:
    return ChecksumList("SHA256SUMS", text.encode() if isinstance(text, str) else text).of(name)


@pytest.mark.parametrize(
    "text",
    [
        LINE, f"{SUM} *{NAME}", f"{SUM}  ./{NAME}", f"{SUM}  data/stanford/{NAME}", f"{SUM} *.\\{NAME}\r\n",
        f"{SUM}\t{NAME}", f"{SUM} {NAME}   ", f" \t{LINE}", LINE.upper().replace(NAME.upper(), NAME),
        LINE.replace("\n", "\r\n"),
        LINE.encode("utf-8-sig"), LINE.encode("utf-16"), codecs.BOM_UTF16_BE + LINE.encode("utf-16-be"),
        f"SHA256 ({NAME}) = {SUM}", f"SHA256({NAME})= {SUM}", f"SHA2-256(./{NAME})= {SUM}",
        f"SHA256 (/srv/{NAME}) = {SUM}",
        f"# made by hand\n\n; and so\n{LINE}", f"{OTHER}  old/{NAME}\n{LINE}", f"{LINE}{SUM.upper()} *{NAME}\n",
        f"{'0' * 128}  {NAME}\n{LINE}{'0' * 32}  {NAME}\n",
        f"MD5 ({NAME}) = {'0' * 32}\nSHA512/256 ({NAME}) = {OTHER}\n{LINE}",
        f"SHA256 ({NAME}) = {SUM}\nSIZE ({NAME}) = 10\n", f"\\{OTHER}  a\\\\b\\n{NAME}\n{LINE}",
        LINE.replace("\n", "\0"),
        f"Algorithm  Hash    Path\n---------  ----    ----\nSHA256     {SUM.upper()}       C:\\data\\{NAME}\n\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{LINE}-----BEGIN PGP SIGNATURE-----\n\niQIz=\n",
    ],
)  # fmt: skip
def test_every_form_is_read(text: str | bytes) -> None:
    assert of(text) == SUM


@pytest.mark.parametrize(
    "command",
    ["sha256sum *", "sha256sum ./*", "sha256sum -b *", "sha256sum --tag *", "sha256sum -z *", "shasum -a 256 *",
     "openssl dgst -sha256 *", "openssl dgst -sha256 -r *", "md5sum * && sha256sum * && sha512sum *"],
)  # fmt: skip
def test_what_the_tools_themselves_write(tmp_path: Path, command: str) -> None:
    odd = "a b\\c.tar" if "openssl" in command else "a\nb\\c.tar"  # openssl does not escape names
    for name in (NAME, odd, "é (1).tar"):
        (tmp_path / name).write_bytes(DATA if name == NAME else b"another")
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True)
    assert of(done.stdout) == SUM
    if "openssl" not in command and "-z" not in command:
        assert of(done.stdout, odd) == OTHER
    assert of(done.stdout, "é (1).tar") == OTHER


@pytest.mark.parametrize("text", ["", "# nothing\n", f"{OTHER}  annotation.tar\n", f"{'0' * 128}  {NAME}\n"])
def test_a_list_without_a_line_for_it(text: str) -> None:
    assert of(text) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{LINE}{OTHER}  ./{NAME}", f"expected one checksum of {NAME}, got two, in lines 1 and 2"),
        (f"{SUM}  a/{NAME}\n{OTHER}  b/{NAME}", f"expected one checksum of {NAME}, got two, in lines 1 and 2"),
        (f"\n{SUM[1:]}  {NAME}", f"expected lines as sha256sum writes them, got {SUM[1:]}  {NAME} in line 2"),
        ("<!DOCTYPE html>", "expected lines as sha256sum writes them, got <!DOCTYPE html> in line 1"),
        (f"{NAME}: {SUM}", f"expected lines as sha256sum writes them, got {NAME}: {SUM} in line 1"),
        (SUM, f"expected lines as sha256sum writes them, got {SUM} in line 1"),
        ("a" * 60_000, f"expected lines as sha256sum writes them, got {'a' * 200}… in line 1"),
    ],
)
def test_what_is_not_understood_is_named(text: str, expected: str) -> None:
    with pytest.raises(SourceError) as caught:
        of(text)
    assert str(caught.value) == f"SHA256SUMS: {expected}"


def test_a_byte_that_is_no_text_is_named() -> None:
    with pytest.raises(SourceError, match="^SHA256SUMS, line 2: expected UTF-8, got the byte 0xE9"):
        of(LINE.encode() + b"\xe9")


@given(st.one_of(st.binary(), st.text(f"{SUM[:3]} *()=\\#\n\ufeff{NAME}SHA256").map(str.encode)), st.integers(0, 90))
def test_any_bytes_are_a_checksum_or_an_error(noise: bytes, at: int) -> None:
    data = LINE.encode()[:at] + noise + LINE.encode()[at:]
    try:
        assert of(data) in ("", SUM)
    except SourceError as error:
        if not str(error).startswith("SHA256SUMS"):
            raise


# ── through the program ──────────────────────────────────────────────────────────────────────────


def test_an_archive_that_the_list_does_not_name_is_not_compared_and_that_is_said(
    cli: Cli, tmp_path: Path, mirror: SourceServer
) -> None:
    mirror.files["/SHA256SUMS"] = b"".join(line for line in sums(mirror).splitlines(True) if b"images.tar" not in line)
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has no line for images.tar: it is stored without being compared") == 1
    assert "annotation.tar: sha256 matches" in done.stderr and "images.tar: sha256 matches" not in done.stderr


@pytest.mark.parametrize("status", [401, 403])
def test_a_list_that_the_mirror_does_not_show_is_none(
    cli: Cli, tmp_path: Path, mirror: SourceServer, status: int
) -> None:
    mirror.plan("/SHA256SUMS", Plan(status=status))
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path)
    assert done.returncode == 1 and "not the published file" in message(done)
    assert f"SHA256SUMS: expected status 200 or 206, got status {status}" in done.stderr
    assert "going on without it" in done.stderr


def test_a_wrong_archive_is_found_by_a_list_in_bsd_form(cli: Cli, tmp_path: Path, mirror: SourceServer) -> None:
    mirror.files["/SHA256SUMS"] = "".join(
        f"SHA256 ({name}) = {OTHER if name == NAME else digest}\n"
        for digest, name in (line.split("  ") for line in sums(mirror).decode().splitlines())
    ).encode("utf-16")
    done = cli("-d", "stanford", "--mirror", mirror.url, "--to", tmp_path)
    assert done.returncode == 1 and f"images.tar: expected sha256 {OTHER}, got" in message(done)


@pytest.mark.parametrize("is_published", [True, False])
def test_of_an_archive_that_the_list_does_not_name_the_published_checksum_holds(
    mirror: SourceServer, is_published: bool, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.files["/SHA256SUMS"] = b""
    size = len(mirror.files["/lists.tar"]) - (not is_published)
    archive = Archive((f"{mirror.url}/away.tar",), "x/", "lists.tar", size, OTHER)
    (planned,), _ = plan(replace(DATASETS["stanford"], archives=(archive,)), mirror.url, LIMITS, HttpClient())
    assert planned.sha256 == (OTHER if is_published else "")
    assert ("no line for lists.tar" in caplog.text) != is_published
