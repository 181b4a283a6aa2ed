"""A SHA-256 whose state can be written down and restored, which hashlib does not offer.

OpenSSL's functions of <openssl/sha.h> have it: their state is a structure of plain numbers. hashlib uses the same
library, so neither is faster. Without the library there is no state, and archives are read again instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import sys

LIBRARY = "libcrypto.so.3"
FUNCTIONS = ("SHA256_Init", "SHA256_Update", "SHA256_Final")


class State(ctypes.Structure):
    """SHA256_CTX."""

    _fields_ = (
        ("h", ctypes.c_uint32 * 8),
        ("bits", ctypes.c_uint32 * 2),
        ("block", ctypes.c_uint32 * 16),
        ("used", ctypes.c_uint),
        ("length", ctypes.c_uint),
    )


def _library() -> ctypes.CDLL | None:
    """Open OpenSSL's library; None where it is missing, lacks these functions, or has numbers in another byte order."""
    with contextlib.suppress(OSError):
        library = ctypes.CDLL(LIBRARY)
        if sys.byteorder == "little" and all(hasattr(library, name) for name in FUNCTIONS):
            return library
    return None


class Sha256:
    """A SHA-256 of bytes in their order; begins with a `state` of another one, if it is given."""

    def __init__(self, state: bytes = b"") -> None:
        self._library, self._state, self._plain = _library(), State(), hashlib.sha256()
        if self._library:
            self._library.SHA256_Init(ctypes.byref(self._state))
            if state:
                self._state = State.from_buffer_copy(state)

    def update(self, data: memoryview) -> None:
        """Add bytes."""
        if not self._library:
            self._plain.update(data)
        elif data:
            held = bytes(data) if data.readonly else ctypes.byref(ctypes.c_char.from_buffer(data))  # without a copy
            self._library.SHA256_Update(ctypes.byref(self._state), held, ctypes.c_size_t(len(data)))

    def state(self) -> bytes:
        """The state after the bytes so far; b"" where there is none."""
        return bytes(self._state) if self._library else b""

    def hexdigest(self) -> str:
        """The checksum of the bytes so far."""
        if not self._library:
            return self._plain.hexdigest()
        found, end = ctypes.create_string_buffer(32), State.from_buffer_copy(self._state)
        self._library.SHA256_Final(found, ctypes.byref(end))
        return found.raw.hex()


def is_state(data: bytes) -> bool:
    """Whether a state of this form can be restored here."""
    return len(data) == ctypes.sizeof(State) and _library() is not None
