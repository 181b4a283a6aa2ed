"""Sends the uploads of google-cloud-storage when the line to the bucket admits them."""

from __future__ import annotations

import io
import socket
from contextlib import suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from storage.line import Line

UNSENT_BYTES = 128 << 10  # unsent bytes that the system buffers for each connection


class LineAdapter(HTTPAdapter):
    """Sends uploads when the line admits them, with a time-out of progress instead of one for the whole body.

    requests sends bytes by one call, whose time-out is for all of them (socket.sendall), and a file in small blocks.
    Bytes that the system has buffered have no time-out, so it buffers little (TCP_NOTSENT_LOWAT, tcp(7)).
    """

    def __init__(self, line: Line, connections: int) -> None:
        self._line = line
        super().__init__(pool_maxsize=connections)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        options = [*HTTPConnection.default_socket_options]
        unsent = socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES
        with suppress(OSError), socket.socket() as probe:  # some sandboxes do not have this option
            probe.setsockopt(*unsent)
            options.append(unsent)
        super().init_poolmanager(*arguments, socket_options=options, **named)

    def send(self, request: requests.PreparedRequest, *arguments: Any, **named: Any) -> requests.Response:
        if request.method != "PUT" or not isinstance(request.body, bytes):
            return super().send(request, *arguments, **named)
        with self._line.sending(len(request.body)):
            request.prepare_body(io.BytesIO(request.body), None)
            return super().send(request, *arguments, **named)
