"""Archives that no honest program wrote, put through the readers, and what must hold of each of them.

`check` is the property; `mutate` makes one archive into a slightly wrong one. test_hostile_inputs.py runs a few
thousand of them in each run of the tests; `make fuzz` runs this module under atheris, which looks for inputs that reach
new code.
"""

from __future__ import annotations

import bz2
import gc
import gzip
import hashlib
import io
import lzma
import os
import random
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

from archives import kinds
from archives.zip import Zip
from errors import ArchiveError
from storage.names import object_name
from support import libarchive
from support.archive_kinds import KINDS, SOUND
from support.archives import SPANS, Got, Memory, extract
from support.attacks import ATTACKS, FALSE_STARTS, REFUSED
from support.tars import END, member

BLOCK = 512
LONGEST = 16 * BLOCK  # bytes of an input; all that the readers decide is decided in less
PREFIX = "mini/"
BOUNDS = [f"-max_len={LONGEST + 2}", "-timeout=10", "-rss_limit_mb=256"]  # seconds for an input, memory for them all
READERS = ("archives", "tarfile")  # packages whose code the search is to reach
PACKERS: list[Callable[[bytes], bytes]] = [
    bytes,
    bytes,
    bytes,
    lambda data: gzip.compress(data, 1),
    lambda data: bz2.compress(data, 1),
    lambda data: lzma.compress(data, preset=0),
]


# ── what must hold ───────────────────────────────────────────────────────────────────────────────


def check(data: bytes) -> None:
    """For any bytes: members that may be stored, rightly read, or an error that says what is wrong.

    The first two bytes choose how it is read: the length of the spans, and what it is compressed with.
    """
    first, second = data[:2].ljust(2, b"\0")
    packed = PACKERS[second % len(PACKERS)](data[2:])
    try:
        found = extract(packed, SPANS[first % len(SPANS)], seed=first // len(SPANS))
    except ArchiveError as error:
        if not str(error).isprintable():
            raise AssertionError("an error that draws on the terminal") from error
        return
    for got in found:
        check_name(got)
    is_zip = kinds.plan(Memory(packed))[0].kind == Zip()
    (check_zip if is_zip else check_tar)(packed, found)


def check_name(got: Got) -> None:
    """What becomes an object is below the prefix, and has a name that a bucket takes."""
    path, refusal = object_name(PREFIX, got.name)
    path.encode()
    assert path.isprintable() or not refusal
    if refusal or got.refusal:
        return
    assert path.startswith(PREFIX)
    assert path == os.path.normpath(path) + "/" * path.endswith("/")
    assert len(path.encode()) <= 1024
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", path)


def check_tar(packed: bytes, found: list[Got]) -> None:
    """The members are those that libarchive finds, in its order, as far as it comes; or else those of GNU tar.

    They read some headers differently: a sparse map without its type, data behind a hard link, a damaged pax header.
    """
    if any("sparse" in got.refusal for got in found):  # whose maps are not read here
        return
    judged, error = libarchive.members(packed)
    if any(judge.link and judge.data for judge in judged):  # GNU tar has none there, and goes on elsewhere
        return
    counts = len(found) == len(judged) or (error and len(found) > len(judged))
    pairs = zip(found, judged[:-1] if error else judged, strict=False)
    if not (counts and all(_is_same(got, judge) for got, judge in pairs)):
        names = [got.name.rstrip("/") for got in found]
        listed, is_whole = _gnu_names(packed)
        assert len(names) == len(listed) or (not is_whole and len(names) > len(listed)), (names, listed, judged)
        for name, other in zip(names, listed, strict=False):  # it takes no prefix where the magic number is not POSIX's
            assert name == other or name.endswith(f"/{other}"), (names, listed, judged)


def _is_same(got: Got, judge: libarchive.Found) -> bool:
    if got.data is None or got.name.endswith("/"):  # a dump directory has a list as data
        return got.name.rstrip("/") == judge.name.rstrip("/")
    return got.name == judge.name and (got.data == judge.data or not (any(got.data) or judge.data))


def _gnu_names(packed: bytes) -> tuple[list[str], bool]:
    """The members that GNU tar lists, and whether it finds no fault."""
    command = ["tar", "--list", "--absolute-names", "--quoting-style=literal", "--file=-"]
    done = subprocess.run(command, input=_plain(packed), capture_output=True, check=False)
    lines = done.stdout.decode("utf-8", "surrogateescape").splitlines()
    return [name.rstrip("/") for name in lines], done.returncode == 0


def _plain(packed: bytes) -> bytes:
    unpack = {b"\x1f\x8b": gzip.decompress, b"BZ": bz2.decompress, b"\xfd7": lzma.decompress}.get(packed[:2], bytes)
    return unpack(packed)


def check_zip(packed: bytes, found: list[Got]) -> None:
    """What is stored has a CRC-32 that the directory lists; zipfile reads the same bytes of the same member."""
    files = [got for got in found if got.data is not None and not got.name.endswith("/")]
    assert all(struct.pack("<I", zlib.crc32(got.data or b"")) in packed for got in files)
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            read = {got.name: _zip_read(archive, got.name) for got in files}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error):
        return  # zipfile refuses a whole archive for one bad record, and then there is nothing to compare with
    names = [got.name for got in files]  # zipfile stops at a bad record, so it may lack members
    assert all(got.data in read[got.name] or len(read[got.name]) < names.count(got.name) for got in files)


def _zip_read(archive: zipfile.ZipFile, name: str) -> list[bytes]:
    """What zipfile reads of this name; nothing where it finds fault with one, as with a local header's other name."""
    try:
        return [archive.read(info) for info in archive.infolist() if info.filename == name]
    except (  # what zipfile raises for a damaged member, or for a method that it does not support
        zipfile.BadZipFile,
        EOFError,
        UnicodeDecodeError,
        NotImplementedError,
        RuntimeError,
        OverflowError,
        zlib.error,
    ):
        return []


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────


