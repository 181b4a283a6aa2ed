"""Options, the environment, help and the forms of the output."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from commands.command_line import parse
from support.program import ROOT, Cli, clean_environment, message

# ── wrong use ─────────────────────────────────────────────────────────────────────────────────────


def test_nothing_asked_for_is_wrong_use_with_the_help(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 2 and "usage: cli.py" in done.stderr
    assert "expected at least one of -a, -b, -i, -d NAME" in message(done)


def test_the_sample_alone_is_all_of_it() -> None:
    assert [it.name for it in parse(["--sample"], {}).datasets] == ["stanford", "tsinghua", "austin"]
    assert [it.name for it in parse(["--sample", "-i"], {}).datasets] == ["austin"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["-d", "poodles"],
            "-d poodles: no such dataset: expected one of stanford, tsinghua, tsinghua-high, austin",
        ),
        (["-a", "--connections", "0"], "expected a positive integer, got '0'"),
        (["-a", "--uploads", "many"], "expected a positive integer, got 'many'"),
        (["-a", "--sample", "--mirror", "http://x"], "--sample and --mirror cannot be combined"),
        (["-a", "--workers", "2", "--scheduler", "tcp://x"], "--workers and --scheduler cannot be combined"),
        (["-a", "--sample", "--to", "s3://bucket"], "expected gs://bucket or a directory, got 's3://bucket'"),
        (["-a", "--sample", "--to", "gs:/bucket"], "expected gs://bucket or a directory, got 'gs:/bucket'"),
        (["-a", "--sample", "--to", "gs://Not_A_Bucket!"], "gs://Not_A_Bucket!: not a bucket name"),
        (["-a", "--sample", "--to", "gs://bucket//prefix"], "gs://bucket//prefix: not a prefix that objects can have"),
    ],
)
def test_wrong_use(cli: Cli, arguments: list[str], expected: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert expected in done.stderr.splitlines()[-1]


def test_a_wrong_value_in_the_environment(cli: Cli) -> None:
    done = cli("-a", SPOTTED_SAMPLE="maybe")
    assert done.returncode == 2 and message(done) == "error: SPOTTED_SAMPLE: expected 1 or 0, got 'maybe'"


# ── output ────────────────────────────────────────────────────────────────────────────────────────


def test_help_is_quick_and_loads_nothing_of_the_cloud() -> None:
    code = "import sys, cli\ntry: cli.main(['--help'])\nexcept SystemExit: print('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = done.stdout.partition("modules:")[2].split()
    assert "cli" in modules and not {"dask", "distributed", "obstore", "requests", "tqdm"} & set(modules)
    assert not [module for module in modules if module.startswith("google")]


def test_commands_load_nothing_of_the_cloud_or_of_pillow_before_they_need_it() -> None:
    code = "import sys, commands.extract, commands.plan, commands.verify; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"PIL", "google.auth", "google.cloud", "http.server", "obstore", "tqdm"} & set(done.stdout.split())


def test_logs_and_result_as_json(cli: Cli, tmp_path: Path) -> None:
    done = cli("-a", "--sample", "--to", tmp_path / "out", "--log-format", "json")
    assert done.returncode == 0
    logged = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"severity", "message", "time"} <= set(line) for line in logged)
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["complete"] * 3


def test_quiet_says_nothing_but_the_result(cli: Cli, tmp_path: Path) -> None:
    done = cli("-a", "--sample", "--to", tmp_path / "out", "--quiet")
    assert done.stderr == "" and len(done.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["-d", "cats", "--log-format", "json"], {}, "error: -d cats: no such dataset: expected one of"),
        (["--log-format=json"], {}, "error: nothing to extract: expected at least one of"),
        (["-a", "--to", "s3://b"], {"SPOTTED_LOG_FORMAT": "json"}, "error: argument --to: expected gs://bucket or"),
        (["-a", "--log-format", "json"], {"SPOTTED_VIA": "x"}, "error: SPOTTED_VIA: expected one of"),
    ],
)
def test_wrong_use_is_json_where_the_log_is(
    cli: Cli, arguments: list[str], environment: dict[str, str], expected: str
) -> None:
    done = cli(*arguments, **environment)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (done.returncode, line["severity"]) == (2, "ERROR") and line["message"].startswith(expected), line


def test_a_defect_is_json_where_the_log_is(tmp_path: Path) -> None:
    code = "import cli\ncli.run = lambda *_: 1 / 0\nraise SystemExit(cli.main())"
    arguments = [sys.executable, "-c", code, "-a", "--sample", "--log-format", "json"]
    done = subprocess.run(arguments, cwd=ROOT, env=clean_environment(tmp_path, {}), capture_output=True, text=True,
                          check=False)  # fmt: skip
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (done.returncode, line["severity"]) == (1, "ERROR")
    assert line["message"].startswith("Traceback ") and line["message"].rstrip().endswith("division by zero")


def test_what_ends_a_run_is_json_where_the_log_is(cli: Cli) -> None:
    done = cli("-d", "stanford", "--sample", "--to", "/proc/spotted", "--log-format", "json", "-v")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    errors = [line["message"] for line in lines if line["severity"] == "ERROR"]
    assert done.returncode == 1
    assert errors[0].startswith("error: /proc/spotted") and errors[1].startswith("Traceback "), errors
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert all(line["time"].endswith("+00:00") and re.search(r"\.\d{3}\+", line["time"]) for line in lines)
    assert times == sorted(times) and abs(times[-1].timestamp() - time.time()) < 60
