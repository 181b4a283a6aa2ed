"""Requests to Google Cloud Storage: how they are parsed, and which of them it refuses."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import google_crc32c
from aiohttp import web

Hashes = list[tuple[str, str]]  # ("crc32c" or "md5", base64)

CHUNK = 256 << 10  # every chunk of a resumable upload but the last is a multiple of it
MARK = "\x01"  # the directory backend lists no "folder/"; as a file of this name in the folder it does, and sorts alike
JSON_PATH = re.compile(r"/(?:(upload|download)/)?storage/v1/b(?:/([^/]+)(?:(/storageLayout|/o)(?:/([^/]+))?)?)?")
JSON_KINDS = {  # (method, how much of upload/b/BUCKET/o/NAME there is)
    ("GET", "b"): "json.bucket.list",
    ("POST", "b"): "json.bucket.create",
    ("GET", "b/B"): "json.bucket.get",
    ("PATCH", "b/B"): "json.bucket.patch",
    ("DELETE", "b/B"): "json.bucket.delete",
    ("GET", "b/B/storageLayout"): "json.bucket.layout",
    ("GET", "b/B/o"): "json.list",
    ("GET", "b/B/o/O"): "json.get",
    ("DELETE", "b/B/o/O"): "json.delete",
    ("POST", "upload/b/B/o"): "json.upload",
    ("PUT", "upload/b/B/o"): "json.chunk",
    ("DELETE", "upload/b/B/o"): "json.cancel",
}

# What a request's query may have (https://cloud.google.com/storage/docs/json_api/v1, "Parameters" of each method).
ALL = {"alt", "fields", "prettyPrint", "quotaUser", "userProject"}
MATCH = {"ifGenerationMatch", "ifGenerationNotMatch", "ifMetagenerationMatch", "ifMetagenerationNotMatch"}
UPLOAD = {"uploadType", "upload_id", "name", "contentEncoding", "kmsKeyName", "predefinedAcl", "projection", *MATCH}
PARAMETERS = {
    "json.bucket.create": {"project", "predefinedAcl", "predefinedDefaultObjectAcl", "projection"},
    "json.bucket.get": {"projection", "generation", "softDeleted", *MATCH},
    "json.bucket.layout": {"prefix"},
    "json.list": {
        "delimiter", "endOffset", "filter", "includeFoldersAsPrefixes", "includeTrailingDelimiter", "matchGlob",
        "maxResults", "pageToken", "prefix", "projection", "softDeleted", "startOffset", "versions",
    },
    "json.get": {"generation", "projection", "softDeleted", *MATCH},
    "json.media": {"generation", "projection", *MATCH},
    "json.delete": {"generation", *MATCH},
    "json.upload": UPLOAD,
    "json.resumable": UPLOAD,
    "json.chunk": UPLOAD,
    "json.cancel": UPLOAD,
}  # fmt: skip


class Refused(Exception):
    """A request that is not carried out."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code or HTTPStatus(status).phrase.replace(" ", "")


@dataclass
class Plan:
    """Something that goes wrong the next `times` times; status None closes the connection."""

    kind: str
    status: int | None
    times: int
    headers: Mapping[str, str]
    name: str | None  # of the object; None is any
    stores: bool  # carried out, and only the answer fails
    flips: bool = False  # carried out with one bit of the body changed
    loses: bool = False  # answered as if it were carried out
    after: int = 0  # requests that pass before
    body: bytes | None = None  # of the answer; None is an error in the API's words


@dataclass
class Call:
    """One request, parsed."""

    kind: str
    bucket: str
    name: str
    query: dict[str, str]
    request: web.BaseRequest
    body: bytes  # of an upload the object alone
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def generation(self) -> str | None:
        """The generation that the object must have for the request to be carried out; 0 is none."""
        headers = self.request.headers
        return headers.get("x-goog-if-generation-match") if self.is_xml else self.query.get("ifGenerationMatch")

    @property
    def is_xml(self) -> bool:
        return self.kind.startswith("xml.")


@dataclass
class Upload:
    """A resumable upload: what its first request asked for, and what came since."""

    call: Call
    data: bytearray = field(default_factory=bytearray)
    answer: web.Response | None = None  # once it is finished


