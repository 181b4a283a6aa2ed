"""Datasets of a TOML file: the whole job with them, and one line for each mistake in the file."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from commands.command_line import parse
from datasets import DATASETS, Archive, Layout
from errors import UsageError
from pipeline.shards import FOLDER
from sources.datasets_file import TAKEN, read_datasets
from storage.bucket import METADATA_PREFIX
from support.archives import tar_of
from support.program import Cli, message

SEVEN_LINES = """\
[flowers]
title = "Flowers of the garden"
[[flowers.archives]]
url = "{url}"
[flowers.layout]
images = "flowers/jpg/"
annotation = "flowers/xml/{{stem}}.xml"
"""
SHA256 = "ab" * 32
ARCHIVE = "[[flowers.archives]]\nurl = 'http://x/a.tar'\n"
TABLES = "[flowers.tables]\ndogs = 'http://x/d.csv'\nphotos = 'http://x/p.csv'\n"
LAYOUT = "[flowers.layout]\nimages = 'flowers/'\nannotation = 'x.xml'\n"
WRONG = {
    "[stanford]\n": "[stanford]: expected a new name of letters, digits, - and _, got 'stanford'",
    '["a b"]\n': "[a b]: expected a new name",
    "flowers = 3\n": "[flowers]: expected a table, got 3",
    "[flowers]\n": "[flowers]: expected either archives or one table named tables, got []",
    "[flowers]\ntitel = 'x'\n": "[flowers]: expected only title, folder, home, licence, citation, creator, published, ",
    "[flowers]\ntitle = 7\n" + ARCHIVE: "[flowers]: expected title: a text, got 7",
    "[flowers]\nfolder = '../x/'\n" + ARCHIVE: "folder: a path in the bucket that ends with /, outside of",
    "[flowers]\nfolder = '_extraction/'\n" + ARCHIVE: "/, outside of _extraction/ and shards/, got '_extraction/'",
    "[flowers]\nfolder = 'shards/stanford/'\n" + ARCHIVE: "outside of _extraction/ and shards/, got 'shards/stanford/'",
    "[shards]\n": "[shards]: expected folder: a path in the bucket that ends with /, outside of ",
    "[[flowers.archives]]\n": "[flowers.archives]: expected url: a text, got None",
    "[[flowers.archives]]\nurls = []\n": "[flowers.archives]: expected urls: a list of URLs or paths, got []",
    "[[flowers.archives]]\nurl = 'http://x/'\n": "file: a file's name, which its URL does not end with, got ''",
    ARCHIVE + "sha256 = 'f00'\n": "sha256: 64 hexadecimal digits, got 'f00'",
    ARCHIVE + "size = -1\n": "size: a number of bytes or objects, got -1",
    ARCHIVE + "prefix = 'dogs/'\n": "prefix: a path in the bucket that ends with /, in flowers/, got 'dogs/'",
    ARCHIVE + LAYOUT: "annotation: a path with {name} or {stem} in it, got 'x.xml'",
    "[flowers.tables]\ndogs = 'http://x/d.csv'\n": "[flowers.tables]: expected photos: a text, got None",
    TABLES
    + "image_prefix = 'dogs/'\n": "image_prefix: a path in the bucket that ends with /, in flowers/, got 'dogs/'",
    "[flowers\n": "not a TOML file: ",
}


def written(path: Path, text: str) -> Path:
    file = path / "my.toml"
    file.write_text(text)
    return file


def test_the_tools_own_places_are_taken() -> None:
    assert TAKEN == (METADATA_PREFIX, FOLDER)


def test_seven_lines_are_a_dataset(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "flowers.tar").write_bytes(tar_of([("jpg/rose_1.jpg", b"\xff\xd8rose\xff\xd9"), ("readme", b"hello")]))
    file = written(tmp_path, SEVEN_LINES.format(url=(tmp_path / "flowers.tar").as_uri()))
    done = cli("-d", "flowers", "--datasets-file", file, "--to", tmp_path / "out")
    assert done.returncode == 0 and "flowers: complete: 2 objects" in done.stderr, done.stderr
    assert (tmp_path / "out/flowers/readme").read_bytes() == b"hello"
    card = (tmp_path / "out/_extraction/flowers/card.html").read_text()
    assert "Flowers of the garden" in card and not re.search("<dt>|<h2>About", card)
    again = cli("-d", "flowers", "--verify", "--to", tmp_path / "out", SPOTTED_DATASETS_FILE=str(file))
    assert again.returncode == 0, again.stderr
    described = json.loads((tmp_path / "out/_extraction/flowers/croissant.json").read_text())
    assert described["name"] == "flowers" and not described.keys() & {"url", "license", "citeAs", "creator"}
    with (tmp_path / "out/_extraction/flowers/metadata.csv").open() as table:
        assert [line["path"] for line in csv.DictReader(table)] == ["flowers/jpg/rose_1.jpg"]


def test_a_dataset_without_a_layout_has_no_table(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "flowers.tar").write_bytes(tar_of([("jpg/rose_1.jpg", b"\xff\xd8rose\xff\xd9"), ("readme", b"hello")]))
    without = SEVEN_LINES.partition("[flowers.layout]")[0].replace('title = "Flowers of the garden"\n', "")
    file = written(tmp_path, without.format(url=(tmp_path / "flowers.tar").as_uri()))
    for command in ((), (), ("--verify",), ("--repair", "--deep"), ("--force",)):
        done = cli("-d", "flowers", "--datasets-file", file, "--to", tmp_path / "out", *command)
        assert done.returncode == 0 and "metadata.csv" not in done.stderr, done.stderr
    names = {path.name for path in (tmp_path / "out/_extraction/flowers").iterdir()}
    assert "manifest.csv" in names and not names & {"metadata.csv", "metadata.jsonl", "croissant.json"}


def test_datasets_of_the_file_share_folders_with_others(cli: Cli, tmp_path: Path) -> None:
    """What another dataset stored in the folder, or below it, is no stranger, and stays when a source changes."""
    text = ""
    for name, folder in (("flowers", "stanford/"), ("roses", "stanford/roses/")):
        (tmp_path / f"{name}.tar").write_bytes(tar_of([(f"{name}.jpg", b"\xff\xd8rose\xff\xd9")]))
        text += f"[{name}]\nfolder = '{folder}'\n[[{name}.archives]]\nurl = '{tmp_path}/{name}.tar'\n"
    out, mine = tmp_path / "out", ("--datasets-file", written(tmp_path, text))
    assert cli("-d", "stanford", "--sample", "--to", out).returncode == 0
    for name in ("flowers", "roses"):
        done = cli("-d", name, *mine, "--to", out)
        assert done.returncode == 0 and "left by a run on an older source" not in done.stderr, done.stderr
    for command in (("--verify",), ("--repair",), ("--verify", "--deep")):
        done = cli("-d", "flowers", "-d", "roses", *mine, *command, "--to", out)
        assert done.returncode == 0 and done.stderr.count(" 0 extra") == 2, done.stderr
    done = cli("-d", "stanford", *mine, "--verify", "--to", out)
    assert done.returncode == 0 and " 0 extra" in done.stderr, done.stderr
    (tmp_path / "flowers.tar").write_bytes(tar_of([("tulip.jpg", b"\xff\xd8tulip\xff\xd9")]))
    assert cli("-d", "flowers", *mine, "--to", out, "--force").returncode == 0
    assert (out / "stanford/roses/roses.jpg").exists() and len([*(out / "stanford/Images").iterdir()]) > 1


def test_every_field_is_read(tmp_path: Path) -> None:
    text = f"""
        [pets]
        title = "Pets"
        folder = "pets/v1/"
        home = "https://pets.example/"
        creator = "The pets"
        published = "2024"
        objects = 5
        [[pets.archives]]
        urls = ["https://pets.example/a.zip.1", "https://pets.example/a.zip.2"]
        file = "a.zip"
        prefix = "pets/v1/data/"
        size = 7
        sha256 = "{SHA256.upper()}"
        objects = 5
        [pets.layout]
        images = "pets/v1/data/images/"
        annotation = "pets/v1/data/xml/{{name}}.xml"
        photos = 2
        groups = 1
        grouped_by = "cat"
    """
    pets = read_datasets(written(tmp_path, text))["pets"]
    parts = ("https://pets.example/a.zip.1", "https://pets.example/a.zip.2")
    assert pets.archives == (Archive(parts, "pets/v1/data/", "a.zip", 7, SHA256, 5),)
    assert pets.layout == Layout("pets/v1/data/images/", "pets/v1/data/xml/{name}.xml", 2, 1, "cat")
    assert (pets.title, pets.folder, pets.home, pets.licence, pets.creator, pets.published, pets.objects) == (
        "Pets", "pets/v1/", "https://pets.example/", "", "The pets", "2024", 5,
    )  # fmt: skip


def test_the_list_shows_them_and_the_groups_do_not_have_them(cli: Cli, tmp_path: Path) -> None:
    file = str(written(tmp_path, SEVEN_LINES.format(url="https://flowers.example/flowers.tar")))
    assert cli("--list", "-d", "flowers", "--datasets-file", file).stdout == (
        "flowers: Flowers of the garden\n  options  -d flowers\n"
        "  size     not known before it is planned (--plan)\n  objects  not known before it is extracted\n\n"
    )
    listed = parse(["--list", "--datasets-file", file], {}).datasets
    assert [it.name for it in listed] == [*DATASETS, "flowers"]
    assert [it.name for it in parse(["-a", "--datasets-file", file], {}).datasets] == ["stanford", "tsinghua", "austin"]


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_in_the_file_is_one_line(text: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UsageError) as error:
        read_datasets(file)
    assert str(error.value).startswith(f"{file}: ") and WRONG[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(cli: Cli, tmp_path: Path) -> None:
    done = cli("-a", "--datasets-file", tmp_path / "none.toml")
    assert done.returncode == 2
    assert message(done) == f"error: --datasets-file {tmp_path}/none.toml: cannot be read: No such file or directory"
    (tmp_path / "latin.toml").write_bytes(b'[caf\xe9]\ntitle = "x"\n')
    assert "latin.toml: not a TOML file: " in message(cli("-a", "--datasets-file", tmp_path / "latin.toml"))
