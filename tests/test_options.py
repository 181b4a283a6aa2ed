"""Options and environment: the command line wins in every case, and a wrong value is one line that names its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.command_line import parse
from errors import UsageError
from pipeline.options import RunOptions
from support.program import Cli


def names(options: RunOptions) -> list[str]:
    return [dataset.name for dataset in options.datasets]


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["-a", "--scheduler", "tcp://x:1"], {"SPOTTED_WORKERS": "4"}, {"scheduler": "tcp://x:1", "workers": 0}),
        (["-a", "--workers", "2"], {"SPOTTED_SCHEDULER": "tcp://x:1"}, {"scheduler": "", "workers": 2}),
        (["--list"], {"SPOTTED_PLAN": "1"}, {"command": "list"}),
        (["-a", "--check"], {"SPOTTED_PLAN": "1"}, {"command": "check"}),
        (["-a", "--mirror", "m"], {"SPOTTED_SAMPLE": "1"}, {"mirror": "m", "sample": False}),
        (["-a", "--sample"], {"SPOTTED_MIRROR": "m"}, {"mirror": "", "sample": True}),
        (["-a", "--repair"], {"SPOTTED_FORCE": "1"}, {"command": "repair", "force": False}),
        (["-a", "--connections", "3"], {"SPOTTED_CONNECTIONS": "5"}, {"connections": 3}),
        (["-a"], {"SPOTTED_CONNECTIONS": "5", "SPOTTED_TO": "./out"}, {"connections": 5, "to": "./out"}),
        (["-a", "--dry-run"], {}, {"command": "plan"}),
        (["-a"], {"GCS_BUCKET": "mine"}, {"to": "gs://mine"}),
        (["-a"], {"GCS_BUCKET": "gs://mine", "SPOTTED_TO": ""}, {"to": "gs://mine"}),
        (["-a"], {"GCS_BUCKET": "mine", "SPOTTED_TO": "./out"}, {"to": "./out"}),
        (["-a", "--to", "./there"], {"GCS_BUCKET": "mine"}, {"to": "./there"}),
        (["-a"], {"GCS_BUCKET": ""}, {"to": "gs://spot-raw-data"}),
    ],
)
def test_the_command_line_wins(arguments: list[str], environment: dict[str, str], expected: dict[str, object]) -> None:
    options = parse(arguments, environment)
    assert {name: getattr(options, name) for name in expected} == expected


def test_datasets_on_the_command_line_replace_those_of_the_environment() -> None:
    environment = {"SPOTTED_DATASET": "austin, oxford"}
    assert names(parse([], environment)) == ["austin", "oxford"]
    assert names(parse(["-d", "stanford"], environment)) == ["stanford"]
    assert names(parse(["-b"], environment)) == ["stanford", "tsinghua"]
    assert names(parse(["-i"], {"SPOTTED_ALL": "yes"})) == ["austin"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SPOTTED_CONECTIONS": "5"}, "SPOTTED_CONECTIONS: no such option; did you mean SPOTTED_CONNECTIONS?"),
        ({"SPOTTED_CONNECTIONS": "five"}, "SPOTTED_CONNECTIONS: expected a positive integer, got 'five'"),
        ({"SPOTTED_VIA": "ftp"}, "SPOTTED_VIA: expected one of auto, mount, api, got 'ftp'"),
        ({"SPOTTED_TO": "s3://b"}, "SPOTTED_TO: expected gs://bucket or a directory, got 's3://b'"),
        ({"SPOTTED_TO": "my-bucket"}, "--to my-bucket: did you mean gs://my-bucket or ./my-bucket?"),
        ({"SPOTTED_FORCE": "maybe"}, "SPOTTED_FORCE: expected 1 or 0, got 'maybe'"),
        ({"SPOTTED_VERIFY": "1", "SPOTTED_PLAN": "1"}, "--plan and --verify cannot be combined"),
    ],
)
def test_a_wrong_variable_is_named(environment: dict[str, str], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        parse(["-a"], environment)


def test_a_name_without_a_scheme_is_asked_about(cli: Cli) -> None:
    done = cli("-a", "--sample", "--to", "my-bucket/dogs")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --to my-bucket/dogs: did you mean gs://my-bucket/dogs or ./my-bucket/dogs?\n"


def test_what_can_only_be_a_directory_is_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "there").mkdir()
    for name in ("there", "there/", "./new", "../new", "/new/er", ".", ".."):
        assert parse(["-a", "--to", name], {}).to == name
    assert parse(["-a"], {"SPOTTED_TO": "~/new"}).to == "/home/me/new"
    for name in (".new", "there/new", "..new"):
        with pytest.raises(UsageError, match=f"did you mean gs://{name} or"):
            parse(["-a", "--to", name], {})


def test_an_unknown_dataset_of_the_environment_is_named() -> None:
    with pytest.raises(UsageError, match="-d poodles: no such dataset: expected one of stanford, "):
        parse([], {"SPOTTED_DATASET": "poodles"})


def test_variables_that_kubernetes_sets_are_not_ours() -> None:
    service = {"SPOTTED_SERVICE_HOST": "10.0.0.1", "SPOTTED_PORT_8786_TCP": "tcp://10.0.0.1:8786", "SPOTTED_PORT": "x"}
    assert parse(["-a"], service).command == "extract"


def test_an_option_is_written_in_full(cli: Cli) -> None:
    done = cli("-a", "--verif")
    assert done.returncode == 2 and "unrecognized arguments: --verif" in done.stderr
