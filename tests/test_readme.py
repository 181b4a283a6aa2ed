"""README.md and docs: shown output is the program's, each command does what the text says, each link leads somewhere.

Commands of this program, of git and of make are run; any URL clones this checkout. Commands of Google and of Docker are
run with a stand-in on PATH that records its arguments. The tool parses the arguments meant for it, and the real gcloud,
where installed, parses its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands.command_line import VERSION, parse
from support.fake_gcs import GcsFront
from support.program import ROOT, Cli, clean_environment, product_files
from support.source_server import SourceServer

README, GOOGLE_VM, OPTIONS, DESIGN = (
    (ROOT / name).read_text() for name in ("README.md", "docs/google-vm.md", "docs/options.md", "docs/design.md")
)
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README + GOOGLE_VM, re.DOTALL | re.MULTILINE)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [line.partition(" #")[0].strip() for line in LINES]
OWN = [command.removeprefix("python cli.py ") for command in COMMANDS if command.startswith("python cli.py ")]
NEWCOMERS = "git clone", "cd ", "make run", ". .venv/bin/activate"
# In each clone: the environment is this checkout's, which CI has just made with make setup from the same Pipfile.lock.
LINK = f"""#!/bin/sh
ln -s {shlex.quote(str(ROOT))}/.venv .venv
touch -t 200001010000 Pipfile.lock docker/requirements.py
"""
STAND_IN = """#!/bin/sh
printf '%s\\0' "${0##*/}" "$@" >> "$SEEN"; echo >> "$SEEN"
"""


def test_every_command_is_tried_below() -> None:
    tried = (
        "python cli.py ",
        "sh docker-shell.sh",
        "docker run ",
        "gcloud ",
        "PROJECT=",
        "sudo apt-get install ",
        *NEWCOMERS,
    )
    assert [command for command in COMMANDS if not command.startswith(tried)] == []
    assert len(OWN) == 7 and len(COMMANDS) > 20


def settled(text: str) -> list[str]:
    """Lines without times and rates, nor the order in which archives happen to end, nor how far a slow run is."""
    text = re.sub(r"\d+\.\d s\b|\d+\.\d .?B/s", "#", text)
    return sorted(" ".join(line.split()) for line in text.splitlines() if " objects/s" not in line)


def repository(folder: Path) -> str:
    """A repository of what is in this checkout, as if all of it were committed; its URL."""
    author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    git = ("git", f"--git-dir={folder}", f"--work-tree={ROOT}", *author)
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=all"]):
        subprocess.run([*git, *command], cwd=ROOT, env=newcomers(folder.parent), check=True)
    return folder.as_uri()


def newcomers(home: Path, **more: str) -> dict[str, str]:
    """A clean environment, and neither in git's hands nor in make's."""
    clean = clean_environment(home, {})
    return {key: value for key, value in clean.items() if not key.startswith(("GIT_", "MAKE", "MFLAGS"))} | more


@pytest.mark.checkout
def test_a_newcomers_commands_print_what_it_shows(tmp_path: Path) -> None:
    clone, login = (block for block in BLOCKS if any(command in block for command in NEWCOMERS))
    escaped = re.search(r"^\$ make run\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    url = re.search(r"git clone (\S+)", clone)
    hook = tmp_path / "template/hooks/post-checkout"
    hook.parent.mkdir(parents=True)
    hook.write_text(LINK)
    hook.chmod(0o755)
    assert escaped and url
    git = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{repository(tmp_path / 'origin')}.insteadOf"}
    git |= {"GIT_CONFIG_VALUE_0": url[1], "GIT_TEMPLATE_DIR": str(tmp_path / "template")}
    environment = newcomers(tmp_path, **stand_ins(tmp_path), **git)
    done = subprocess.run(["sh", "-eu", "-c", f"{clone}\n{login}\ncommand -v python"], cwd=tmp_path, env=environment,
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout
    _, made, printed = done.stdout.partition("cli.py --all --sample --to ./sample-out\n")
    printed, _, python = printed.rstrip("\n").rpartition("\n")
    assert made and settled(printed) == settled(escaped[1])
    assert Path(python) == ROOT / ".venv/bin/python"  # it is activated
    (card,) = re.findall(r"Open `(\S+card.html)`", README)
    assert (tmp_path / "spotted-data-extraction" / card).is_file()


def laid_out_alike(text: str) -> str:
    """Up to 3.12 Python's help repeats an option's value, "-d NAME, --dataset NAME", and so breaks other lines."""
    return " ".join(re.sub(r"(-\w) [A-Z]+, --", r"\1, --", text).split())


def test_the_options_are_those_of_help(cli: Cli) -> None:
    shown = f"```text\n{cli('--help', COLUMNS='110').stdout}```"
    assert laid_out_alike(shown) in laid_out_alike(OPTIONS)


@pytest.mark.parametrize("command", OWN)
def test_own_commands(command: str, cli: Cli, front: GcsFront, mirror: SourceServer, tmp_path: Path) -> None:
    arguments = [f"{tmp_path}/dogs" if each == "./dogs" else each for each in shlex.split(command)]
    environment = {"STORAGE_EMULATOR_HOST": front.url, "GCE_METADATA_HOST": "127.0.0.1:9"}
    if "--sample" not in arguments:
        environment["SPOTTED_MIRROR"] = mirror.url
    if "--verify" in arguments or "--check" in arguments:  # both are about a bucket that is there
        cli("-d", "stanford", "--to", "gs://my-bucket", **environment)
    done = cli(*arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def stand_ins(tmp_path: Path) -> dict[str, str]:
    """What the environment must have so that gcloud and docker take note of their arguments, and do nothing."""
    for name in ("gcloud", "docker"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SEEN": str(tmp_path / "seen")}


def seen(tmp_path: Path, block: str) -> list[list[str]]:
    """The commands that a block of shell runs, as the programs that are stood in for receive them."""
    environment = clean_environment(tmp_path, stand_ins(tmp_path))
    subprocess.run(["sh", "-eu", "-c", block], cwd=ROOT, env=environment, check=True)
    return [line.split("\0")[:-1] for line in (tmp_path / "seen").read_text().splitlines()]


def handed_over(command: list[str]) -> list[str]:
    """What `docker run` passes to the tool; options with a value of their own are those that README uses."""
    return command[next(at for at, part in enumerate(command) if part.endswith("spotted-data-extraction")) + 1 :]


def test_commands_of_docker(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if "docker-shell.sh" in block)
    runs = [command for command in seen(tmp_path, block) if command[1] == "run"]
    assert [handed_over(run) for run in runs] == [[], ["--sample", "--to", "gs://my-bucket"], ["-a"]]
    assert parse(handed_over(runs[1]), {}).sample
    assert runs[2][3:5] == ["-e", "SPOTTED_TO=gs://my-bucket"]
    assert parse(handed_over(runs[2]), {"SPOTTED_TO": "gs://my-bucket"}).to == "gs://my-bucket"


def test_commands_of_google(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if "gcloud compute" in block)
    commands = seen(tmp_path, block)
    assert len(commands) == block.count("\ngcloud ")
    remote = next(command[-1] for command in commands if "ssh" in command)
    options = parse(handed_over(shlex.split(remote)), {})
    assert (options.to, options.via, len(options.datasets)) == ("gs://my-bucket", "api", 3)
    if shutil.which("gcloud"):
        check_with_gcloud([*commands, ["gcloud", "auth", "application-default", "login"]], tmp_path)


def check_with_gcloud(commands: list[list[str]], tmp_path: Path) -> None:
    """Have the real gcloud parse them; it sends no request, and does nothing."""
    file = tmp_path / "commands.json"
    file.write_text(json.dumps([{"command_string": shlex.join(command)} for command in commands]))
    found = subprocess.run(["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}"], text=True,
                           env=clean_environment(tmp_path, {}), capture_output=True, check=True)  # fmt: skip
    results = json.loads(found.stdout)
    assert len(results) == len(commands)
    assert [result["error_message"] for result in results if not result["success"]] == []


def documents() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    local = [link for link in links if "://" not in link and "benchmarks/results" not in link]  # those make bench makes
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_the_design_names_every_room_and_files_that_exist() -> None:
    rooms = {path.relative_to(ROOT).parts[0] + "/" * (path.parent != ROOT) for path in product_files()}
    named = set(re.findall(r"`([\w/]+(?:\.\w+|/))`", DESIGN))
    assert rooms - named == set()
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_contributing_names_files_that_exist() -> None:
    named = re.findall(r"`([\w.]+(?:/[\w.]+)*(?:\.\w+|/))`", (ROOT / "CONTRIBUTING.md").read_text())
    assert named and [name for name in named if not (ROOT / name).exists()] == []


def test_the_citation_has_this_version() -> None:
    assert f"version: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.checkout
def test_this_runs_where_make_run_does() -> None:
    assert Path(sys.executable).is_relative_to(ROOT / ".venv")
