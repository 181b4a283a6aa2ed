"""A light object server, with a settable delay per request, for measuring what writes to a bucket.

    python benchmarks/bucket_server.py PORT [--delay-ms 50] [--rules "limit=1000 doubling=1200 failing=0.0005"]

It speaks as much of Google Cloud Storage's JSON and XML API as obstore, google-cloud-storage, rclone, GCSFuse and
`gcloud storage cp` need to store, list, read and delete; a client finds it by STORAGE_EMULATOR_HOST. What it does
not speak it answers with 400, which no client tries again. It must never be what a measurement measures: one process
on uvloop and httptools, no threads and no disk. A put of 37 KB takes it about 40 microseconds, so that one core has
enough for 20,000 a second, at 50 ms over 2,000 connections too. The objects stay in its memory, with some 350 bytes
more for each; bodies under way are held whole.

    GET /_stats         {"seconds", "puts", "bytes", "requests": {kind: how many}, "refused": {status: how many},
                         "tenths": [puts in each tenth of a second from the first on]} since the start or the last reset
    POST /_reset        remove all objects and counts
    POST /_delay?ms=N   answer every later request N ms after it was complete
    POST /_rules?limit=N&doubling=S&failing=P&from=S&until=S&halved=S&retry_after=S
                        which writes every bucket refuses from now on (bucket_rules.py); without arguments none. A
                        bucket as documented has limit=1000&doubling=1200&failing=0.0005, one with folders limit=8000
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import math
import re
import resource
import signal
import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.client import responses
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import parse_qsl, quote, unquote

import google_crc32c
import httptools
import uvloop

from bucket_rules import Rules

PAGE = 1000  # names in one page of a listing, as GCS has it
WANTS_MD5 = "gcloud"  # the one client that deletes what it uploaded if the answer has no md5; slower than all else
LAST = "\U0010ffff"  # sorts behind all that can follow in a name
RULES = {"limit", "doubling", "failing", "halved", "retry_after"}  # those that are one number
NO_BUCKETS = {"", "batch", "download", "resumable", "storage", "upload"}  # they begin the JSON API's paths
JSON_API = re.compile(
    r"/((?:resumable/)?upload/|download/)?storage/v1/b(?:/([^/]+)(?:/(storageLayout|o)(?:/(.+))?)?)?/?"
)
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+|\*)|\*)/(\d+|\*)")


class Stored(NamedTuple):
    """What stays of an object; its generation is the microsecond of its making, as in GCS."""

    size: int
    crc32c: int
    generation: int
    data: bytes


class Reply(NamedTuple):
    status: int
    body: bytes = b""
    headers: str = ""  # whole lines
    length: int | None = None  # where it is not the body's: HEAD


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, headers: str = "") -> None:
        super().__init__(message)
        self.status, self.headers = status, headers  # whole lines


@dataclass(slots=True)
class Request:
    target: str = ""
    method: str = ""
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    chunks: list[bytes] = field(default_factory=list)
    keep_alive: bool = True

    def body(self) -> bytes:
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)


@dataclass(slots=True)
class Upload:
    """An object on its way: of one request, or of a resumable upload's many."""

    bucket: str
    name: str
    claimed: str | None  # the crc32c that its sender says it has
    match: str | None  # the generation that it may replace
    md5: hashlib._Hash | None = None
    size: int = 0
    crc32c: int = 0
    kept: list[bytes] = field(default_factory=list)

    def take(self, data: bytes) -> None:
        self.size += len(data)
        self.crc32c = google_crc32c.extend(self.crc32c, data)
        if self.md5:
            self.md5.update(data)
        self.kept.append(data)


class Bucket:
    """Objects by name, and their names sorted once a listing wants them: puts alone never pay for the order."""

    def __init__(self, rules: Rules) -> None:
        self.objects: dict[str, Stored] = {}
        self.rules = rules
        self._sorted: list[str] = []
        self._new: list[str] = []
        self._deleted = False

    def put(self, name: str, stored: Stored) -> None:
        if name not in self.objects:
            self._new.append(name)
        self.objects[name] = stored

    def delete(self, name: str) -> None:
        if self.objects.pop(name, None) is None:
            raise Refused(404, f"no such object: {name}")
        self._deleted = True

    def _names(self) -> list[str]:
        if self._deleted:
            self._sorted = sorted(self.objects)
        elif self._new:
            self._sorted += sorted(self._new)
            self._sorted.sort()  # two sorted runs, which it merges
        self._new, self._deleted = [], False
        return self._sorted

    def page(
        self, prefix: str, delimiter: str, after: str, limit: int, start: str = "", stop: str = ""
    ) -> tuple[list[str], list[str], str]:
        """A page's names and rolled-up prefixes, and what the next begins after; "" when there is no next."""
        names, found, folders = self._names(), list[str](), list[str]()
        if after and delimiter and delimiter in after[len(prefix) :]:
            at = bisect_left(names, after + LAST)
        else:
            at = bisect_right(names, after) if after else bisect_left(names, max(prefix, start))
        end = bisect_left(names, stop) if stop else len(names)
        while at < end and names[at].startswith(prefix):
            if len(found) + len(folders) == limit:
                return found, folders, after
            after = names[at]
            cut = after.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                found.append(after)
                at += 1
            else:
                after = after[: cut + len(delimiter)]
                folders.append(after)
                at = bisect_left(names, after + LAST, at)
        return found, folders, ""


