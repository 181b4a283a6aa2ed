"""What Google Cloud Storage does with each kind of request, with fake-gcs-server behind it as the store."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

import aiohttp
from aiohttp import web
from yarl import URL

from support.fake_gcs_answers import json_answer, rewindable, xml_stored
from support.fake_gcs_requests import (
    CHUNK,
    MARK,
    Call,
    Hashes,
    Refused,
    Upload,
    backend_name,
    backend_path,
    check_bucket,
    check_hashes,
    check_name,
    hashes_of,
    upload_parts,
)

PASSED_ON = {"range", "if-match", "if-none-match", "content-type"}


class Store:
    """Carries requests out as GCS does; what it refuses raises Refused."""

    url: str  # for STORAGE_EMULATOR_HOST
    _session: aiohttp.ClientSession  # to fake-gcs-server
    _backend: str  # its URL

    def __init__(self) -> None:
        self._uploads: dict[str, Upload] = {}
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self.reset()

    def reset(self) -> None:
        """Forget what was counted and what buckets are; objects stay."""
        self.page = 1000  # objects in one answer to a listing
        self.created: list[dict[str, Any]] = []  # what was asked for with each new bucket
        self.projects: list[str | None] = []  # and in which project
        self.puts: Counter[str] = Counter()  # how often each name was stored, also where the answer was lost
        self.keeping: set[str] = set()  # buckets with a retention policy: nothing in them is replaced or removed
        self.encrypted: set[str] = set()  # buckets whose objects a customer's key encrypts
        self.hierarchical: set[str] = set()  # buckets with a hierarchical namespace
        self.requester_pays: set[str] = set()  # buckets whose requests must name a project that is charged
        self.payers: set[str] = set()  # what the requests named; "" for nothing
        self.foreign_projects: set[str] = set()  # that the account may not have charged
        self.described: dict[str, Any] = {}  # more fields of every bucket's description

    async def _act(self, call: Call) -> web.Response:
        match call.kind:
            case "other":
                raise Refused(501, f"{call.request.method} {call.request.raw_path}: not an API that the front has")
            case "xml.put":
                return xml_stored(await self._store(call, call.body, hashes_of(call)))
            case "json.upload":
                return json_answer(await self._store(call, call.body, hashes_of(call)))
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
                check_bucket(self.created[-1].get("name", ""))
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

    def _charge(self, call: Call) -> None:
        """Refuse what cannot be charged to a project. https://cloud.google.com/storage/docs/requester-pays"""
        payer = call.query.get("userProject") or call.request.headers.get("x-goog-user-project") or ""
        self.payers.add(payer)
        if payer in self.foreign_projects:
            message = f"does not have serviceusage.services.use access to the Google Cloud project {payer}."
            raise Refused(403, f"test@example.com {message}", "UserProjectAccessDenied")
        if call.bucket in self.requester_pays and not payer:
            message = "Bucket is a requester pays bucket but no user project provided."
            raise Refused(400, message, "UserProjectMissing")

    async def _describe(self, call: Call) -> web.Response:
        """A bucket's description, or its layout (https://cloud.google.com/storage/docs/json_api/v1/buckets#resource)."""
        status, answer = await self._ask("GET", f"/storage/v1/b/{call.bucket}")
        if status != 200:
            raise Refused(404, f"no bucket {call.bucket}")
        namespace = {"hierarchicalNamespace": {"enabled": call.bucket in self.hierarchical}}
        if call.kind == "json.bucket.layout":
            layout = {"kind": "storage#storageLayout", "bucket": call.bucket, "location": answer.get("location", "")}
            return json_answer(layout | namespace)
        if call.bucket in self.keeping:
            answer["retentionPolicy"] = {"retentionPeriod": "315360000", "effectiveTime": "2026-01-01T00:00:00Z"}
        return json_answer(answer | namespace | self.described)

    async def _check_kept(self, call: Call) -> None:
        """Refuse to replace or to remove what a retention policy keeps. https://cloud.google.com/storage/docs/bucket-lock"""
        if call.bucket in self.keeping and (await self._ask("GET", backend_path(call)))[0] == 200:
            message = f"Object '{call.bucket}/{call.name}' is subject to bucket's retention policy"
            raise Refused(403, f"{message} and cannot be deleted or overwritten", "retentionPolicyNotMet")

    def _read(self, call: Call) -> None:
        """Fill in an upload's name and metadata, which may come in its body or with an earlier request."""
        content = call.request.headers.get("Content-Type", "application/octet-stream")
        if call.kind in ("json.upload", "json.resumable"):
            call.metadata, call.body, content = upload_parts(call, content)
            call.name = str(call.metadata.get("name", call.name))
        elif call.kind in ("json.chunk", "json.cancel"):
            call.name = self._upload(call).call.name
        call.metadata.setdefault("contentType", content)

    async def _store(self, call: Call, data: bytes, hashes: Hashes) -> dict[str, Any]:
        """Store an object if GCS would; answers its metadata."""
        check_name(call.name)
        check_hashes(data, hashes)
        async with self._lock(call):
            await self._check_generation(call)
            await self._check_kept(call)
            text = json.dumps({**call.metadata, "name": backend_name(call.name)}).encode()
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
            status, answer = await self._ask("GET", backend_path(call))
            if call.generation != (answer["generation"] if status == 200 else "0"):
                raise Refused(412, "at least one of the pre-conditions you specified did not hold")

    async def _start(self, call: Call) -> web.Response:
        check_name(call.name)
        await self._check_generation(call)
        await self._check_kept(call)
        status, _ = await self._ask("GET", f"/storage/v1/b/{call.bucket}")
        if status != 200:
            raise Refused(404, f"no bucket {call.bucket}")
        key = uuid.uuid4().hex
        self._uploads[key] = Upload(call)
        where = f"{call.request.url.origin()}/upload/storage/v1/b/{call.bucket}/o?uploadType=resumable&upload_id={key}"
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
            hashes = hashes_of(upload.call) + hashes_of(call)
            upload.answer = json_answer(await self._store(upload.call, bytes(upload.data), hashes))
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
        url = URL(f"{self._backend}{backend_path(call)}?{query}", encoded=True)
        async with self._session.request(method, url, data=rewindable(call.body), headers=headers) as answer:
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
        if call.query.get("includeTrailingDelimiter") == "true":
            body = await self._with_placeholders(call, json.loads(body))
        if call.kind == "json.list" and call.bucket in self.encrypted:
            # https://cloud.google.com/storage/docs/encryption/customer-managed-keys#restrictions
            body = re.sub(rb'"(crc32c|md5Hash)":"[^"]*",?', b"", body)
        for name in ("Content-Length", "Transfer-Encoding", "Date"):  # the front's own
            kept.popall(name, None)
        return web.Response(status=answer.status, headers=kept, body=body)

    async def _with_placeholders(self, call: Call, listed: dict[str, Any]) -> bytes:
        """A listing whose items include objects that end with the delimiter, which fake-gcs-server does not know."""
        for prefix in listed.get("prefixes", ()):
            path = f"/storage/v1/b/{call.bucket}/o/{quote(backend_name(prefix), safe='')}"
            status, found = await self._ask("GET", path)
            if status == 200:
                listed["items"] = [*(listed.get("items") or ()), found | {"name": prefix}]
        return json.dumps(listed).encode()

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        url = URL(self._backend + path, encoded=True)
        async with self._session.request(method, url, data=rewindable(body), headers=headers) as answer:
            return answer.status, json.loads(await answer.read())
