"""Answers in the words of Google Cloud Storage's two APIs."""

from __future__ import annotations

import io
import json
import socket
import struct
from typing import Any
from xml.sax.saxutils import escape

from aiohttp import web

from support.fake_gcs_requests import Call, Refused


def rewindable(body: bytes | None) -> io.BytesIO | None:
    return io.BytesIO(body) if body else None  # aiohttp warns of large bytes, though they are held either way


def json_answer(answer: dict[str, Any]) -> web.Response:
    return web.Response(body=json.dumps(answer).encode(), content_type="application/json")


def xml_stored(metadata: dict[str, Any]) -> web.Response:
    checksum = metadata.get("crc32c", "AAAAAA==")  # of nothing
    headers = {"ETag": f'"{metadata["etag"]}"', "x-goog-generation": metadata["generation"]}
    return web.Response(headers={**headers, "x-goog-hash": f"crc32c={checksum},md5={metadata['md5Hash']}"})


def error_answer(call: Call, error: Refused) -> web.Response:
    """An error in the words of the API that was asked."""
    if call.is_xml:
        text = f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error>"
        text = f"<?xml version='1.0' encoding='UTF-8'?>{text}"
        return web.Response(status=error.status, text=text, content_type="application/xml")
    one = {"domain": "global", "reason": error.code, "message": str(error)}
    answer = json_answer({"error": {"code": error.status, "message": str(error), "errors": [one]}})
    answer.set_status(error.status)
    return answer


def reset_connection(request: web.BaseRequest) -> web.Response:
    """Close the connection with a reset; what is answered then goes nowhere."""
    if request.transport is not None:
        request.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        request.transport.abort()
    return web.Response()
