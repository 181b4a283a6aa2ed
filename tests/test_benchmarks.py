"""What could be wrong in the benchmarks' own arithmetic and inputs; that they run is seen by running them."""

from __future__ import annotations

import csv
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import pytest

import chart
import forecast
import inputs
import limits
import measure
import mounting
import render
import ways
from course import free_port, running
from pipeline.context import CONCURRENT_PHOTOS

HERE = Path(render.__file__).parent
FIGURES = measure.Figures(2.0, 1.0, 0.5, 100_000_000, 0, 1010, 5, 1010)
LIMIT = limits.Limit(1.0, "delay")


def test_an_input_is_the_same_every_time_and_has_the_shape_that_it_says(tmp_path: Path) -> None:
    one, two = (inputs.build(tmp_path / name, 0.001) for name in ("one", "two"))
    assert one == two and one.objects == 2 * 21 + 3
    for name in inputs.ARCHIVES:
        assert (tmp_path / "one/0.001" / name).read_bytes() == (tmp_path / "two/0.001" / name).read_bytes()
    with tarfile.open(tmp_path / "one/0.001/images.tar") as archive:
        assert [info.size for info in archive if info.isfile()] == list(inputs.sizes(21))
        photo = archive.extractfile(archive.getmembers()[-1])
        assert photo and photo.read(3) == b"\xff\xd8\xff"


def test_the_photos_are_as_large_as_those_of_stanford() -> None:
    assert sum(inputs.sizes(inputs.MEMBERS)) == pytest.approx(782e6, rel=0.02)


@pytest.mark.parametrize(
    ("change", "seconds", "by"),
    [
        ({"source_rate": 1e6}, 80.0, "source"),
        ({"delay": 0.5, "in_flight": 100}, 5.0, "delay"),
        ({"cpu": 0.008, "cores": 4}, 2.0, "CPU"),
        ({}, 0.5, "CPU"),
    ],
)
def test_the_limit_is_the_longest_of_three(change: dict[str, float], seconds: float, by: str) -> None:
    conditions = limits.Conditions(source_rate=1e9, delay=0.05, in_flight=256, cpu=0.001, cores=2)._replace(**change)  # type: ignore[arg-type]
    found = limits.limit(1000, 80_000_000, conditions)
    assert found.seconds == pytest.approx(seconds) and found.by == by


