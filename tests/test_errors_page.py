"""docs/errors.md has every message that the program can end with or write down, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

import errors
from support.program import ROOT, product_files

RAISED = {name for name in vars(errors) if name.endswith("Error")} | {"PassingError", "RangeError", "ArgumentTypeError"}
REASONS = re.compile(r"object_name|\w*_refusal|fuse_works")  # functions that answer why something is not done
FIELDS = {"reason", "error"}  # of rows and results
HOLE = "…"


def texts(node: ast.expr | None) -> Iterator[str]:
    """The texts that an expression can be, what is put in at run time as a hole."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield re.sub(f"{HOLE}+", HOLE, "".join(next(texts(part), HOLE) for part in parts))
        case ast.IfExp(body=one, orelse=other):
            yield from (*texts(one), *texts(other))
        case ast.Tuple(elts=parts):
            yield from (text for part in parts for text in texts(part))


def messages(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[message, *_])):
                yield from texts(message) if name in RAISED else ()
            case ast.keyword(arg=name, value=message) if name in FIELDS:
                yield from texts(message)
            case ast.Call(func=ast.Name(id="_no_manifest"), args=[_, message]):
                yield from texts(message)
            case ast.Assign(targets=[ast.Name(id="why")], value=message):
                yield from texts(message)
            case ast.FunctionDef(name=name) if REASONS.fullmatch(name):
                returns = [each for each in ast.walk(node) if isinstance(each, ast.Return)]
                yield from (text for each in returns for text in texts(each.value))


def in_the_code() -> set[str]:
    found = {text for path in product_files() for text in messages(ast.parse(path.read_text()))}
    return {text for text in found if re.search("[a-z]{2}", text)}


def on_the_page() -> list[str]:
    entries = re.findall(r"^- `(.+)`$", (ROOT / "docs/errors.md").read_text(), re.M)
    return [re.sub(f"{HOLE}+", HOLE, re.sub("<[^<>]+>", HOLE, entry)) for entry in entries]


def test_every_message_is_on_the_page_and_nothing_else() -> None:
    page, code = on_the_page(), in_the_code()
    new, old = sorted(code - set(page)), sorted(set(page) - code)
    twice = sorted({entry for entry in page if page.count(entry) > 1})
    assert not new, how_to("Add these messages of the code, under the heading that fits:", new)
    assert not old, how_to("Remove or reword these entries, no code says them any more:", old)
    assert not twice, how_to("These entries are there twice:", twice)


def how_to(what: str, entries: list[str]) -> str:
    """What to do after a message was changed."""
    lines = "\n".join(f"- `{entry.replace(HOLE, '<what differs>')}`\n  Cause and cure." for entry in entries)
    return f"docs/errors.md explains every message of the program.\n{what}\n\n{lines}\n"


def test_every_entry_has_cause_and_cure() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    assert len(re.findall(r"^- `.+`\n  [A-Z`\"].+[.…]?$", text, re.M)) == len(on_the_page())


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('raise SourceError(f"{a}: got {b:,} of " f"{c}{d}")', "…: got … of …"),
        ('raise errors.MemberError("damaged")', "damaged"),
        ('Result(dataset, error=f"{x}: none")', "…: none"),
        ('def _refusal(x):\n    return "a link" if x else "a pipe"', "a link|a pipe"),
        ('def object_name(x):\n    return full, "" if x else f"a name of {x}"', "|a name of …"),
        ('why = f"expected {x}"\nreturn _no_manifest(dataset, f"{x} is not there")', "expected …|… is not there"),
        ('raise ValueError("of the language, not of the program")', ""),
    ],
)
def test_messages_are_found_in_code(code: str, expected: str) -> None:
    assert "|".join(messages(ast.parse(code))) == expected
