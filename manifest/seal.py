"""JSON that carries a checksum of its own bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import google_crc32c

from storage.bucket import encode_crc32c


def seal(fields: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Encode fields as JSON whose last key is the crc32c of all bytes before it."""
    text = json.dumps(fields, indent=indent, separators=(",", ": " if indent else ":"))
    head = (text[:-1].rstrip() + ",").encode() + (b"\n" + b" " * indent if indent else b"")
    tail = json.dumps({"crc32c": encode_crc32c(google_crc32c.value(head))})[1:-1]
    return head + tail.encode() + (b"\n}" if indent else b"}")


def unseal(data: bytes) -> dict[str, Any]:
    """Decode sealed JSON; raises ValueError if it is damaged, cut off or something else."""
    head, _, _ = data.rpartition(b'"crc32c"')
    fields = json.loads(data)
    if not isinstance(fields, dict) or fields.pop("crc32c", None) != encode_crc32c(google_crc32c.value(head)):
        raise ValueError("its crc32c is another")
    return fields
