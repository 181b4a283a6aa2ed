"""TLS for a cluster, configured by dask's environment alone; and addresses of a scheduler that are none."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.cluster import _is_open
from support.program import ROOT, Cli, message

TLS = "DASK_DISTRIBUTED__COMM__TLS__"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("keys")
    key, certificate = str(folder / "key.pem"), str(folder / "cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def settings(keys: tuple[str, str], *roles: str) -> dict[str, str]:
    certificate, key = keys
    found = {f"{TLS}CA_FILE": certificate, "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}
    for role in roles:
        found |= {f"{TLS}{role}__CERT": certificate, f"{TLS}{role}__KEY": key}
    return found


@pytest.fixture(scope="module")
def scheduler(keys: tuple[str, str]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    address = f"tls://127.0.0.1:{port}"
    environment = {**settings(keys, "SCHEDULER", "WORKER", "CLIENT"), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    dask = [sys.executable, "-m", "dask"]
    with ExitStack() as stack:
        for words in (
            ["scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", port, "--no-dashboard"],
            ["worker", address, "--nthreads", "4", "--no-dashboard"],
        ):
            process = stack.enter_context(
                subprocess.Popen([*dask, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            stack.callback(process.terminate)
            time.sleep(1)
        yield address


def test_a_cluster_with_tls(cli: Cli, tmp_path: Path, scheduler: str, keys: tuple[str, str]) -> None:
    where = ("-d", "stanford", "--sample", "--to", tmp_path / "out", "--scheduler", scheduler)
    done = cli(*where, **settings(keys, "CLIENT"))
    assert done.returncode == 0 and "run code" not in done.stderr, done.stderr
    done = cli(*where, "--force")
    assert done.returncode == 1 and "speaks TLS, and this side has no certificate" in message(done)


def test_what_is_no_address(cli: Cli, tmp_path: Path) -> None:
    done = cli("-d", "stanford", "--sample", "--to", tmp_path, "--scheduler", "nonsense")
    assert done.returncode == 1 and "nonsense: expected an address such as tcp://host:8786" in message(done)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("tcp://10.0.0.2:8786", True), ("tcp://dask-scheduler:8786", True), ("tcp://127.0.0.1:1", False),
     ("tcp://[::1]:1", False), ("tcp://localhost:1", False), ("tls://10.0.0.2:8786", False)],
)  # fmt: skip
def test_which_schedulers_are_open_to_others(address: str, expected: bool) -> None:
    assert _is_open(address) == expected
