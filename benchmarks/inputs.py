"""The inputs, seeded: the same scale gives the same bytes on every machine.

The shape is Stanford's: images.tar with 20,580 photos of 120 breeds, 0.8 GB; annotation.tar with as many files of half
a kilobyte; lists.tar with three.
"""

import hashlib
import io
import random
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

MEMBERS, PER_FOLDER, MEAN = 20_580, 172, 38_000  # of Stanford's images.tar, and its files' mean size in bytes
LISTS = 3  # files of lists.tar
ZIP = "zip/all.zip"
ARCHIVES = ("annotation.tar", "images.tar", "lists.tar")
JPEG = b"\xff\xd8\xff\xfe", b"\xff\xd9"  # how one begins and ends
File = tuple[str, bytes]


class Input(NamedTuple):
    """What every way has to bring: how many files, and how many bytes the archives have."""

    folder: str  # of the archives, below the servers' root
    objects: int
    size: int


def build(root: Path, scale: float) -> Input:
    """Write the archives for `scale` into a folder of `root`, with their SHA256SUMS; what is there already is taken."""
    folder, count = root / f"{scale:g}", round(MEMBERS * scale)
    if not (folder / "SHA256SUMS").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_tar(folder / "images.tar", photos(count))
        write_tar(folder / "annotation.tar", notes(count))
        write_tar(folder / "lists.tar", ((f"{name}.mat", bytes(150_000)) for name in ("file", "test", "train")))
        write_sums(folder)
    return Input(folder.name, 2 * count + LISTS, sum((folder / name).stat().st_size for name in ARCHIVES))


def build_small(root: Path, members: int, size: int) -> Input:
    """The same with `members` files of `size` bytes in images.tar, and nothing in the other archives."""
    folder = root / f"small-{members}"
    folder.mkdir(parents=True, exist_ok=True)
    data = random.Random(members).randbytes(size)
    write_tar(folder / "images.tar", ((photo_name(number), data) for number in range(members)))
    for name in ("annotation.tar", "lists.tar"):
        write_tar(folder / name, ())
    write_sums(folder)
    return Input(folder.name, members, (folder / "images.tar").stat().st_size)


def photo_name(number: int) -> str:
    return f"Images/n{number // PER_FOLDER:08d}-breed/n{number:08d}.jpg"


def sizes(count: int) -> Iterator[int]:
    """How large the photos are, in bytes; distributed as Stanford's."""
    rng = random.Random(0)
    for _ in range(count):
        yield round(min(max(rng.lognormvariate(0, 0.5) * MEAN * 0.88, 3000), 1_500_000))


def photos(count: int) -> Iterator[File]:
    """Random bytes between a JPEG's first and last."""
    rng, (begin, end) = random.Random(1), JPEG
    for number, size in enumerate(sizes(count)):
        yield photo_name(number), begin + rng.randbytes(size - len(begin) - len(end)) + end


def notes(count: int) -> Iterator[File]:
    """An annotation for each photo."""
    rng = random.Random(2)
    for number in range(count):
        name = photo_name(number).replace("Images", "Annotation", 1).removesuffix(".jpg")
        boxes = " ".join(str(rng.randrange(500)) for _ in range(rng.randint(40, 100)))
        yield name, f"<annotation>\n\t<folder>{name}</folder>\n\t<box>{boxes}</box>\n</annotation>\n".encode()


def write_tar(path: Path, files: Iterable[File]) -> None:
    """A tar with an entry for each folder, as the published ones have or have not."""
    folders = set[str]()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files:
            folder = name.rpartition("/")[0]
            if folder and folder not in folders:
                folders.add(folder)
                about = tarfile.TarInfo(folder)
                about.type, about.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(about)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all, a million too


def write_zip(folder: Path) -> None:
    """The same files in one zip, stored: rclone's archive backend reads no tar, and of a server only what its
    listings of folders show (https://rclone.org/archive/)."""
    (folder / ZIP).parent.mkdir()
    with zipfile.ZipFile(folder / ZIP, "w") as archive:
        for name in ARCHIVES:
            with tarfile.open(folder / name) as source:
                for info in filter(tarfile.TarInfo.isfile, source):
                    file = source.extractfile(info)
                    archive.writestr(zipfile.ZipInfo(info.name), file.read() if file else b"")


def write_sums(folder: Path) -> None:
    lines = []
    for name in ARCHIVES:
        with (folder / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))
