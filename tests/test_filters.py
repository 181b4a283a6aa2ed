"""--limit, --include and --exclude: what is stored is right, goes on, grows, and never shrinks unasked."""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
from pathlib import Path

import pytest

from datasets import DATASETS
from manifest.selection import Filter
from support.archives import some_members, tar_of, zip_of
from support.fake_gcs import GcsFront
from support.miniature import expected_objects, sums
from support.program import Cli, clean_environment, command, dataset_files, message
from support.source_server import Plan, SourceServer

LAYOUT = DATASETS["stanford"].layout
BREEDS = ("n01-a", "n02-b", "n03-c")


def firsts(count: int, objects: dict[str, bytes]) -> dict[str, bytes]:
    """The objects of the first images of each breed and their annotations, and all that are neither."""
    found, stems = dict[str, bytes](), dict[str, list[str]]()
    for name in sorted(objects):
        parts = name.split("/")
        if parts[1] in ("Images", "low-resolution"):
            stems.setdefault(parts[2], []).append(parts[3].partition(".")[0])
    for name, data in objects.items():
        parts = name.split("/")
        if parts[2] not in stems or parts[3].partition(".")[0] in sorted(stems[parts[2]])[:count]:
            found[name] = data
    return found


def of(data: str, objects: dict[str, bytes] | None = None) -> dict[str, bytes]:
    objects = expected_objects() if objects is None else objects
    return {name: body for name, body in objects.items() if name.startswith(f"{data}/")}


@pytest.fixture
def shuffled(mirror: SourceServer) -> dict[str, bytes]:
    """Stanford as tars of several pieces whose members are in no order; what they hold."""
    names = [f"{breed}/{breed[:3]}_{number}" for breed in BREEDS for number in range(400)]
    random.Random(5).shuffle(names)
    data = [body for _, body in some_members(len(names), 20_000)]
    images = [(f"Images/{name}.jpg", body) for name, body in zip(names, data, strict=True)]
    images += [(f"Images/{BREEDS[0]}/n01_0.jpg", b"\xff\xd8\xff the last of this name counts")]
    labels = [(f"Annotation/{name}", b"<annotation/>") for name in reversed(names)]
    labels += [(f"Annotation/{BREEDS[0]}/a-first-one-without-image", b"<annotation/>")]
    mirror.files["/images.tar"], mirror.files["/annotation.tar"] = tar_of(images), tar_of(labels)
    mirror.files["/SHA256SUMS"] = sums(mirror)
    lists = {name: body for name, body in of("stanford").items() if "/lists/" in name}
    return {**{f"stanford/{name}": body for name, body in (*images, *labels)}, **lists}


