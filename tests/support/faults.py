"""All faults of the campaign, and those that only its long form tries."""

from __future__ import annotations

import random
import signal
from dataclasses import replace

from support.bucket_faults import BUCKET, PUTS
from support.fault_harness import Fault, Site
from support.source_faults import SOURCE, TAR
from support.source_server import Plan

# ── credentials, as a Google VM has them ─────────────────────────────────────────────────────────


def old_tokens(site: Site, _: random.Random) -> None:
    """Tokens that live for a few seconds; google-auth asks for a new one 225 s before it is over."""
    site.google.claimed, site.google.life = 225 + 2, 4
    site.source.plan(TAR, Plan(drip=0.008))


def revoked(site: Site, rng: random.Random) -> None:
    """From some put on no token is good that was handed out before."""
    left = [rng.randrange(5, PUTS)]

    def accepts(token: str) -> bool:
        left[0] -= 1
        if left[0] == 0:
            site.google.revoke()
        return site.google.accepts(token)

    site.front.accepts = accepts


CREDENTIALS = (
    Fault("tokens that expire as announced", old_tokens, places=("google",)),
    Fault("a token that is refused before its time", revoked, places=("google",)),
    Fault("every token is refused", lambda site, _: setattr(site.google, "life", 0), 1, "401", places=("google",)),
)

# ── kills, at random moments (test_chaos_kills.py) ───────────────────────────────────────────────

WAYS = {"api": 10, "folder": 10, "api, two processes": 2}  # hits with each signal in a round of make chaos
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

# Each of these is so much like another that `make test` leaves it to `make chaos`.
ALIKE = frozenset(
    {
        "408, a few times",
        "502, a few times",
        "504, a few times",
        "410",
        "403, once",
        "Content-Encoding gzip, once",
        "another Last-Modified in the middle",
        "a zip that was cut off",
        "an answer that is no HTTP",
        "Content-Range that is none",
        "each answer a second late",
        "a redirect to ftp://",
        "an empty archive",
        "connection refused",
        "500 to photos, a few times",
        "408 to some puts",
        "500 to some puts",
        "502 to some puts",
        "504 to some puts",
        "504 after it is stored",
        "503 to whether the bucket exists",
        "503 to a folder's placeholder",
        "503 to what is deleted",
        "503 to what is read",
        "429 to the listing",
        "a chunk reset after it is stored",
        "the bucket's name is taken",
        "the bucket may not be created",
        "400 to the manifest",
    }
)
FAULTS = [replace(fault, is_long=fault.is_long or fault.name in ALIKE) for fault in (*SOURCE, *BUCKET, *CREDENTIALS)]
