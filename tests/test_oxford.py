"""Oxford-IIIT Pet, the dataset that docs/datasets.md adds: two compressed tars, each one stream."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from pathlib import Path

import pytest

from datasets import OXFORD, select
from errors import ArchiveError
from sources import sample
from support.archives import some_members, tar_of
from support.bench import Bench
from support.fake_gcs import GcsFront
from support.program import ROOT, Cli, dataset_files


def test_the_miniature_of_oxford(cli: Cli, tmp_path: Path) -> None:
    done = cli("-d", "oxford", "--sample", "--to", tmp_path)
    assert done.returncode == 0, done.stderr
    expected: dict[str, bytes] = {}
    for archive in OXFORD.archives:
        with tarfile.open(fileobj=io.BytesIO(sample.sources()[archive.file])) as members:
            expected |= {
                archive.prefix + each.name: file.read() for each in members if (file := members.extractfile(each))
            }
        assert f"oxford: {archive.file}: sha256 matches" in done.stderr
    assert dataset_files(tmp_path) == expected
    assert "oxford/annotations/xmls/Maine_Coon_1.xml" in expected and "oxford/images/Abyssinian_4.mat" in expected
    again = cli("-d", "oxford", "--sample", "--to", tmp_path)
    assert again.returncode == 0 and "already complete" in again.stderr


def test_no_group_asks_for_oxford() -> None:
    assert OXFORD not in select(["breed", "individual"], [])
    assert select([], ["oxford"]) == [OXFORD]


def test_a_stream_that_was_broken_off_begins_again_and_stores_nothing_twice(api_bench: Bench, front: GcsFront) -> None:
    members = some_members(300, 10_000)
    whole = gzip.compress(tar_of(members), mtime=0)
    with pytest.raises(ArchiveError, match=r"a\.tar\.gz: not a whole \.gz file"):
        api_bench.extract(api_bench.dataset(a_tar_gz=whole[: len(whole) // 2]))
    assert 100 < len(api_bench.objects()) < 300
    assert api_bench.extract(api_bench.dataset(a_tar_gz=whole, pin=True)).state == "complete"
    assert api_bench.objects() == dict(members)
    twice = {name for name, puts in front.puts.items() if puts > 1}
    assert {name for name in twice if not name.endswith(("/lock", "/journal/begun.json"))} == set()


def test_the_document_shows_the_dataset_as_it_is() -> None:
    document = (ROOT / "docs/datasets.md").read_text()
    code = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    assert len(code) == 1 and code[0] in (ROOT / "datasets.py").read_text()
