"""One upload by each way that Google Cloud Storage takes uploads."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from urllib.parse import quote

import google_crc32c
import requests

from support.fake_gcs import GcsFront

Headers = Mapping[str, str]
BUCKET = "canary-bucket"
NONE: Headers = {}


def upload(
    front: GcsFront,
    api: str,
    name: str,
    data: bytes = b"data",
    generation: str = "",
    bucket: str = BUCKET,
    headers: Headers = NONE,
) -> requests.Response:
    """Store an object through one of the four ways that there are."""
    if api == "xml":
        condition = {"x-goog-if-generation-match": generation} if generation else {}
        request = requests.Request("PUT", front.url, data=data, headers={**headers, **condition}).prepare()
        request.url = f"{front.url}/{bucket}/{quote(name, safe='').replace('.', '%2E')}"  # as obstore has it
        with requests.Session() as session:
            return session.send(request)
    url = f"{front.url}/upload/storage/v1/b/{bucket}/o?uploadType={api}"
    url += f"&ifGenerationMatch={generation}" if generation else ""
    if api == "media":
        return requests.post(f"{url}&name={quote(name, safe='')}", data=data, headers=headers)
    metadata = json.dumps({"name": name}).encode()
    if api == "multipart":
        body = (
            b"--edge\r\nContent-Type: application/json\r\n\r\n%b\r\n--edge\r\nContent-Type: a/b\r\n\r\n%b\r\n--edge--"
        )
        related = {"Content-Type": "multipart/related; boundary=edge"}
        return requests.post(url, data=body % (metadata, data), headers={**headers, **related})
    start = requests.post(url, data=metadata)
    return requests.put(start.headers["Location"], data=data, headers=headers) if start.ok else start


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
