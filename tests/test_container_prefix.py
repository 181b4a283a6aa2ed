"""A prefix of a bucket through a mount, in the image as users run it, with the real GCSFuse."""

from __future__ import annotations

import pytest

from support.containers import FUSE, IMAGE, docker, options
from support.fake_gcs import GcsFront

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("image")]
PREFIX = "team/dogs/"


def below(front: GcsFront, bucket: str, prefix: str) -> dict[str, tuple[int, int]]:
    """What was extracted into a prefix, with size and checksum, under the names below it."""
    found = {name.removeprefix(prefix): what for name, what in front.objects(bucket).items() if name.startswith(prefix)}
    return {name: what for name, what in found.items() if name and not name.startswith("_extraction/")}


def test_two_prefixes_through_mounts_of_their_own_with_no_right_on_anything_else(front: GcsFront, bucket: str) -> None:
    front.create_bucket(bucket)
    for prefix, via in ((PREFIX, "mount"), ("team/dog/", "mount"), ("team/api/", "api")):
        front.confine(bucket, prefix)
        for look in ((), ("--verify",)):
            where = options(front, f"{bucket}/{prefix}", SPOTTED_VIA=via)
            done = docker("run", "--rm", *FUSE, *where, IMAGE, "-a", *look)
            assert done.returncode == 0, done.stderr
            assert (f"writing through the mount at /gcs/{bucket}/{prefix[:-1]}" in done.stderr) == (
                via == "mount" and not look
            )
    assert below(front, bucket, PREFIX) == below(front, bucket, "team/dog/") == below(front, bucket, "team/api/")
    assert all(name.startswith((PREFIX, "team/dog/", "team/api/")) for name in front.objects(bucket))
    assert front.outside.keys() == {"json.bucket.get"}


def test_a_mount_of_the_whole_bucket_serves_as_well(front: GcsFront, bucket: str) -> None:
    """As Vertex AI has it; no folder is made outside of the prefix, whether there is something already or not."""
    front.create_bucket(bucket)
    at = f"/gcs/{bucket}"
    mount = f"gcsfuse --implicit-dirs --anonymous-access --custom-endpoint {front.url}/storage/v1/ {bucket} {at}"
    script = f"mkdir {at} && {mount} >/dev/null && python cli.py -d stanford && ls {at}/team/dogs"
    for _ in range(2):
        done = docker("run", "--rm", *FUSE, *options(front, f"{bucket}/{PREFIX}"), IMAGE, "bash", "-c", script)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("\n_extraction\nstanford\n")
        assert [name for name in front.objects(bucket) if not name.startswith(PREFIX)] == []
    assert f"writing through the mount at {at}/{PREFIX[:-1]}" in done.stderr
