"""A Google Cloud Storage for tests: fake-gcs-server behind a front that answers as GCS does, and misbehaves to plan.

fake-gcs-server takes names and checksums that GCS refuses, ignores preconditions, answers the XML API's PUT without
an ETag, and stores a chunk that is sent twice twice. The front answers these itself and forwards the rest.

    with GcsFront() as front:
        os.environ["STORAGE_EMULATOR_HOST"] = front.url
        front.create_bucket("bucket")
        front.fail("xml.put", 503, times=2)

Requests have kinds: xml.put, xml.get, xml.head, xml.delete; json.list, json.get, json.media (a download),
json.delete, json.upload (media and multipart), json.resumable (a resumable upload's start), json.chunk, json.cancel;
json.bucket.list, .get, .create, .patch, .delete, .layout. All else is "other" and answered 501, never guessed at.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
from aiohttp import web
from yarl import URL

from support.fake_gcs_answers import error_answer, reset_connection, xml_stored
from support.fake_gcs_process import FakeGcsServer
from support.fake_gcs_requests import (
    MARK,
    Call,
    Plan,
    Refused,
    backend_name,
    check_parameters,
    flipped,
    parsed,
)
from support.fake_gcs_store import Store

T = TypeVar("T")
SILENCE = 0  # the status of no answer at all


class GcsFront(Store):
    """The front and the fake-gcs-server behind it, from __enter__ to __exit__."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []  # of the front itself; __exit__ raises them
        self._closing = AsyncExitStack()
        super().__init__()

    def reset(self) -> None:
        """Forget plans, denials, delay and counts; objects stay."""
        super().reset()
        self.delay = 0.0  # seconds, before each answer
        self.counts: Counter[str] = Counter()  # requests by kind, failed ones too
        self.gets: Counter[str] = Counter()  # how often each name's bytes were asked for
        self.refused: Counter[str] = Counter()  # requests by kind that were over their limit
        self._limits: dict[str, int] = {}
        self._taken: defaultdict[str, deque[float]] = defaultdict(deque)  # when requests of a kind were taken
        self._denied: set[str] = set()
        self._confined: dict[str, str] = {}  # bucket → prefix
        self.outside: Counter[str] = Counter()  # requests by kind that were refused for what is outside of a prefix
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

    def drop(self, kind: str, times: int = 1, after: int = 0) -> None:
        """Reset the connection of the next `times` requests instead of answering; nothing is stored."""
        self._plans.append(Plan(kind, None, times, {}, None, stores=False, after=after))

    def commit_then_fail(
        self, kind: str, times: int = 1, status: int | None = None, name: str | None = None, after: int = 0
    ) -> None:
        """Carry out the next `times` requests, then reset the connection, or answer `status`."""
        self._plans.append(Plan(kind, status, times, {}, name, stores=True, after=after))

    def commit_then_hang(self, kind: str, times: int, after: int) -> None:
        """Carry out the next `times` requests, and never answer."""
        self._plans.append(Plan(kind, SILENCE, times, {}, None, stores=True, after=after))

    def lose(self, kind: str, times: int, after: int) -> None:
        """Answer the next `times` requests as if they were carried out."""
        self._plans.append(Plan(kind, None, times, {}, None, stores=False, loses=True, after=after))

    def corrupt(self, kind: str, name: str, times: int = 1) -> None:
        """Change one bit in the middle of the body of the next `times` requests that have one, and carry them out."""
        self._plans.append(Plan(kind, None, times, {}, name, stores=True, flips=True))

    def delete_bucket(self, after: int) -> None:
        """Have somebody delete the bucket that is put into, with all that is in it, once so many objects were put."""
        self._doomed_after = after

    def limit(self, kind: str, per_second: int) -> None:
        """Answer 429 to what comes of a kind beyond so many in a second, until reset()."""
        self._limits[kind] = per_second

    def deny(self, *kinds: str) -> None:
        """Answer 403 to all requests of these kinds, until reset()."""
        self._denied |= set(kinds)

    def confine(self, bucket: str, prefix: str) -> None:
        """Answer 403 to all that an IAM condition on this prefix does not grant, until reset().

        A listing must name it (storage.googleapis.com/objectListPrefix), and so must the bucket's layout; the bucket's
        description, its creation and the list of buckets are beyond such an account.
        https://cloud.google.com/iam/docs/conditions-attribute-reference
        """
        self._confined[bucket] = prefix

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
        return self._wait(self._read_object(f"/storage/v1/b/{bucket}/o/{quote(backend_name(name), safe='')}?alt=media"))

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
        call = parsed(request, await request.content.read())  # request.read() ends at 1 MiB
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
            return error_answer(call, error)
        except Exception as error:
            self.errors.append(error)
            raise

    async def _act_by(self, plan: Plan, call: Call) -> web.Response:
        self.struck += 1
        if plan.flips:
            call.body = flipped(call.body, len(call.body) // 2)
            return await self._act(call)
        if plan.loses:
            return xml_stored({"etag": "1", "generation": "1", "md5Hash": ""})
        if plan.stores:
            await self._act(call)
        if plan.status is None:
            return reset_connection(call.request)
        if plan.status == SILENCE:
            await asyncio.sleep(3600)
        if plan.body is not None:
            answer = web.Response(status=plan.status, body=plan.body, content_type="application/json")
        else:
            answer = error_answer(call, Refused(plan.status, "planned"))
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
        check_parameters(call)
        self._charge(call)
        if call.kind in self._denied:
            self.struck += 1
            raise Refused(403, f"{call.kind} is denied", "AccessDenied")
        if self._is_outside(call):
            self.outside[call.kind] += 1
            raise Refused(403, f"{call.kind} of {call.bucket}/{call.name} is outside of the prefix", "AccessDenied")

    def _is_outside(self, call: Call) -> bool:
        if call.kind in ("json.bucket.create", "json.bucket.list"):
            return bool(self._confined)
        named = call.query.get("prefix", "") if call.kind in ("json.list", "json.bucket.layout") else call.name
        return not named.startswith(self._confined.get(call.bucket, ""))

    def _is_over(self, kind: str) -> bool:
        taken, now = self._taken[kind], time.monotonic()
        while taken and taken[0] <= now - 1:
            taken.popleft()
        is_over = len(taken) >= self._limits.get(kind, sys.maxsize)
        if not is_over:
            taken.append(now)
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


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # it is optional, and has no Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
