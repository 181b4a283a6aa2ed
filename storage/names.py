"""Names of members become names of objects, or reasons to refuse them; and the folders above objects."""

from __future__ import annotations

import re
from collections.abc import Iterable

from errors import escaped

PARTIAL_PREFIX = (
    ".spotted-part-"  # begins the name of a file that is still written; renamed within its folder, which is cheap
)
LONGEST_NAME = 1024  # bytes of UTF-8


def is_unfinished(name: str) -> bool:
    """Whether a file of this name was still being written."""
    return name.rpartition("/")[2].startswith(PARTIAL_PREFIX)


def object_name(prefix: str, name: str) -> tuple[str, str]:
    """The object that a member becomes, and why it may not be one ("" when it may).

    "./" and doubled slashes are removed, as the tools of tar and zip do; a name that could leave the prefix or that GCS
    does not accept is refused (https://cloud.google.com/storage/docs/objects#naming). A refused name is returned in
    printable form.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    full = prefix + "/".join(parts) + ("/" if name.endswith("/") and parts else "")
    refusal = _refusal(name, parts, full)
    return (escaped(full) if refusal else full), refusal


def _refusal(name: str, parts: list[str], full: str) -> str:
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "an absolute name"
    if ".." in parts or "\\" in name:
        return "a name that leads out of its folder"
    if not full.isprintable() and re.search(r"[\x00-\x1f\x7f-\x9f]", full):
        return "a name with a control character"
    if not parts and not name.endswith("/"):
        return "no name"
    if any(part.startswith(PARTIAL_PREFIX) for part in parts):
        return "a name that this program keeps for itself"
    return encoding_refusal(full)


def encoding_refusal(full: str) -> str:
    """Why a name cannot be an object's for its encoding or length; "" if it can."""
    try:
        length = len(full.encode())
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    return "" if length <= LONGEST_NAME else f"a name of {length:,} bytes; {LONGEST_NAME:,} are allowed"


def parents(paths: Iterable[str]) -> set[str]:
    """The placeholders of all folders above these paths: "a/b/c" makes "a/b/" and "a/", "a/b/" itself and "a/"."""
    folders = {path.rpartition("/")[0] for path in paths}
    return {f"{folder[:end]}/" for folder in folders for end in (*(m.start() for m in re.finditer("/", folder)), None)}
