"""The image: what it is made of, what it says of itself, and that both platforms can have it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from commands.command_line import VERSION
from support.containers import DOCKER, IMAGE, docker
from support.program import ROOMS, ROOT

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("image")]
SOURCE = "org.opencontainers.image.source"
GLIBC = 41  # 2.41, Debian trixie's
AARCH64 = 183  # e_machine of an ELF file (elf(5))


def run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    """What a command says; it must end well."""
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, env={**os.environ, **(environment or {})}, capture_output=True, text=True,
        timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_image_has_the_python_that_is_pinned() -> None:
    minor = re.search(r"^FROM python:(\d+\.\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert minor and docker("run", "--rm", IMAGE, "python", "-V").stdout.startswith(f"Python {minor[1]}.")


def test_what_the_image_imports_is_compiled() -> None:
    """Every module of the program and of its packages; an import that is not costs milliseconds at each start."""
    script = "import sys, commands.check, commands.extract, commands.plan, commands.verify, storage.api; " + (
        "print([name for name, module in sys.modules.items() if (path := getattr(module, '__cached__', None)) "
        "and not __import__('os').path.exists(path)])"
    )
    assert docker("run", "--rm", IMAGE, "python", "-c", script).stdout == "[]\n"


def test_every_package_has_a_wheel_for_arm64(tmp_path: Path) -> None:
    wanted = tmp_path / "requirements.txt"
    wanted.write_text(run(sys.executable, "docker/requirements.py", "Pipfile.lock"))
    platforms = [
        "--platform=manylinux2014_aarch64",
        *(f"--platform=manylinux_2_{n}_aarch64" for n in range(17, GLIBC + 1)),
    ]
    run(
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes",
        "--python-version=3.13", "--implementation=cp", *platforms, "--dest", tmp_path / "wheels", "-r", wanted,
    )  # fmt: skip
    assert len(list((tmp_path / "wheels").iterdir())) == len(wanted.read_text().splitlines())


def test_gcsfuse_is_built_for_arm64(tmp_path: Path) -> None:
    arguments = os.environ.get("DOCKER_BUILD_ARGS", "").split()
    target = ["--platform", "linux/arm64", "--target", "gcsfuse", "--output", f"type=local,dest={tmp_path}"]
    run(DOCKER, "build", *arguments, *target, ".", environment={"DOCKER_BUILDKIT": "1"})
    head = (tmp_path / "gcsfuse").read_bytes()[:20]
    assert (head[:4], int.from_bytes(head[18:20], "little")) == (b"\x7fELF", AARCH64)


def test_the_image_builds_without_buildkit(tmp_path: Path) -> None:
    """As Docker's SDK and Cloud Build do it. Where the base images are others, it would fetch the pinned ones too."""
    arguments = os.environ["DOCKER_BUILD_ARGS"].split()
    lines = (ROOT / "Dockerfile").read_text().splitlines(keepends=True)
    if "--build-arg" in arguments:
        lines = [line for line in lines if not re.search(r"^FROM .* AS pinned-", line)]
    (tmp_path / "Dockerfile").write_text("".join(lines))
    name = f"{IMAGE}-classic"
    run(DOCKER, "build", *arguments, "--file", tmp_path / "Dockerfile", "--tag", name, ".",
        environment={"DOCKER_BUILDKIT": "0"})  # fmt: skip
    assert docker("run", "--rm", name, "cli.py --version").stdout == f"spotted-data-extraction {VERSION}\n"
    no_secret_in_a_layer(tmp_path, name)


def test_the_shell_has_what_its_users_expect() -> None:
    done = docker("run", "--rm", IMAGE, "sh", "-ec", "for each in curl git jq; do command -v $each; done")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3


def test_how_the_image_is_configured() -> None:
    (image,) = json.loads(docker("image", "inspect", IMAGE).stdout)
    config = image["Config"]
    assert config["Entrypoint"] == ["tini", "--", "docker-entrypoint.sh"]
    assert "PYTHONUNBUFFERED=1" in config["Env"]
    assert {f"org.opencontainers.image.{name}" for name in (
        "title", "description", "licenses", "version", "revision", "source", "base.name"
    )} <= config["Labels"].keys()  # fmt: skip
    assert re.fullmatch(r"https://github\.com/[\w-]+/spotted-data-extraction", config["Labels"][SOURCE])
    files = set(docker("run", "--rm", IMAGE, "ls", "-A", "/app").stdout.split())
    assert files == {
        *(path.name for path in ROOT.glob("*.py")),
        *ROOMS,
        "Pipfile.lock",
        "docker",
        "docker-entrypoint.sh",
        "__pycache__",
    }


def test_an_init_is_process_one_and_the_tool_runs_as_a_plain_user_without_rights() -> None:
    script = "cat /proc/1/comm; id -un; sed -n 's/^CapEff:\\s*//p' /proc/self/status; touch /app/x 2>&1 || true"
    said = docker("run", "--rm", IMAGE, "bash", "-c", script).stdout.splitlines()
    assert said[:3] == ["tini", "spotted", "0" * 16]
    assert "Permission denied" in said[3]


def test_no_secret_of_the_build_is_in_a_layer(tmp_path: Path) -> None:
    no_secret_in_a_layer(tmp_path, IMAGE)


def no_secret_in_a_layer(tmp_path: Path, image_name: str) -> None:
    """.ci/containers ends the certificates that the build is given with a line of its own."""
    *_, marker = Path(os.environ["BUILD_CA"]).read_bytes().splitlines()
    assert marker.startswith(b"# not for the image")
    assert marker.decode() not in docker("history", "--no-trunc", image_name).stdout
    saved = tmp_path / "image.tar"
    run(DOCKER, "save", "--output", saved, image_name)
    names, found = set[str](), list[str]()
    with tarfile.open(saved) as image:
        for member in image:
            if not (part := image.extractfile(member)) or not member.name.endswith(("layer.tar", "json")):
                continue
            if member.name.endswith("json"):
                found += [member.name] * (marker in part.read())
                continue
            with tarfile.open(fileobj=part) as layer:
                for file in layer:
                    names.add(file.name)
                    content = layer.extractfile(file) if file.isfile() else None
                    found += [file.name] * (content is not None and marker in content.read())
    assert found == []
    assert "app/cli.py" in names and "opt/venv/bin/python" in names  # the layers have been looked into
    assert [name for name in names if Path(name).name in {".env", ".git", "ca.crt", "key.json"}] == []
