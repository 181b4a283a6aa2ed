"""A company's network: a private CA named once, a proxy in the way, and errors of both at the first try."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from requests.utils import should_bypass_proxies

from errors import BucketError, SourceError
from sources.http import HttpClient
from sources.network import CERTIFICATES, DIRECT, share
from storage.api import ApiBucket
from support.certificates import self_signed
from support.company import MIRROR, TOKENS, Company
from support.fake_gcs import GcsFront
from support.fake_google import HOST
from support.program import Cli, message
from support.source_server import SourceServer

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy")
NONE = dict.fromkeys((*CERTIFICATES, "SSL_CERT_DIR", *PROXIES), "")
CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def company(front: GcsFront, tmp_path: Path) -> Iterator[Company]:
    with Company(front, tmp_path) as company:
        yield company


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without certificates and proxies; what is set comes back in the end."""
    for name in NONE:
        monkeypatch.setenv(name, "")  # so that what share() makes of it is undone
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("certificates", "proxy"), [*zip(CERTIFICATES, ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"), strict=True)]
)
def test_one_setting_of_certificates_and_one_of_the_proxy_serve_sources_tokens_and_bucket(
    cli: Cli, company: Company, front: GcsFront, bucket: str, certificates: str, proxy: str
) -> None:
    given = {**NONE, certificates: str(company.ca), proxy: company.proxy}
    given |= {"GOOGLE_APPLICATION_CREDENTIALS": str(company.login), "GCP_PROJECT": "p"}
    where = ("-d", "stanford", "-i", "--mirror", f"https://{MIRROR}", "--to", f"gs://{bucket}")
    checked = cli(*where, "--check", **given)
    assert checked.returncode == 0, checked.stdout
    done = cli(*where, **given)
    assert done.returncode == 0 and done.stdout.count("complete") == 2, done.stderr
    assert set(company.asked) == {MIRROR, TOKENS, HOST}
    assert front.counts["xml.put"] > 50 and front.counts["json.list"] > 1  # by obstore, by google-cloud-storage


@pytest.mark.parametrize("command", [(), ("--check",)])
def test_a_source_that_is_not_trusted_is_one_line_at_the_first_try(
    cli: Cli, company: Company, tmp_path: Path, command: tuple[str, ...]
) -> None:
    where = ("-d", "stanford", "--mirror", f"https://{MIRROR}", "--to", tmp_path / "out")
    done = cli(*where, *command, **NONE | {"HTTPS_PROXY": company.proxy})
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "TLS failed ([SSL: CERTIFICATE_VERIFY_FAILED]" in said, said
    assert "must be named in REQUESTS_CA_BUNDLE (docs/network.md)" in said
    assert "gave up after 1 attempt: " in said and "after 2 attempts" not in said


@pytest.mark.parametrize("command", [(), ("--check",), ("--verify",)])
@pytest.mark.parametrize("host", [TOKENS, HOST])
def test_a_bucket_that_is_not_trusted_is_one_line_at_the_first_try(
    cli: Cli, company: Company, bucket: str, host: str, command: tuple[str, ...]
) -> None:
    given = {"GOOGLE_APPLICATION_CREDENTIALS": str(company.login), "GCP_PROJECT": "p", "HTTPS_PROXY": company.proxy}
    given |= {"STORAGE_EMULATOR_HOST": f"https://{HOST}"} if host == HOST else {}
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", *command, **NONE | given)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and f"gs://{bucket}: " in said and "TLS failed (" in said, said
    assert "roles/" not in said
    # google-auth asks four times for a token, without a wait between.
    assert set(company.asked) == {host} and len(company.asked) == (4 if host == TOKENS else 1)


def test_an_object_is_put_once_where_the_bucket_is_not_trusted(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    with SourceServer(self_signed(tmp_path)) as server:
        environment.setenv("STORAGE_EMULATOR_HOST", server.url)
        bucket = ApiBucket("bucket")
        with pytest.raises(BucketError, match=r"cannot write: TLS failed \(InvalidCertificate\): "):
            bucket.put("a", b"1")
        assert bucket.limiter.stats().writes == 1


def test_a_server_without_tls_is_called_that(environment: pytest.MonkeyPatch) -> None:
    with SourceServer() as server, pytest.raises(SourceError, match="after 1 attempt: TLS failed .*WRONG_VERSION"):
        HttpClient().fetch(f"https://127.0.0.1:{server.server_port}/a")


def test_a_proxy_that_does_not_answer_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTPS_PROXY", CLOSED)
    with pytest.raises(SourceError, match="the proxy: .*Connection refused"):
        HttpClient().fetch(f"https://{MIRROR}/a", attempts=1)


def test_what_is_on_this_machine_is_asked_without_the_proxy(cli: Cli, front: GcsFront, bucket: str) -> None:
    given = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), CLOSED)
    done = cli("-d", "stanford", "--sample", "--to", f"gs://{bucket}", STORAGE_EMULATOR_HOST=front.url, **NONE | given)
    assert done.returncode == 0, done.stderr


def test_no_proxy_is_kept(cli: Cli, company: Company, tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    given = {"HTTPS_PROXY": company.proxy, "NO_PROXY": f"inner.example,{MIRROR}"}
    done = cli("--check", "-d", "stanford", "--mirror", f"https://{MIRROR}", "--to", tmp_path / "out", **NONE | given)
    assert done.returncode == 1 and company.asked == []
    for name, value in given.items():
        environment.setenv(name, value)
    share()
    share()  # in every worker once more
    assert os.environ["NO_PROXY"].split(",") == ["inner.example", MIRROR, *DIRECT] == os.environ["no_proxy"].split(",")
    assert should_bypass_proxies(f"https://{MIRROR}/", None) and not should_bypass_proxies(
        "https://other.example/", None
    )


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_socks_is_named(cli: Cli, tmp_path: Path, name: str) -> None:
    done = cli("-d", "stanford", "--sample", "--to", tmp_path, **NONE | {name: "socks5://127.0.0.1:1080"})
    assert done.returncode == 2 and "SOCKS is not supported: expected http://host:port" in message(done)


@pytest.mark.parametrize("name", CERTIFICATES)
@pytest.mark.parametrize("text", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_one_line(cli: Cli, tmp_path: Path, name: str, text: str | None) -> None:
    file = tmp_path / "ca.pem"
    if text:
        file.write_text(text)
    done = cli("-d", "stanford", "--sample", "--to", tmp_path / "out", **NONE | {name: str(file)})
    assert done.returncode == 2
    assert message(done).startswith(f"error: {name}: expected a file of certificates (PEM), got {file}: ")
