"""A folder over HTTP, with ranges, at a settable rate for each connection.

    python benchmarks/file_server.py PORT FOLDER [--rate 5e6]

nginx grants every request the first second's bytes immediately, so that many small requests are hardly limited; here a
connection keeps its pace over all its requests.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import MutableMapping
from pathlib import Path
from weakref import WeakKeyDictionary

from aiohttp import web

PIECE = 64 << 10  # bytes between two looks at the clock
LATE = 0.02  # seconds that a connection may be behind its rate and still make up for


class Files:
    """The files of a folder; `rate` is bytes a second for each connection, 0 for no limit."""

    def __init__(self, folder: Path, rate: float) -> None:
        self.folder, self.rate, self.served = folder.resolve(), rate, 0
        self._due: MutableMapping[asyncio.Transport, float] = WeakKeyDictionary()  # when a connection may send again

    async def get(self, request: web.Request) -> web.StreamResponse:
        path = (self.folder / request.match_info["name"]).resolve()
        if not path.is_relative_to(self.folder) or not path.is_file():
            raise web.HTTPNotFound
        if not self.rate or request.method == "HEAD":
            return web.FileResponse(path)
        return await self._slowly(request, path)

    async def _slowly(self, request: web.Request, path: Path) -> web.StreamResponse:
        status = path.stat()
        start, stop, _ = request.http_range.indices(status.st_size)
        response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
        response.headers["ETag"] = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        if response.status == 206:
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{status.st_size}"
        response.content_length = stop - start
        await response.prepare(request)
        with path.open("rb") as file:
            file.seek(start)
            while start < stop:
                piece = file.read(min(PIECE, stop - start))
                await self._pace(request, len(piece))
                await response.write(piece)
                self.served += len(piece)
                start += len(piece)
        return response

    async def count(self, _: web.Request) -> web.Response:
        """How many bytes were sent at the limited rate."""
        return web.Response(text=str(self.served))

    async def _pace(self, request: web.Request, size: int) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        # A little late is made up for: a sleep is always longer than asked for, and 5 MB/s would be 4.7.
        due = max(self._due.get(transport, 0), time.monotonic() - LATE) + size / self.rate
        self._due[transport] = due
        await asyncio.sleep(due - time.monotonic())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="bytes a second for each connection (default: no limit)"
    )
    arguments = parser.parse_args()
    app, files = web.Application(), Files(arguments.folder, arguments.rate)
    app.router.add_get("/_served", files.count)
    app.router.add_get("/{name:.+}", files.get)
    web.run_app(app, host="127.0.0.1", port=arguments.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
