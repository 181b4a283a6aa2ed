"""Object names of members, reasons to refuse a name, and the folders above objects."""

from __future__ import annotations

import re
from collections.abc import Iterable

from errors import escaped

PARTIAL_PREFIX = ".spotted-part-"  # of an unfinished file, which is renamed within its folder
MAX_NAME_BYTES = 1024  # bytes of UTF-8
PLAIN = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*", re.ASCII)  # most names; none of them is refused


def is_unfinished(name: str) -> bool:
    """Whether this is the name of an unfinished file."""
    return name.rpartition("/")[2].startswith(PARTIAL_PREFIX)


def object_name(prefix: str, name: str) -> tuple[str, str]:
    """Return the object name of a member, and the reason to refuse it ("" if it is allowed).

    "./" and doubled slashes are removed, as tar and unzip do. A name that could leave the prefix, or that GCS does not
    accept, is refused and returned in printable form (https://cloud.google.com/storage/docs/objects#naming).
    """
    if PLAIN.fullmatch(name) and len((prefix + name).encode()) <= MAX_NAME_BYTES:
        return prefix + name, ""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    full = prefix + "/".join(parts) + ("/" if name.endswith("/") and parts else "")
    refusal = _refusal(name, parts, full)
    return (escaped(full) if refusal else full), refusal


def _refusal(name: str, parts: list[str], full: str) -> str:
    if parts and re.match(r"[/\\]|[A-Za-z]:", name):
        return "an absolute name"
    if ".." in re.split(r"[/\\]", name):
        return "a name that leads out of its folder"
    if not full.isprintable() and re.search(r"[\x00-\x1f\x7f-\x9f]", full):
        return "a name with a control character"
    if not parts and not name.endswith("/"):
        return "no name"
    if any(part.startswith(PARTIAL_PREFIX) for part in parts):
        return "a name that this program keeps for itself"
    return encoding_refusal(full)


def encoding_refusal(full: str) -> str:
    """The reason to refuse an object name for its encoding or length; "" if it is allowed."""
    try:
        length = len(full.encode())
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    return "" if length <= MAX_NAME_BYTES else f"a name of {length:,} bytes; {MAX_NAME_BYTES:,} are allowed"


def parents(paths: Iterable[str]) -> set[str]:
    """The placeholders of all folders above these paths: "a/b/c" and "a/b/" both have "a/b/" and "a/"."""
    folders = {path.rpartition("/")[0] for path in paths}
    return {f"{folder[:end]}/" for folder in folders for end in (*(m.start() for m in re.finditer("/", folder)), None)}
