"""Tars that mislead a reader, by name: false starts, members that are not stored, attacks."""

from __future__ import annotations

import random

from support.archive_kinds import KINDS
from support.archives import File
from support.tars import BLOCK, SPARSE, SPARSE_1_0, block, extended, member, padded, record

INNER_HUGE = block(b"inner/huge", b"\x80\0\0\0\x7f" + b"\xff" * 7)
FALSE_STARTS = {
    "a tar": KINDS["gnu"].pack([File(f"inner/{i}", bytes([i]) * 700) for i in range(9)]),
    "a tar with long names": KINDS["gnu"].pack([File(f"inner/{i}" * 60, bytes(600)) for i in range(9)]),
    "a tar with pax headers": KINDS["pax-global"].pack([File(f"inner/{i}" * 60, bytes(600)) for i in range(9)]),
    "a cut-off tar": member("inner/a", bytes(700))[:-BLOCK],
    "a tar without end": member("inner/a", bytes(700)) * 2,
    "a header, then noise": block(b"inner/a") + random.Random(5).randbytes(2000),
    "a header of a huge member": INNER_HUGE,
    "a header of a negative size": block(b"inner/a", b"\xff" * 12),
    "a header of a huge name": block(b"inner/a", 1 << 30, b"L") + bytes(2000),
    "a pax header with nonsense": extended(b"x", b"0 path=a\n") + block(b"inner/a"),
    "the first half of a long name": extended(b"L", b"inner/a" * 100)[:BLOCK],
    "an end-of-archive block": bytes(4 * BLOCK),
}
HOLES = "a sparse file: its holes would have to be written out"
REFUSED = {
    "symbolic link": ("a symbolic link to ''", block(b"s", 0, b"2")),
    "hard link": ("a hard link to ''", block(b"s", 0, b"1")),
    "character device": ("a device or pipe", block(b"s", 0, b"3")),
    "block device": ("a device or pipe", block(b"s", 0, b"4")),
    "pipe": ("a device or pipe", block(b"s", 0, b"6")),
    "unknown type": ("of unknown tar type b'Q'", block(b"s", 600, b"Q") + bytes(1024)),
    "GNU sparse": (
        HOLES,
        block(b"s", 5, b"S", magic=b"ustar  ", rest=SPARSE + b"\x0000000001000\0") + padded(b"hello"),
    ),
    "pax sparse 0.1": (
        HOLES,
        extended(b"x", record("GNU.sparse.map", "0,5") + record("GNU.sparse.size", "9")) + member("s", b"hello"),
    ),
    "pax sparse map of nonsense": (HOLES, extended(b"x", record("GNU.sparse.map", "0,x")) + member("s")),
    "pax sparse map of a billion": (
        HOLES,
        extended(b"x", b"".join(record(*pair) for pair in SPARSE_1_0)) + member("s", b"999999999\n" * 99),
    ),
    "star's and Solaris' sparse": (HOLES, extended(b"x", record("SUN.holesdata", " 0 5")) + member("s", b"hello")),
    "pax size of 5,000 digits": (
        f"bad pax header: b'{'9' * 40}'",
        extended(b"x", record("a", "b") + b"9" * 5000 + b" size=1\n") + member("s"),
    ),
    "80,000 digits": (f"bad pax header: b'{'1' * 40}'", extended(b"x", b"1" * 80_000) + member("s")),
    "pax record of no length": ("bad pax header: b'0 path=a\\n'", extended(b"x", b"0 path=a\n") + member("s", b"1")),
    "pax record that is too long": (
        "bad pax header: b'99 path=a\\n'",
        extended(b"x", record("size", "3") + b"99 path=a\n") + block(b"s", 600) + padded(b"abc"),
    ),
    "pax record without a line end, of a folder": (
        "bad pax header: b'9 path=a9'",
        extended(b"x", b"9 path=a9") + block(b"s", 0, b"5"),
    ),
    "pax record without a value, of a link": (
        "bad pax header: b'7 path\\n'",
        extended(b"x", b"7 path\n") + block(b"s", 0, b"1"),
    ),
    "the rest of a file": (
        "the rest of a file that begins in another volume of the archive",
        block(b"s", 600, b"M", magic=b"ustar  ") + bytes(1024),
    ),
    "pax sparse 1.0": (
        HOLES,
        extended(b"x", b"".join(record(*pair) for pair in SPARSE_1_0)) + member("s", padded(b"1\n0\n5\n") + b"hello"),
    ),
}


NEGATIVE, HUGE = (
    b"\xff" * 10 + b"\xfc\0",
    b"\x80\0\0\0\x7f" + b"\xff" * 7,
)  # -1024, and 2^63 - 1: binary numbers, as GNU has them
ATTACKS = {
    "negative size": block(b"a", NEGATIVE),
    "huge size": block(b"a", HUGE),
    "huge size beside a small pax size": extended(b"x", record("size", "9" * 18)) + member("a"),
    "negative pax size": extended(b"x", record("size", "-1024")) + member("a"),
    "sparse map that goes on after the end": block(
        b"a", 0, b"S", magic=b"ustar  ", rest=SPARSE + b"\1" + b"00000001000\0"
    ),
    "5,000 long names": extended(b"L", b"a") * 5000 + member("a"),
    "5,000 pax headers": extended(b"x", record("a", "b")) * 5000 + member("a"),
    "5,000 global headers": extended(b"g", record("a", "b")) * 5000 + member("a"),
    "long name of nothing": extended(b"L", b"a"),
    **{f"negative size of {kind!r}": block(b"a", NEGATIVE, kind) + member("a") for kind in (b"L", b"K", b"x", b"g")},
    **{f"huge size of {kind!r}": block(b"a", HUGE, kind) + member("a") for kind in (b"L", b"K", b"x", b"g")},
    "endless long name": block(b"a", 1 << 32, b"L") + bytes(4 << 20),
}
