"""Parse a list of SHA-256 checksums, as the usual tools write it.

The forms: sha256sum and shasum (coreutils' manual, "cksum output modes"; also --tag and --binary), BSD's sha256,
openssl dgst, PowerShell's Get-FileHash as a table, and what an inline PGP signature puts around them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from errors import SourceError, escaped
from sources.csv_table import decode

PLAIN = re.compile(r"(\\?)([0-9a-f]{64})[ \t]+[*^?]?(\S.*)", re.IGNORECASE | re.DOTALL)
TAGGED = re.compile(r"(\\?)SHA(?:2-)?-?256 ?\((.+)\) ?= ?([0-9a-f]{64})", re.IGNORECASE | re.DOTALL)
POWERSHELL = re.compile(r"()SHA256\s+([0-9a-f]{64})\s+(\S.*)", re.IGNORECASE)
# Lines of other algorithms are ignored: MD5, SHA-1, -224, -384 and -512 by their length, any by its name.
OTHER = re.compile(
    r"\\?(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{56}|[0-9a-f]{96}|[0-9a-f]{128})[ \t]+[*^?]?\S.*"
    r"|\\?(?!SHA(?:2-)?-?256 ?\()[\w/-]+ ?\(.+\) ?= ?[\w+/=]+"
    r"|(?!SHA256\s)[A-Z]\w*+\s+[0-9a-f]{32,128}\s+\S.*",
    re.IGNORECASE,
)
FRAMES = re.compile(
    r"\s*|\s*[#;].*|-----BEGIN PGP SIGNED MESSAGE-----|Hash: [\w, -]+|Algorithm\s+Hash\s+Path|-+(?:\s+-+)*\s*"
)
SIGNATURE = "-----BEGIN PGP SIGNATURE-----"
ESCAPES = {r"\\": "\\", r"\n": "\n", r"\r": "\r"}


class _Sum(NamedTuple):
    line: int
    sha256: str


class ChecksumList:
    """The SHA-256 of each file in a list; `where` names the list in messages."""

    def __init__(self, where: str, data: bytes) -> None:
        """Raises SourceError for a line of no known form, and for two lines that contradict each other."""
        self.where = where
        self._sums: dict[str, _Sum] = {}  # by path, as the list has it
        text = decode(where, data)
        for number, line in enumerate(text.split("\0") if "\0" in text else re.split(r"\r\n?|\n", text), 1):
            if line.startswith(SIGNATURE):
                break
            if not FRAMES.fullmatch(line):
                self._add(number, line.strip())

    def _add(self, number: int, line: str) -> None:
        if found := PLAIN.fullmatch(line) or POWERSHELL.fullmatch(line):
            backslash, sha256, name = found.groups()
        elif found := TAGGED.fullmatch(line):
            backslash, name, sha256 = found.groups()
        elif OTHER.fullmatch(line):
            return
        else:
            raise SourceError(
                f"{self.where}: expected lines as sha256sum writes them, got {escaped(line)} in line {number}"
            )
        name = re.sub(r"\\[\\nr]", lambda each: ESCAPES[each[0]], name) if backslash else name.replace("\\", "/")
        name, this = name.removeprefix("./"), _Sum(number, sha256.lower())
        self._compare(name, self._sums.setdefault(name, this), this)

    def _compare(self, name: str, one: _Sum, other: _Sum) -> None:
        if one.sha256 != other.sha256:
            raise SourceError(
                f"{self.where}: expected one checksum of {escaped(name)}, got two, in lines {one.line} and {other.line}"
            )

    def of(self, file: str) -> str:
        """Return the SHA-256 of a file beside the list; "" if no line names it.

        A line that names it in a folder counts if none names it alone: lists are also made from other folders.
        Raises SourceError if such lines contradict each other.
        """
        if file in self._sums:
            return self._sums[file].sha256
        found = [each for name, each in self._sums.items() if name.rpartition("/")[2] == file]
        for each in found[1:]:
            self._compare(file, found[0], each)
        return found[0].sha256 if found else ""