def seeds() -> list[bytes]:
    """Where the search begins: sound archives of all kinds, and the attacks that the tests know by name."""
    sound = [kind.pack(SOUND[:5]) for kind in KINDS.values()]
    tars = [member("before") + attack[: 8 * BLOCK] + END for attack in ATTACKS.values()]
    tars += [member("a", b"1") + entry + member("b", b"2") + END for _, entry in REFUSED.values()]
    tars += [KINDS["ustar"].pack(SOUND[1:2]) + start for start in FALSE_STARTS.values()]
    return [bytes([index % 256, 0]) + data[:LONGEST] for index, data in enumerate(sound + tars)]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes, after which the checksums of tar headers are right again, mostly."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        rng.choice((_flip, _set_number, _set_text, _move_block, _drop_block, _cut))(out, rng)
    if rng.random() < 0.1:
        out[1:2] = bytes([rng.randrange(len(PACKERS))])
    return mended(out, rng)[: LONGEST + 2]


def mended(out: bytearray, rng: random.Random) -> bytes:
    """With right checksums in what looks like tar headers; nine times of ten, for a wrong one ends everything."""
    if rng.random() < 0.9:
        for at in range(2, len(out) - BLOCK + 1, BLOCK):
            if re.fullmatch(rb"[ 0-7\0]{8}", out[at + 148 : at + 156]) and any(out[at + 148 : at + 156]):
                out[at + 148 : at + 156] = b" " * 8
                out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + BLOCK])
    return bytes(out)


NUMBERS = [0, 1, 2, 5, 8, 255, 511, 512, 513, 1024, 2048, 0xFFFF, 0x7FFFFFFF, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]
NAMES = [b"../", b"/", b"\\", b"\0", b"\n", b"./", b"C:", b"\x1b[2J", b"\xff\xfe", b"e\xcc\x81", b"\xc3\xa9"]
MAGIC = [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"ustar\x0000", b"ustar  \0"]
PAX = [b"12 path=../a\n", b"9 size=9\n", b"22 GNU.sparse.major=1\n", b"19 hdrcharset=BINARY\n"]
BINARY = [b"-1", b"\x80" + bytes(11), b"\xff" * 12, bytes(BLOCK)]  # numbers as GNU tar writes large ones
TEXTS = [*NAMES, *MAGIC, *PAX, *BINARY, *(bytes([kind]) for kind in b"0123456 7SLKxgXD")]
FIELDS = [0, 99, 100, 124, 135, 148, 156, 157, 257, 263, 329, 345, 386, 482, 483, 495]  # of a tar header, in bytes


def _place(out: bytearray, rng: random.Random) -> int:
    """Where something is decided: in a field of a tar header, near a record of a zip, or anywhere."""
    records = [found.start() for found in re.finditer(rb"PK[\1-\7][\2-\10]", out)]
    if records and rng.random() < 0.8:
        return min(rng.choice(records) + rng.randrange(56), len(out))
    if rng.random() < 0.8:
        return min(2 + rng.randrange(max(len(out) // BLOCK, 1)) * BLOCK + rng.choice(FIELDS), len(out))
    return rng.randrange(len(out) + 1)


def _flip(out: bytearray, rng: random.Random) -> None:
    at = _place(out, rng)
    out[at : at + 1] = bytes([rng.randrange(256)])


def _set_number(out: bytearray, rng: random.Random) -> None:
    at, number = _place(out, rng), rng.choice(NUMBERS)
    text = rng.choice((struct.pack("<Q", number)[: rng.choice((2, 4, 8))], b"%011o\0" % number, b"%d" % number))
    out[at : at + len(text)] = text


def _set_text(out: bytearray, rng: random.Random) -> None:
    at, text = _place(out, rng), rng.choice(TEXTS)
    out[at : at + rng.choice((len(text), 0))] = text


def _move_block(out: bytearray, rng: random.Random) -> None:
    source, target = (2 + rng.randrange(len(out) // BLOCK + 1) * BLOCK for _ in range(2))
    out[target : target + rng.choice((0, BLOCK))] = out[source : source + BLOCK]


def _drop_block(out: bytearray, rng: random.Random) -> None:
    at = 2 + rng.randrange(len(out) // BLOCK + 1) * BLOCK
    del out[at : at + BLOCK]


def _cut(out: bytearray, rng: random.Random) -> None:
    if rng.random() < 0.2:
        del out[rng.randrange(len(out) + 1) :]


# ── atheris ──────────────────────────────────────────────────────────────────────────────────────


def main(corpus: Path, options: list[str]) -> None:
    """Search from what is in `corpus` on, for as long as `options` say (-runs=, -max_total_time=).

    What breaks a promise, takes ten seconds or makes the program larger than BOUNDS allow ends it, with an error;
    the input is kept beside the corpus.
    """
    import atheris

    for function in gc.get_objects():
        if isinstance(function, FunctionType) and str(function.__module__).partition(".")[0] in READERS:
            atheris.instrument_func(function)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number:03d}").write_bytes(seed)

    def custom(data: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        out = bytearray(data) if rng.random() < 0.6 else bytearray(atheris.Mutate(data, longest))
        return mutate(bytes(out), rng)[:longest] if rng.random() < 0.8 else mended(out, rng)[:longest]

    def kept(data: bytes) -> None:
        try:
            check(data)
        except BaseException:
            (corpus.parent / f"find-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise

    atheris.Setup([sys.argv[0], *BOUNDS, *options, str(corpus)], kept, custom_mutator=custom)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
