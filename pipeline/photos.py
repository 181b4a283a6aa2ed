"""Fetch a photo: its bytes, or an outcome and a reason."""

from __future__ import annotations

from errors import GoneError, SourceError, TooLargeError
from manifest.records import FAILED, GONE, NOT_AN_IMAGE, Row
from pipeline.context import MAX_WAITING_BYTES, ByteSemaphore
from sources.content_type import describe, image_type
from sources.cut_images import cut_off
from sources.http import HttpClient
from sources.http_answers import PassingError
from sources.local_files import is_http

USUAL_PHOTO_BYTES = 8 << 20  # bytes; up to this size photos are fetched in parallel
LARGEST_PHOTO = MAX_WAITING_BYTES  # bytes; larger photos are refused
MAX_ATTEMPTS = 3  # for a photo that arrives cut off, as it may be cut off at the source


def fetch_photo(row: Row, table: str, client: HttpClient, room: ByteSemaphore) -> tuple[Row, bytes]:
    """Return the row and the bytes of a photo; without bytes the row has the reason.

    `table` is the URL of the table that lists the photo; `room` bounds the memory of large photos.
    """
    try:
        client.border.check(table, row.source)
        data = _fetch_within(row.source, client, room)
    except GoneError as error:
        return row._replace(outcome=GONE, reason=str(error)), b""
    except SourceError as error:
        return row._replace(outcome=FAILED, reason=str(error)), b""
    if not image_type(data):
        return row._replace(outcome=NOT_AN_IMAGE, reason=f"{row.source}: expected an image, got {describe(data)}"), b""
    return row._replace(size=len(data)), data


def _fetch_within(url: str, client: HttpClient, room: ByteSemaphore) -> bytes:
    """Fetch a photo; a large one alone, to bound the memory."""
    try:
        return _fetch_whole(url, client, USUAL_PHOTO_BYTES)
    except TooLargeError:
        room.acquire(LARGEST_PHOTO)
    try:
        return _fetch_whole(url, client, LARGEST_PHOTO)
    finally:
        room.release(LARGEST_PHOTO)


def _fetch_whole(url: str, client: HttpClient, max_size: int) -> bytes:
    """Fetch a photo whose format shows that it is whole, because not every server sends a length."""

    def attempt() -> bytes:
        data = client.fetch_photo(url, max_size)
        if lack := cut_off(data, image_type(data)):
            raise PassingError(f"damaged: the image is cut off: {lack}")
        return data

    return client.persist(url, attempt, MAX_ATTEMPTS if is_http(url) else 1)
