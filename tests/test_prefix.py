"""A prefix of a bucket: two of them never touch each other, and rights on one are enough for everything."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import pytest

from errors import MemberError
from gcs import Destination, open_bucket
from support.fake_gcs import GcsFront
from support.program import Cli, clean_environment, command, message

Run = Callable[..., subprocess.CompletedProcess[str]]
PREFIX = "a team/dogs"


@pytest.fixture(autouse=True)
def emulator(front: GcsFront, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)


@pytest.fixture
def run(cli: Cli, front: GcsFront, bucket: str) -> Run:
    """The program on the sample, into a prefix of a bucket."""

    def run(*arguments: str, prefix: str = PREFIX) -> subprocess.CompletedProcess[str]:
        to = f"gs://{bucket}/{prefix}"
        return cli("--sample", "--to", to, *arguments, STORAGE_EMULATOR_HOST=front.url)

    return run


@pytest.fixture
def confined(front: GcsFront, bucket: str) -> GcsFront:
    """A bucket of which the account may use this prefix alone."""
    front.create_bucket(bucket)
    front.confine(bucket, f"{PREFIX}/")
    return front


def below(front: GcsFront, bucket: str, prefix: str) -> dict[str, tuple[int, int]]:
    """The objects of a prefix, under their names below it; those that hold addresses and times by name alone."""
    found = {name.removeprefix(prefix): what for name, what in front.objects(bucket).items() if name.startswith(prefix)}
    return {name: (0, 0) if name.startswith("_extraction/") else what for name, what in found.items() if name}


def remove(to: str, *names: str) -> None:
    """Remove objects as another program does."""
    open_bucket(Destination(to)).delete(names)


def test_two_prefixes_and_the_bucket_itself_never_touch_each_other(run: Run, front: GcsFront, bucket: str) -> None:
    places = ("", "team/dog", "team/dogs", "team/dogs/more")
    for prefix in places:
        done = run("-d", "stanford", prefix=prefix)
        assert done.returncode == 0, done.stderr
        assert f"where: stanford/ in gs://{bucket}/{prefix}" in done.stderr
    first, *others = (below(front, bucket, f"{prefix}/" if prefix else "") for prefix in places)
    assert others[0] == others[2] == {name: what for name, what in others[1].items() if not name.startswith("more/")}
    assert {name: what for name, what in first.items() if not name.startswith("team/")} == others[0]
    assert "stanford/Images/" in others[0] and "_extraction/stanford/manifest.csv" in others[0]

    remove(f"gs://{bucket}/team/dogs", "stanford/lists/file_list.mat")
    assert [run("-d", "stanford", "--verify", prefix=prefix).returncode for prefix in places] == [0, 0, 3, 0]
    assert run("-d", "stanford", "--force", prefix="team/dogs").returncode == 0
    assert [below(front, bucket, f"{prefix}/") for prefix in places[1:]] == others


def test_rights_on_the_prefix_are_enough_for_every_command(run: Run, confined: GcsFront, bucket: str) -> None:
    planned = run("-a", "--plan", "--log-format", "json")
    assert (planned.returncode, json.loads(planned.stdout.splitlines()[-1])["to"]) == (0, f"gs://{bucket}/{PREFIX}")
    checked = run("-a", "--check")
    assert checked.returncode == 0, checked.stdout
    assert f"gs://{bucket}/{PREFIX}: exists" in checked.stdout and "can write, list, read and remove" in checked.stdout
    assert run("-a", "--workers", "2").returncode == 0
    assert all(name.startswith(f"{PREFIX}/") for name in confined.objects(bucket))

    remove(f"gs://{bucket}/{PREFIX}", "stanford/lists/file_list.mat", "tsinghua/")
    for look, status in (("--verify", 3), ("--repair", 0), ("--verify", 0), ("--quiet", 0)):
        done = run("-a", look)
        assert done.returncode == status, done.stdout + done.stderr
    assert run("-d", "stanford", "--shards", "webdataset").returncode == 0
    assert all(name.startswith(f"{PREFIX}/") for name in confined.objects(bucket))
    assert confined.outside.keys() == {"json.bucket.get"}  # whose refusal is no obstacle


def test_a_killed_run_goes_on_below_its_prefix(
    run: Run, confined: GcsFront, bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    confined.delay = 0.1
    environment = clean_environment(tmp_path_factory.mktemp("home"), {"STORAGE_EMULATOR_HOST": confined.url})
    arguments = command("-a", "--sample", "--to", f"gs://{bucket}/{PREFIX}", "--uploads", "4")
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while confined.counts["xml.put"] < 60:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    confined.delay = 0
    done = run("-a")
    assert done.returncode == 0, done.stderr
    assert run("-a", "--verify").returncode == 0
    assert not [name for name in confined.objects(bucket) if "/journal/" in name or not name.startswith(f"{PREFIX}/")]
    assert confined.outside.keys() == {"json.bucket.get"}


@pytest.mark.parametrize("is_confined", [False, True])
def test_a_hierarchical_bucket_has_no_placeholders_below_a_prefix_either(
    run: Run, confined: GcsFront, bucket: str, is_confined: bool
) -> None:
    confined.reset()
    if is_confined:
        confined.confine(bucket, f"{PREFIX}/")
    confined.hierarchical.add(bucket)
    assert run("-d", "stanford").returncode == run("-d", "stanford", "--verify").returncode == 0
    assert not [name for name in confined.objects(bucket) if name.endswith("/")]
    assert confined.counts["json.bucket.layout"] == 2 * is_confined


def test_a_bucket_that_has_to_be_made_is_made_with_its_prefix(run: Run, front: GcsFront, bucket: str) -> None:
    assert run("-d", "stanford").returncode == 0
    assert [made["name"] for made in front.created] == [bucket]


def test_another_prefix_than_the_accounts_is_one_clear_line(run: Run, confined: GcsFront, bucket: str) -> None:
    done = run("-d", "stanford", prefix="a team/dog")
    assert (done.returncode, confined.objects(bucket)) == (1, {})
    assert f"gs://{bucket}/a team/dog: this account may not list its objects (" in message(done)
    assert "docs/prefix.md" in message(done)


def test_a_name_that_is_too_long_with_the_prefix_is_one_members_trouble(bucket: str) -> None:
    place = open_bucket(Destination(f"gs://{bucket}/{'d' * 200}/{'d' * 200}"))
    place.ready()
    with pytest.raises(MemberError, match="a name of 1,025 bytes; 1,024 are allowed"):
        place.put("/".join(["a" * 155] * 4), b"1")