# ── what is selected ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("data", ["stanford", "tsinghua"])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_the_first_images_of_each_breed(cli: Cli, tmp_path: Path, data: str, count: int) -> None:
    done = cli("-d", data, "--sample", "--limit", str(count), "--to", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert dataset_files(tmp_path / "out") == firsts(count, of(data))
    assert "published are" not in done.stderr


def test_the_first_photos_of_each_dog(cli: Cli, tmp_path: Path) -> None:
    assert cli("-i", "--sample", "--limit", "2", "--to", tmp_path / "out").returncode == 0
    names = [f"{dog}_{rank}" for dog in range(1000, 1012) for rank in (1, 2)]
    images, labels = (
        (f"austin/full_quality/{name}.png" for name in names),
        (f"austin/annotations/{name}.json" for name in names),
    )
    assert dataset_files(tmp_path / "out").keys() == {*images, *labels}


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["--include", "*Chihuahua*"], ".*Chihuahua"),
        (["--include", "stanford/Images/*", "--exclude", "*_1.jpg"], "stanford/Images/.*_[^1].jpg"),
        (["--exclude", "stanford/lists/*"], "(?!stanford/lists)"),
        (["--include", "austin/annotations/*"], "austin/annotations"),
        (["--exclude", "*/n101.jp*g", "--exclude", "*.xml"], r"(?!.*(/n101.jpg|\.xml)$)"),
        (["--include", "nothing"], "nothing"),
    ],
)
def test_names_by_patterns(cli: Cli, tmp_path: Path, options: list[str], pattern: str) -> None:
    assert cli("-a", "--sample", "--to", tmp_path / "all").returncode == 0
    wanted = {name for name in dataset_files(tmp_path / "all") if re.match(pattern, name)}
    done = cli("-a", "--sample", "--to", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    assert dataset_files(tmp_path / "out").keys() == wanted


@pytest.mark.parametrize("ways", [[], ["--workers", "2"], ["--connections", "1"]])
def test_the_order_of_members_and_of_workers_does_not_matter(
    cli: Cli, mirror: SourceServer, shuffled: dict[str, bytes], tmp_path: Path, ways: list[str]
) -> None:
    done = cli("-d", "stanford", "--mirror", mirror.url, "--limit", "7", "--to", tmp_path / "out", *ways)
    assert done.returncode == 0, done.stderr
    without = f"stanford/Annotation/{BREEDS[0]}/a-first-one-without-image"
    expected = firsts(7, {name: data for name, data in shuffled.items() if name != without})
    assert dataset_files(tmp_path / "out") == expected | {without: shuffled[without]}
    assert all(source["sha256_check"] == "matches" for source in manifest(tmp_path / "out")["sources"])


def test_of_a_zip_only_what_is_needed_is_read(cli: Cli, mirror: SourceServer, tmp_path: Path) -> None:
    members = [
        (f"low-resolution/{breed}/n{number:03d}.jpg", data)
        for breed in BREEDS
        for number, (_, data) in enumerate(some_members(400, 20_000))
    ]
    mirror.files["/low-resolution.zip"] = zip_of(members)
    mirror.files["/SHA256SUMS"] = sums(mirror)
    done = cli("-d", "tsinghua", "--mirror", mirror.url, "--limit", "3", "--to", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    ranges = [re.fullmatch(r"bytes=(\d+)-(\d+)", each or "") for each in mirror.ranges("/low-resolution.zip")]
    assert (
        sum(int(each[2]) - int(each[1]) + 1 for each in ranges if each) < len(mirror.files["/low-resolution.zip"]) / 10
    )
    images = {name: data for name, data in dataset_files(tmp_path / "out").items() if "/low-resolution/" in name}
    assert images == {f"tsinghua/{name}": data for name, data in members if name[-7:-4] < "003"}
    (check,) = [
        it["sha256_check"]
        for it in manifest(tmp_path / "out", "tsinghua")["sources"]
        if it["file"] == "low-resolution.zip"
    ]
    assert check == "not compared: not all of it was read"


def manifest(root: Path, data: str = "stanford") -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = json.loads((root / f"_extraction/{data}/manifest.json").read_text())
    return found


# ── one filter after another ─────────────────────────────────────────────────────────────────────


def test_a_wider_run_stores_only_what_is_new(cli: Cli, front: GcsFront, bucket: str) -> None:
    options = ["-a", "--sample", "--to", f"gs://{bucket}"]
    seen = dict[str, tuple[int, int]]()
    for more in (["--limit", "1"], ["--limit", "3"], []):
        done = cli(*options, *more, STORAGE_EMULATOR_HOST=front.url)
        assert done.returncode == 0, done.stderr
        front.reset()
        assert cli(*options, *more, "--verify", STORAGE_EMULATOR_HOST=front.url).returncode == 2 * bool(more)
        now = {name: it for name, it in front.objects(bucket).items() if not name.startswith("_extraction/")}
        assert seen.items() <= now.items()
        seen = now
    assert cli(*options, "--verify", "--deep", STORAGE_EMULATOR_HOST=front.url).returncode == 0


def test_what_is_there_is_not_written_again(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def times() -> dict[str, int]:
        return {
            str(path): path.stat().st_mtime_ns
            for path in out.rglob("*")
            if path.is_file() and "_extraction" not in path.parts
        }

    before = dict[str, int]()
    for more in (["--limit", "2"], ["--limit", "4"], []):
        assert cli("-a", "-d", "oxford", "--sample", "--to", out, *more).returncode == 0
        assert before.items() < times().items() or not before
        before = times()


def test_a_narrower_run_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    assert cli("-b", "--sample", "--limit", "4", "--to", tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = cli("-b", "--sample", "--limit", "2", "--to", tmp_path)
    assert done.returncode == 0 and "holds the first 4 images of each group, of which the first 2 images" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_narrower_run_does_not_mend_what_is_wider(cli: Cli, tmp_path: Path) -> None:
    assert cli("-d", "stanford", "--sample", "--to", tmp_path).returncode == 0
    next(tmp_path.glob("stanford/Images/*/*_6.jpg")).unlink()
    done = cli("-d", "stanford", "--sample", "--limit", "2", "--to", tmp_path)
    assert done.returncode == 1 and "it is not certain that the first 2 images of each group has all" in message(done)
    assert len(list(tmp_path.glob("stanford/Images/*/*"))) == 17


def test_another_filter_is_refused_and_force_puts_it_in_its_place(cli: Cli, tmp_path: Path) -> None:
    options = ["-d", "stanford", "--sample", "--to", tmp_path]
    assert cli(*options, "--include", "*Chihuahua*").returncode == 0
    done = cli(*options, "--include", "*poodle*")
    assert done.returncode == 1 and "holds names like *Chihuahua*, and it is not certain that" in message(done)
    assert cli(*options, "--include", "*poodle*", "--plan").returncode == 1
    assert cli(*options, "--include", "*poodle*", "--force").returncode == 0
    assert all("poodle" in name for name in dataset_files(tmp_path))
    assert cli(*options, "--include", "*poodle*", "--include", "*Chihuahua*").returncode == 0
    assert len(dataset_files(tmp_path)) == 24


# ── interrupted ──────────────────────────────────────────────────────────────────────────────────


def killed(tmp_path: Path, mirror: SourceServer, front: GcsFront, to: str, *options: str) -> None:
    """Kill a run when it has stored a hundred objects."""
    process = subprocess.Popen(
        command("-d", "stanford", "--mirror", mirror.url, "--to", to, *options),
        env=clean_environment(tmp_path, {"STORAGE_EMULATOR_HOST": front.url}),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while front.counts["xml.put"] < 100:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()


@pytest.mark.parametrize("after", [["--limit", "150"], ["--limit", "200"], [], ["--limit", "150", "--workers", "2"]])
def test_a_killed_run_goes_on_with_the_same_or_a_wider_filter(
    cli: Cli,
    mirror: SourceServer,
    shuffled: dict[str, bytes],
    front: GcsFront,
    bucket: str,
    tmp_path: Path,
    after: list[str],
) -> None:
    mirror.plan("/images.tar", Plan(drip=0.001))
    killed(tmp_path, mirror, front, f"gs://{bucket}", "--limit", "150")
    mirror.heal()
    done = cli(
        "-d", "stanford", "--mirror", mirror.url, "--to", f"gs://{bucket}", *after, STORAGE_EMULATOR_HOST=front.url
    )
    assert done.returncode == 0, done.stderr
    without = f"stanford/Annotation/{BREEDS[0]}/a-first-one-without-image"
    count = int(after[1]) if after else 1000
    expected = firsts(count, {name: data for name, data in shuffled.items() if name != without})
    names = {name for name in front.objects(bucket) if not name.startswith("_extraction/") and not name.endswith("/")}
    assert names == {*expected, without}
    assert cli("-d", "stanford", "--verify", "--to", f"gs://{bucket}", STORAGE_EMULATOR_HOST=front.url).returncode == 0


def test_a_killed_run_is_not_made_smaller(
    cli: Cli, mirror: SourceServer, shuffled: dict[str, bytes], front: GcsFront, bucket: str, tmp_path: Path
) -> None:
    mirror.plan("/images.tar", Plan(drip=0.001))
    killed(tmp_path, mirror, front, f"gs://{bucket}")
    mirror.heal()
    before = {name for name in front.objects(bucket) if not name.endswith("/lock")}
    options = ["-d", "stanford", "--mirror", mirror.url, "--to", f"gs://{bucket}", "--limit", "2"]
    done = cli(*options, STORAGE_EMULATOR_HOST=front.url)
    assert done.returncode == 1 and "an unfinished run in gs://" in message(done)
    assert "an unfinished run in gs://" in message(cli(*options, "--plan", STORAGE_EMULATOR_HOST=front.url))
    assert before <= front.objects(bucket).keys()
    assert cli(*options, "--force", STORAGE_EMULATOR_HOST=front.url).returncode == 0
    assert sum("/Images/" in name and name.endswith(".jpg") for name in front.objects(bucket)) == 6


# ── what is said of it ───────────────────────────────────────────────────────────────────────────


def test_a_filtered_dataset_is_verified_and_repaired(cli: Cli, tmp_path: Path) -> None:
    options = ["-a", "-d", "oxford", "--sample", "--to", tmp_path]
    assert cli(*options, "--limit", "2").returncode == 0
    for path in (*tmp_path.glob("stanford/Images/*/*_1.jpg"), *tmp_path.glob("austin/full_quality/1001_*")):
        path.unlink()
    done = cli(*options, "--verify", "--deep")
    assert done.returncode == 3 and "objects of the first 2 images of each group compared" in done.stderr
    assert "the manifest does not" not in done.stderr
    assert cli(*options, "--repair", "--deep").returncode == 0
    assert cli(*options, "--verify", "--deep").returncode == 0


def test_the_card_and_the_summary_say_so(cli: Cli, tmp_path: Path) -> None:
    done = cli("-a", "--sample", "--limit", "1", "--to", tmp_path, "--log-format", "json")
    assert [json.loads(line)["filter"]["limit"] for line in done.stdout.splitlines()] == [1, 1, 1]
    for data in ("stanford", "tsinghua", "austin"):
        page = (tmp_path / f"_extraction/{data}/card.html").read_text()
        assert "not all of it: the first 1 images of each group" in page and "published: " not in page.replace(
            "not published: ", ""
        )
        card = json.loads((tmp_path / f"_extraction/{data}/card.json").read_text())
        assert card["filter"]["limit"] == 1 and not card["labels"]["splits_published"]
    assert (tmp_path / "_extraction/stanford/metadata.csv").read_text().count("\n") == 4


def test_the_plan_counts_what_the_filter_leaves(cli: Cli, tmp_path: Path) -> None:
    done = cli("-d", "tsinghua", "--sample", "--limit", "1", "--to", tmp_path, "--plan", "--log-format", "json")
    planned = json.loads(done.stdout.splitlines()[0])
    assert (planned["objects"], planned["exact"]) == (8, True)
    assert cli("-d", "tsinghua", "--sample", "--limit", "1", "--to", tmp_path).returncode == 0
    assert len(dataset_files(tmp_path)) == 8
    done = cli("-d", "stanford", "--sample", "--limit", "1", "--to", tmp_path, "--plan")
    assert "images.tar: is read twice" in done.stderr and "unknown" in done.stdout
    done = cli("-d", "tsinghua", "--sample", "--limit", "2", "--to", tmp_path, "--plan", "--log-format", "json")
    planned = json.loads(done.stdout.splitlines()[0])
    assert (planned["objects"], planned["there"], planned["to_store"]) == (14, 8, 6)


@pytest.mark.parametrize(
    ("wider", "narrower", "is_certain"),
    [
        (Filter(), Filter(3), True),
        (Filter(4), Filter(3), True),
        (Filter(3), Filter(4), False),
        (Filter(3), Filter(), False),
        (Filter(3), Filter(3, ("a*",)), False),
        (Filter(None, ("a*",)), Filter(3, ("a*",)), True),
        (Filter(None, ("a*", "b*")), Filter(None, ("b*",), ("c*",)), True),
        (Filter(None, ("a*",)), Filter(), False),
        (Filter(None, (), ("a*",)), Filter(None, (), ("b*",)), False),
    ],
)
def test_what_is_wider(wider: Filter, narrower: Filter, is_certain: bool) -> None:
    assert wider.covers(narrower) == is_certain