def parsed(request: web.BaseRequest, body: bytes) -> Call:
    path, _, text = request.raw_path.partition("?")  # raw, for %2F in a name is no separator
    query = {key: values[0] for key, values in parse_qs(text, keep_blank_values=True).items()}
    if re.match(r"/(?:\w+/)?storage/v1/|/batch/", path):
        match = JSON_PATH.fullmatch(path)
        service, bucket, objects, name = match.groups() if match else (None, None, None, None)
        shape = "b" + ("/B" if bucket else "") + (objects or "") + ("/O" if name else "")
        kind = JSON_KINDS.get((request.method, f"upload/{shape}" if service == "upload" else shape), "other")
        if not match or (service == "download" and kind != "json.get"):
            kind = "other"
        elif kind == "json.get" and query.get("alt") == "media":
            kind = "json.media"
        elif kind == "json.upload" and query.get("uploadType") == "resumable":
            kind = "json.chunk" if "upload_id" in query else "json.resumable"  # Go's client sends chunks by POST too
        return Call(kind, bucket or "", unquote(name) if name else query.get("name", ""), query, request, body)
    bucket, slash, name = path[1:].partition("/")
    known = request.method in ("PUT", "GET", "HEAD", "DELETE") and slash and query.keys() <= {"generation"}
    kind = f"xml.{request.method.lower()}" if known and "x-goog-copy-source" not in request.headers else "other"
    return Call(kind, unquote(bucket), unquote(name), query, request, body)


def upload_parts(call: Call, content: str) -> tuple[dict[str, Any], bytes, str]:
    """An upload's metadata, bytes and content type. https://cloud.google.com/storage/docs/json_api/v1/objects/insert"""
    try:
        match call.query.get("uploadType"):
            case "media":
                return {}, call.body, content
            case "resumable":
                content = call.request.headers.get("X-Upload-Content-Type", "application/octet-stream")
                return json.loads(call.body or b"{}"), b"", content
            case "multipart":
                match = re.search(r"boundary=[\"']?([^\"';]+)", content)
                edge = b"\r\n--" + (match[1] if match else "").encode()
                _, metadata, data, _ = (b"\r\n" + call.body).split(edge)
                head, _, data = data.partition(b"\r\n\r\n")
                match = re.search(r"(?i)content-type: *(.+)", head.decode())
                content = match[1].strip() if match else "application/octet-stream"
                return json.loads(metadata.partition(b"\r\n\r\n")[2]), data, content
    except ValueError as error:
        raise Refused(400, f"a malformed upload: {error}") from error
    raise Refused(400, "uploadType: expected media, multipart or resumable")


def check_name(name: str) -> None:
    """Refuse what GCS refuses, and what a directory cannot hold. https://cloud.google.com/storage/docs/objects#naming"""
    acme = name.startswith(".well-known/acme-challenge/")
    if not 1 <= len(name.encode()) <= 1024 or re.search(r"[\r\n]", name) or name in (".", "..") or acme:
        raise Refused(400, f"not an object name: {name!r}", "InvalidObjectName")
    if MARK in name or {"", ".", ".."} & set(name.removesuffix("/").split("/")):
        raise Refused(501, f"GCS takes {name!r}, the directory that fake-gcs-server keeps objects in does not")


def check_parameters(call: Call) -> None:
    """Refuse a request with a parameter that its method does not document."""
    unknown = call.query.keys() - ALL - PARAMETERS.get(call.kind, call.query.keys())
    if unknown:
        raise Refused(400, f"{call.kind} has no parameter {', '.join(sorted(unknown))}", "invalidParameter")


def check_bucket(name: str) -> None:
    """Refuse what GCS refuses. https://cloud.google.com/storage/docs/buckets#naming"""
    parts = name.split(".")
    good = 3 <= len(name) <= (63 if len(parts) == 1 else 222)
    good = good and all(re.fullmatch(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", part) for part in parts)
    if not good or _is_address(name) or name.startswith("goog") or re.search("g[o0][o0]gle", name):
        raise Refused(400, f"not a bucket name: {name!r}", "InvalidBucketName")


def _is_address(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def hashes_of(call: Call) -> Hashes:
    """The checksums that a request says its object has."""
    given = [part.strip() for value in call.request.headers.getall("x-goog-hash", ()) for part in value.split(",")]
    hashes = [(kind, value) for kind, _, value in (part.partition("=") for part in given)]
    hashes += [("md5", value) for value in call.request.headers.getall("Content-MD5", ())]
    return hashes + [
        (kind, call.metadata[key]) for kind, key in (("crc32c", "crc32c"), ("md5", "md5Hash")) if key in call.metadata
    ]


def check_hashes(data: bytes, hashes: Hashes) -> None:
    for kind, given in hashes:
        if kind not in ("crc32c", "md5"):
            raise Refused(400, f"{kind}: not a checksum that GCS knows")
        digest = google_crc32c.value(data).to_bytes(4, "big") if kind == "crc32c" else hashlib.md5(data).digest()
        if given != base64.b64encode(digest).decode():
            raise Refused(400, f"{kind}={given}: got an object with {base64.b64encode(digest).decode()}", "BadDigest")


def backend_name(name: str) -> str:
    return name + MARK if name.endswith("/") else name


def backend_path(call: Call) -> str:
    if call.is_xml or call.name:
        return f"/storage/v1/b/{call.bucket}/o/{quote(backend_name(call.name), safe='')}"
    return call.request.raw_path.partition("?")[0]


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    """The bytes with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