class Server:
    """All buckets, each there as soon as it is named, and the answer to each request."""

    def __init__(self, delay: float, rules: Rules | None = None) -> None:
        self.delay, self.rules = delay, rules or Rules()  # seconds; what each bucket refuses
        self._reset()

    def _reset(self) -> None:
        self.buckets: defaultdict[str, Bucket] = defaultdict(lambda: Bucket(self.rules.renewed()))
        self.refused: Counter[int] = Counter()
        self.tenths: Counter[int] = Counter()
        self.uploads: dict[str, Upload] = {}  # resumable ones
        self.requests: Counter[str] = Counter()
        self.puts = self.bytes = self.generation = self.opened = 0
        self.began = time.monotonic()

    def answer(self, request: Request) -> bytes:
        path, _, query_string = request.target.partition("?")
        try:
            query = dict(parse_qsl(query_string, keep_blank_values=True)) if query_string else {}
            if path.startswith("/_"):
                reply = self._control(request.method, path, query)
            elif api := JSON_API.fullmatch(path):
                kind, bucket, part, name = (unquote(text or "", errors="strict") for text in api.groups())
                if "upload" in kind:
                    reply = self._upload(request, bucket, query)
                else:
                    reply = self._json(request, bucket, part, name, query, media=kind == "download/")
            else:
                reply = self._xml(request, *unquote(path[1:], errors="strict").partition("/")[::2])
        except Refused as error:
            reply = _error(error.status, str(error))._replace(headers=error.headers)
        except (ValueError, KeyError) as error:  # no JSON, no number, no name: the request's fault
            reply = _error(400, f"{request.method} {request.target}: {error!r}")
        return encode(request, reply)

    def _control(self, method: str, path: str, query: dict[str, str]) -> Reply:
        match method, path:
            case "GET", "/_stats":
                elapsed = time.monotonic() - self.began
                first = min(self.tenths, default=0)
                tenths = [self.tenths[tenth] for tenth in range(first, max(self.tenths, default=-1) + 1)]
                counts = {"puts": self.puts, "bytes": self.bytes, "requests": dict(self.requests)}
                return _json({"seconds": elapsed, **counts, "refused": dict(self.refused), "tenths": tenths})
            case "POST", "/_reset":
                self._reset()
            case "POST", "/_delay":
                self.delay = seconds(query["ms"])
            case "POST", "/_rules":
                self.rules = rules_of(query)
                self._reset()
            case _:
                raise Refused(404, f"{method} {path}: expected GET /_stats, POST /_reset, /_delay?ms=N or /_rules?…")
        return Reply(204)

    def _check_rate(self, bucket: str) -> None:
        """Raise Refused for a write that the bucket's rules refuse."""
        if status := self.buckets[bucket].rules.answer(time.monotonic()):
            self.refused[status] += 1
            wait = f"Retry-After: {self.rules.retry_after:g}\r\n" if self.rules.retry_after else ""
            message = "the bucket's rate limit is exceeded" if status == 429 else "please try again"
            raise Refused(status, message, wait)

    def _xml(self, request: Request, bucket: str, name: str) -> Reply:
        self.requests[f"xml {request.method}"] += 1
        if request.method in ("PUT", "DELETE"):
            self._check_rate(bucket)
        if bucket in NO_BUCKETS or not name:
            raise Refused(400, f"{request.method} {request.target}: not spoken here")
        if request.method == "PUT":
            claimed = re.search(r"crc32c=([^,]+)", request.headers.get("x-goog-hash", ""))
            match = request.headers.get("x-goog-if-generation-match")
            upload = Upload(bucket, name, claimed and claimed[1], match)
            for chunk in request.chunks:
                upload.take(chunk)
            return Reply(200, headers=_about(self._put(upload)))
        if request.method == "DELETE":
            self.buckets[bucket].delete(name)
            return Reply(204)
        stored = self._find(bucket, name)
        if request.method == "HEAD":
            return Reply(200, headers=_about(stored), length=stored.size)
        if request.method == "GET":
            return _media(stored, name, request.headers.get("range"))
        raise Refused(400, f"{request.method} {request.target}: not spoken here")

    def _json(self, request: Request, bucket: str, part: str, name: str, query: dict[str, str], media: bool) -> Reply:
        host, media = request.headers.get("host", ""), media or query.get("alt") == "media"
        kind = "object" if name else {"o": "objects", "": "bucket"}.get(part, part) if bucket else "buckets"
        self.requests[f"json {request.method} {'media' if name and media else kind}"] += 1
        match request.method, kind:
            case "GET", "buckets":
                return _json({"kind": "storage#buckets", "items": [_bucket(bucket) for bucket in self.buckets]})
            case "POST", "buckets":
                bucket = json.loads(request.body())["name"]
                self.buckets[bucket]
                return _json(_bucket(bucket))
            case "GET", "bucket":
                self.buckets[bucket]  # which makes it
                return _json(_bucket(bucket))
            case "GET", "storageLayout":  # gcloud asks, for folders that are more than names
                return _json({"kind": "storage#storageLayout", "bucket": bucket, "hierarchicalNamespace": {}})
            case "GET", "objects":
                return self._list(host, bucket, query)
            case "GET", "object":
                stored = self._find(bucket, name)
                if media:
                    return _media(stored, name, request.headers.get("range"))
                return _json(_object(host, bucket, name, stored))
            case "DELETE", "object":
                self._check_rate(bucket)
                self.buckets[bucket].delete(name)
                return Reply(204)
        raise Refused(400, f"{request.method} {request.target}: not spoken here")

    def _list(self, host: str, bucket: str, query: dict[str, str]) -> Reply:
        if query.get("matchGlob"):
            raise Refused(400, "a listing by matchGlob is not spoken here")
        limit = min(int(query.get("maxResults", PAGE)), PAGE) or PAGE
        after = query.get("pageToken", "")
        here = self.buckets[bucket]
        places = query.get("startOffset", ""), query.get("endOffset", "")
        names, folders, token = here.page(query.get("prefix", ""), query.get("delimiter", ""), after, limit, *places)
        asked = re.search(r"items[(/]([^)]*)", query.get("fields", ""))
        only = set(asked[1].split(",")) if asked else None
        listing: dict[str, Any] = {"kind": "storage#objects"}
        if names:
            listing["items"] = [_object(host, bucket, name, here.objects[name], only) for name in names]
        if folders:
            listing["prefixes"] = folders
        if token:
            listing["nextPageToken"] = token
        return _json(listing)

    def _upload(self, request: Request, bucket: str, query: dict[str, str]) -> Reply:
        kind = "chunk" if "upload_id" in query else query.get("uploadType", "")
        self.requests[f"upload {kind}"] += 1
        if kind == "chunk":
            return self._resume(request, query["upload_id"])
        self._check_rate(bucket)
        about, data = dict[str, Any](), request.body()
        if kind == "multipart":
            about, data = _two_parts(data, request.headers["content-type"])
        elif kind == "resumable":
            about, data = json.loads(data or b"{}"), b""
        elif kind != "media":
            raise Refused(400, f"uploadType={kind}: expected media, multipart or resumable")
        name = query.get("name") or about["name"]
        upload = Upload(bucket, name, about.get("crc32c"), query.get("ifGenerationMatch"))
        if WANTS_MD5 in request.headers.get("user-agent", ""):
            upload.md5 = hashlib.md5(usedforsecurity=False)
        if kind == "resumable":
            self.opened += 1
            self.uploads[str(self.opened)] = upload
            place = f"http://{request.headers['host']}/upload/storage/v1/b/{quote(bucket)}/o"
            return Reply(200, headers=f"Location: {place}?uploadType=resumable&upload_id={self.opened}\r\n")
        upload.take(data)
        return self._finish(request, upload)

    def _resume(self, request: Request, upload_id: str) -> Reply:
        upload = self.uploads.get(upload_id)
        if upload is None:
            raise Refused(404, f"no such upload: {upload_id}")
        if request.method == "DELETE":
            del self.uploads[upload_id]
            return Reply(499)  # which is GCS's yes
        data = request.body()
        given = request.headers.get("content-range", f"bytes 0-*/{len(data)}")
        part = CONTENT_RANGE.fullmatch(given)
        if part is None or (data and (part[1] is None or int(part[1]) != upload.size)):
            raise Refused(400, f"Content-Range: {given}: expected bytes from {upload.size} on")
        upload.take(data)
        if part[3] != "*" and int(part[3]) == upload.size:
            del self.uploads[upload_id]
            return self._finish(request, upload)
        have = f"Range: bytes=0-{upload.size - 1}\r\n" if upload.size else ""
        if request.headers.get("x-guploader-no-308") == "yes":  # Go's client
            return Reply(200, headers=f"{have}X-HTTP-Status-Code-Override: 308\r\n")
        return Reply(308, headers=have)

    def _finish(self, request: Request, upload: Upload) -> Reply:
        about = _object(request.headers.get("host", ""), upload.bucket, upload.name, self._put(upload))
        if upload.md5:
            about["md5Hash"] = base64.b64encode(upload.md5.digest()).decode("ascii")
        return _json(about)

    def _put(self, upload: Upload) -> Stored:
        bucket, name, crc32c = self.buckets[upload.bucket], upload.name, _base64(upload.crc32c)
        if upload.claimed and upload.claimed != crc32c:
            raise Refused(400, f"{name}: crc32c {upload.claimed} was promised, {crc32c} came")
        if upload.match and int(upload.match) != (bucket.objects[name].generation if name in bucket.objects else 0):
            raise Refused(412, f"{name}: is not of generation {upload.match}")
        self.generation = max(self.generation + 1, time.time_ns() // 1000)
        data = b"".join(upload.kept)  # of a single piece this is the piece itself
        stored = Stored(upload.size, upload.crc32c, self.generation, data)
        bucket.put(name, stored)
        self.puts += 1
        self.tenths[int(time.monotonic() * 10)] += 1
        self.bytes += upload.size
        return stored

    def _find(self, bucket: str, name: str) -> Stored:
        stored = self.buckets[bucket].objects.get(name)
        if stored is None:
            raise Refused(404, f"no such object: {name}")
        return stored


def encode(request: Request, reply: Reply) -> bytes:
    """A reply as it goes over the wire."""
    length = len(reply.body) if reply.length is None else reply.length
    close = "" if request.keep_alive else "Connection: close\r\n"
    head = f"HTTP/1.1 {reply.status} {responses.get(reply.status, 'Other')}\r\nContent-Length: {length}\r\n"
    return f"{head}{close}{reply.headers}\r\n".encode() + (b"" if request.method == "HEAD" else reply.body)


class Answerer(Protocol):
    """What answers requests: immediately, but what it says is sent after `delay` seconds."""

    delay: float

    def answer(self, request: Request) -> bytes: ...


class Connection(asyncio.Protocol):
    """One client's connection: its requests are taken up one after the other, each when the last was answered."""

    def __init__(self, server: Answerer, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._loop = server, loop
        self._waiting: deque[Request] = deque()  # the first is being answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._parser = None  # ends the cycle, so that it goes without the garbage collector

    def data_received(self, data: bytes) -> None:
        assert self._parser is not None
        self._parser.feed_data(data)  # raises on what is no HTTP: uvloop then says so and ends the connection

    def on_message_begin(self) -> None:
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("ascii")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._request.headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._request.chunks.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self._request.method = self._parser.get_method().decode("ascii")
        self._request.keep_alive = self._parser.should_keep_alive()
        self._waiting.append(self._request)
        if len(self._waiting) == 1:
            self._take_up()

    def _take_up(self) -> None:
        answer = self._server.answer(self._waiting[0])
        self._waiting[0].chunks.clear()
        if self._server.delay:
            self._loop.call_later(self._server.delay, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: bytes) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(answer)
        if not self._waiting.popleft().keep_alive:
            self._transport.close()
        elif self._waiting:
            self._take_up()


def _two_parts(body: bytes, content_type: str) -> tuple[dict[str, Any], bytes]:
    """The metadata and the media of a multipart/related body; lines end as its own first one does."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if boundary is None:
        raise ValueError(f"no boundary in {content_type}")
    line = b"--" + boundary[1].strip("'").encode("ascii")
    start = body.index(line) + len(line)
    end = b"\r\n" if body.startswith(b"\r\n", start) else b"\n"
    about = body.index(end * 2, start) + len(end * 2)
    about_ends = body.index(end + line, about)
    media = body.index(end * 2, about_ends + len(end + line)) + len(end * 2)
    return json.loads(body[about:about_ends]), body[media : body.rindex(end + line)]


def _media(stored: Stored, name: str, wanted: str | None) -> Reply:
    data = stored.data
    part = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
    if part is None:
        return Reply(200, data, _about(stored))
    start, stop = int(part[1]), min(int(part[2] or stored.size), stored.size - 1) + 1
    if start >= stop:
        raise Refused(416, f"{name}: has {stored.size} bytes, asked for {wanted}")
    return Reply(206, data[start:stop], f"Content-Range: bytes {start}-{stop - 1}/{stored.size}\r\n" + _about(stored))


def _about(stored: Stored) -> str:
    """The headers of an object, as the XML API and downloads have them."""
    return (
        f'ETag: "{stored.generation}"\r\nx-goog-generation: {stored.generation}\r\nx-goog-metageneration: 1\r\n'
        f"x-goog-hash: crc32c={_base64(stored.crc32c)}\r\nx-goog-stored-content-length: {stored.size}\r\n"
        f"Last-Modified: {formatdate(stored.generation / 1e6, usegmt=True)}\r\n"
        "Content-Type: application/octet-stream\r\n"
    )


def _object(host: str, bucket: str, name: str, stored: Stored, only: set[str] | None = None) -> dict[str, str]:
    """An object as the JSON API has it; `only` are the fields that a listing was asked for."""
    fields = {"name": name, "size": str(stored.size), "crc32c": _base64(stored.crc32c)}
    if only is not None and only <= fields.keys():
        return {key: fields[key] for key in only}
    generation, made = str(stored.generation), datetime.fromtimestamp(stored.generation / 1e6, UTC)
    created = made.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    place = f"b/{quote(bucket)}/o/{quote(name, safe='')}"
    fields |= {"kind": "storage#object", "bucket": bucket, "id": f"{bucket}/{name}/{generation}"}
    fields |= {"generation": generation, "metageneration": "1", "etag": generation, "storageClass": "STANDARD"}
    fields |= {"timeCreated": created, "updated": created, "contentType": "application/octet-stream"}
    fields |= {"selfLink": f"http://{host}/storage/v1/{place}"}
    fields |= {"mediaLink": f"http://{host}/download/storage/v1/{place}?generation={generation}&alt=media"}
    return fields if only is None else {key: value for key, value in fields.items() if key in only}


def _bucket(name: str) -> dict[str, str]:
    return {"kind": "storage#bucket", "id": name, "name": name, "location": "US-CENTRAL1", "storageClass": "STANDARD"}


def _json(answer: dict[str, Any]) -> Reply:
    return Reply(200, json.dumps(answer).encode(), "Content-Type: application/json; charset=UTF-8\r\n")


def _error(status: int, message: str) -> Reply:
    code = {404: "notFound", 412: "conditionNotMet"}.get(status, "invalid")
    errors = [{"domain": "global", "reason": code, "message": message}]
    return _json({"error": {"code": status, "message": message, "errors": errors}})._replace(status=status)


def _base64(crc32c: int) -> str:
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode("ascii")


def seconds(milliseconds: str) -> float:
    delay = float(milliseconds) / 1000
    if not 0 <= delay <= 3600:
        raise ValueError(f"{milliseconds}: expected 0 to 3,600,000 ms")
    return delay


def rules_of(query: dict[str, str]) -> Rules:
    """Rules from their arguments' texts; `from` and `until` bound an outage."""
    values: dict[str, Any] = {key: float(text) for key, text in query.items()}
    outage = values.pop("from", math.inf), values.pop("until", math.inf)
    if unknown := values.keys() - RULES:
        raise ValueError(f"{', '.join(sorted(unknown))}: expected from, until, {', '.join(sorted(RULES))}")
    return Rules(**values, outage=outage)


def rules_text(text: str) -> Rules:
    return rules_of(dict(part.split("=", 1) for part in text.split()))


async def serve(port: int, server: Answerer) -> None:
    """Answer on a port of this machine, which is printed, until SIGINT or SIGTERM."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection each for all threads of all clients
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    listener = await loop.create_server(lambda: Connection(server, loop), "127.0.0.1", port, backlog=4096)
    print(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}, {server.delay * 1000:g} ms a request", flush=True)
    await stop.wait()
    listener.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("port", type=int, help="0 for any that is free; it is printed")
    parser.add_argument("--delay-ms", type=seconds, default=0.0, dest="delay", help="of every answer (default: 0)")
    parser.add_argument("--rules", type=rules_text, default=Rules(), help="what it refuses, as for POST /_rules")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, Server(arguments.delay, arguments.rules)))


if __name__ == "__main__":
    main()
