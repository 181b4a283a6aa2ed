"""stdin, stdout and stderr as they may be: closed, full, or of a language without all letters."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO, cast


def prepare() -> None:
    """Open what is closed, or the first connection would take its place, and let no letter be an error."""
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
    """Bring out what is printed; raises OSError where it cannot be. Nothing more is tried after that."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()
        raise


def discard_output() -> None:
    """What is still to be printed goes nowhere: Python would try again at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def use_utf8() -> None:
    """Start this program again with UTF-8, where the names of files could not be written otherwise."""
    if sys.getfilesystemencoding().lower() != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONUTF8": "1"})  # noqa: S606