def test_a_row_is_the_median_of_its_runs(tmp_path: Path) -> None:
    runs = [FIGURES._replace(wall=wall) for wall in (2.0, 9.0, 1.0)]
    found = render.row("setting", "way", 1.0, 1000, 4_000_000, runs, LIMIT)
    assert (found.seconds, found.seconds_least, found.seconds_most) == (2.0, 1.0, 9.0)
    assert (found.objects_per_second, found.bytes_per_second, found.cpu_per_1000) == (500, 2e6, 1.0)
    assert (found.class_a_per_object, found.times_limit) == (1.01, 2.0)
    render.write_csv(tmp_path / "rows.csv", [found, found])
    with (tmp_path / "rows.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 and lines[0]["way"] == "way" and float(lines[0]["seconds_most"]) == 9.0


def test_a_table_has_as_many_cells_in_every_line_and_compares_with_the_first() -> None:
    rows = [render.row("s", name, 1.0, 1000, 4_000_000, [FIGURES._replace(wall=wall)], LIMIT)
            for name, wall in (("this tool", 2.0), ("other", 30.0))]  # fmt: skip
    lines = render.markdown(rows, "Title").splitlines()[2:]
    assert {line.count("|") for line in lines} == {len(render.HEADER) + 1}
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["1.0 times", "15.0 times"]


def test_calls_are_counted_by_their_price() -> None:
    requests = {"xml PUT": 10, "upload multipart": 5, "json GET objects": 2, "json GET object": 3, "xml GET": 1,
                "json DELETE object": 7}  # fmt: skip
    assert measure.price_classes(requests) == (17, 4)


def test_requests_on_a_mount_are_inserts_look_ups_and_others() -> None:
    requests = {"xml PUT": 2, "upload multipart": 10, "json GET object": 10, "json GET objects": 11, "xml GET": 1,
                "json DELETE object": 1, "json GET bucket": 1, "puts": 12}  # fmt: skip
    assert mounting.by_kind(Counter(requests)) == (12, 22, 1)


def test_a_flag_of_the_mount_is_left_out(tmp_path: Path) -> None:
    wrapper = tmp_path / "gcsfuse"
    wrapper.write_text(mounting.WRAPPER.format(gcsfuse="/bin/echo"))
    flags = ["--stat-cache=1", "--implicit-dirs", "a bucket", "/a place"]
    for left_out, said in (("--stat", "--implicit-dirs a bucket /a place"), ("", " ".join(flags))):
        done = subprocess.run(
            ["bash", wrapper, *flags], env={"LEFT_OUT": left_out}, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{said}\n"


def test_a_run_counts_the_processes_that_it_starts_and_what_they_leave_on_disk(tmp_path: Path) -> None:
    port = free_port()
    with running(sys.executable, str(HERE / "bucket_server.py"), str(port), port=port) as server:
        bucket = measure.Bucket(f"http://127.0.0.1:{port}", server)
        put = f"import urllib.request as u; u.urlopen(u.Request('{bucket.url}/bench/name', b'x', method='PUT'))"
        hold = "import time; held = bytearray(60_000_000); time.sleep(1)"
        script = f'{sys.executable} -c "{put}"; head -c 5000000 /dev/zero > file; {sys.executable} -c "{hold}"'
        found = measure.run(script, {"PATH": "/usr/bin:/bin"}, tmp_path, bucket)
        assert (found.puts, found.class_a, found.class_b) == (1, 1, 0)
        assert found.memory > 60_000_000 and found.disk >= 5_000_000 and found.wall > 1
        with pytest.raises(measure.Failed, match="exit status 3: why"):
            measure.run("echo why >&2; exit 3", {"PATH": "/usr/bin:/bin"}, tmp_path, bucket)


def test_the_limited_source_keeps_its_pace_over_all_requests_of_a_connection(tmp_path: Path) -> None:
    data = bytes(range(256)) * 400
    (tmp_path / "file").write_bytes(data)
    port = free_port()
    with running(sys.executable, str(HERE / "file_server.py"), str(port), str(tmp_path), "--rate", "2e5", port=port):
        connection, begin = HTTPConnection("127.0.0.1", port), time.monotonic()
        parts = [read(connection, "/file", ends) for ends in ("0-49999", "50000-")]
        assert time.monotonic() - begin > 0.45  # 102,400 bytes
        assert parts == [(206, data[:50_000]), (206, data[50_000:])]
        assert read(connection, "/file", "") == (200, data)
        assert read(connection, "/../ways.py", "")[0] == 404
        connection.close()


def read(connection: HTTPConnection, path: str, ends: str) -> tuple[int, bytes]:
    connection.request("GET", path, headers={"Range": f"bytes={ends}"} if ends else {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_every_way_of_the_matrix_is_one_that_there_is_and_the_first_is_this_tool() -> None:
    for setting in ways.SETTINGS:
        assert setting.shares.keys() <= ways.WAYS.keys()
        assert "this tool" in ways.WAYS[next(iter(setting.shares))].title


@pytest.mark.parametrize(
    ("objects", "rate", "minutes"),
    [
        (600_000, 1000, 10),  # below the ramp
        (600_000, 5000, 10),  # the ramp is the limit
        (1_200_000 + 2_400_000 + 1_200_000, 1e9, 20 + 20 + 5),
        (1_200_000 + 600_000, 1500, 20 + 6 + 2 / 3),
    ],
)
def test_a_bucket_takes_a_thousand_a_second_and_doubles_that_every_twenty_minutes(
    objects: float, rate: float, minutes: float
) -> None:
    assert forecast.ramp_seconds(objects, rate) == pytest.approx(60 * minutes)


@pytest.mark.parametrize(
    ("size", "cores", "rate", "by"),
    [(50_000_000, 2, 1600, "source"), (1000, 2, 4000, "CPU"), (1000, 64, 5120, "delay")],
)
def test_a_worker_is_held_back_by_the_scarcest(size: float, cores: int, rate: float, by: str) -> None:
    cost = forecast.Cost(of_object=0.0005, of_byte=1e-8, of_photo=0.002, class_a=1.0, class_b=0.0)
    found = forecast.worker_rate(forecast.Job("", 1000, size), cost, cores)
    assert found[0] == pytest.approx(rate, rel=0.001) and found[1] == by


def test_photos_are_held_back_by_the_requests_to_their_servers() -> None:
    cost = forecast.Cost(of_object=1.0, of_byte=1.0, of_photo=0.00001, class_a=1.0, class_b=0.0)
    found = forecast.worker_rate(forecast.Job("", 1000, 1e9, is_photos=True), cost, 2)
    assert found[0] == pytest.approx(2 * CONCURRENT_PHOTOS / 0.05) and found[1] == "delay"


def test_a_chart_is_xml_with_a_bar_and_a_value_for_each_way() -> None:
    bars = [chart.Bar("this <tool>", 2900, True), chart.Bar("other", 190, False, "(15 times slower)")]
    root = ET.fromstring(chart.chart("Title", "subtitle", bars, (3800, "the limit")))
    widths = [float(bar.get("width", 0)) for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] / widths[1] == pytest.approx(2900 / 190, rel=0.01)
    assert "2,900" in "".join(root.itertext()) and "this <tool>" in "".join(root.itertext())
