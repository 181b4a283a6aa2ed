"""Parse an untrusted CSV table into rows with their line numbers.

Any defect is an error that names the table, the line, what is expected and what is there: a row that is dropped, or
swallowed by an open quotation mark, would be photos lost silently.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import NamedTuple

from errors import SourceError, escaped
from sources.content_type import byte_order

MAX_LINE_CHARACTERS = 64 << 10  # characters; the tables' own lines have 200
LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
NEW_LINES = re.compile(rb"\r\n?|\n")
SWALLOWED = re.compile(r'\s*"?\d+"?\s*,')  # how a row begins that lies within a field


class Line(NamedTuple):
    """A row of a table, and the line of the file that it begins in."""

    number: int
    values: dict[str, str]


def read_table(name: str, data: bytes, columns: tuple[str, ...]) -> Iterator[Line]:
    """Yield the rows of a table with the values of these columns; raises SourceError for any defect."""
    lines = _rows(name, decode(name, data))
    number, header = next(lines, (1, ["nothing"]))
    header = [each.strip() for each in header]
    places = {column: _place(name, number, header, column) for column in columns}
    for number, row in lines:
        if len(row) != len(header):
            raise SourceError(
                f"{name}, line {number}: expected {len(header)} columns, got {len(row)}: {escaped(','.join(row))}"
            )
        yield Line(number, {column: row[place] for column, place in places.items()})


def decode(name: str, data: bytes) -> str:
    """Decode a table: UTF-8, or the encoding of its byte order mark, which spreadsheets write."""
    encoding = byte_order(data) or "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(NEW_LINES.findall(error.object[: error.start])) + 1
        expected, got = encoding.removesuffix("-sig").upper(), error.object[error.start]
        raise SourceError(
            f"{name}, line {line}: expected {expected}, got the byte 0x{got:02X}: {error.reason}"
        ) from None


def _place(name: str, number: int, header: list[str], column: str) -> int:
    found = header.count(column)
    if found == 1:
        return header.index(column)
    if found:
        raise SourceError(f"{name}, line {number}: expected one column {column}, got {found}")
    raise SourceError(f"{name}: expected a column {column}, got {escaped(', '.join(header))} in line {number}")


def _rows(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with its first line."""
    reader, number, width = csv.reader(_lines(name, text), strict=True), 1, 0
    try:
        for row in reader:
            if any(field.strip() for field in row):
                width = width or len(row)
                if reader.line_num > number:
                    _check_fields(name, number, row, width)
                yield number, row
            number = reader.line_num + 1
    except csv.Error as error:
        raise SourceError(f"{name}, line {number}: expected quotation marks in pairs, got: {error}") from None


def _lines(name: str, text: str) -> Iterator[str]:
    for number, found in enumerate(LINE.finditer(text), 1):
        length = found.end() - found.start()
        if length > MAX_LINE_CHARACTERS:
            raise SourceError(
                f"{name}, line {number}: expected at most {MAX_LINE_CHARACTERS:,} characters, got {length:,}"
            )
        if "\0" in found[0]:
            raise SourceError(f"{name}, line {number}: expected text, got a zero byte")
        yield found[0]


def _check_fields(name: str, number: int, row: list[str], width: int) -> None:
    """Raise SourceError for a field that contains whole rows: a quotation mark before it is misplaced."""
    for field in row:
        if any(SWALLOWED.match(line) or line.count(",") >= max(width - 1, 1) for line in field.splitlines()[1:]):
            raise SourceError(
                f"{name}, line {number}: expected quotation marks in pairs, got a field that has whole rows in it"
            )
