"""Prepares stdin, stdout and stderr, which may be closed, full, or not UTF-8."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO, cast


def prepare() -> None:
    """Open closed streams, whose numbers a connection would get otherwise; escape what an encoding lacks."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the smallest free number
    sys.stdout = sys.stdout or cast(TextIO, open(os.devnull, "w"))  # noqa: SIM115 - to the end of the program
    sys.stderr = sys.stderr or cast(TextIO, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write out what was printed. Raises OSError, after which nothing more is written."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()
        raise


def discard_output() -> None:
    """Discard what was printed, which Python would try to write again at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def use_utf8() -> None:
    """Restart the program with UTF-8 if file names have another encoding."""
    if sys.getfilesystemencoding().lower() != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONUTF8": "1"})  # noqa: S606
