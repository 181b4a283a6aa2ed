"""Images as Pillow writes them."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The file of an image; `kind` and the options are those of Pillow's `save`."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
