"""The image in a company network: a login mounted, a private CA and a proxy in the way, for GCSFuse too."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.company import MIRROR, TOKENS, Company
from support.containers import FUSE, IMAGE, docker, members
from support.fake_gcs import GcsFront
from support.fake_google import HOST

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("image")]


# It asks for the bucket's layout by gRPC first, which the tests' Google does not speak.
GCSFUSE = (
    '#!/bin/sh\ncase $1 in --version) ;; *) set -- --enable-hns=false "$@" ;; esac\nexec /usr/local/bin/gcsfuse "$@"\n'
)


@pytest.mark.parametrize(("via", "variable"), [("api", "CURL_CA_BUNDLE"), ("mount", "REQUESTS_CA_BUNDLE")])
def test_one_certificate_and_one_proxy_serve_all(
    front: GcsFront, bucket: str, tmp_path: Path, via: str, variable: str
) -> None:
    front.create_bucket(bucket)
    with Company(front, tmp_path) as company:
        environment = {
            variable: "/ca.pem", "ALL_PROXY": company.proxy, "GOOGLE_APPLICATION_CREDENTIALS": "/login.json",
            "SPOTTED_MIRROR": f"https://{MIRROR}",
        }  # fmt: skip
        given = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        (tmp_path / "gcsfuse").write_text(GCSFUSE)
        (tmp_path / "gcsfuse").chmod(0o755)
        files = [
            "--volume",
            f"{tmp_path}/gcsfuse:/opt/venv/bin/gcsfuse:ro",
            "--volume",
            f"{company.ca}:/ca.pem:ro",
            "--volume",
            f"{company.login}:/login.json:ro",
        ]
        where = ["--network", "host", *FUSE, *given, *files, IMAGE, "-d", "stanford", "--to", f"gs://{bucket}"]
        done = docker("run", "--rm", *where, "--via", via)
        assert done.returncode == 0 and "stanford: complete" in done.stderr, done.stderr
        assert (f"writing through the mount at /gcs/{bucket}" in done.stderr) == (via == "mount")
        assert set(company.asked) == {MIRROR, TOKENS, HOST}
    assert {name.partition("/")[0] for name in members(front, bucket)} == {"stanford"}
