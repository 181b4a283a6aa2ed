"""The lease of a dataset in a bucket, for one writer at a time: an object that is renewed.

storage/lock.py is its counterpart for directories. The object is created and renewed with ifGenerationMatch, so only
one of two runs succeeds. A run that was paused for longer than LEASE_SECONDS renews the lease before it writes
anything, and ends if another run has taken it over. https://cloud.google.com/storage/docs/request-preconditions
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

import google.api_core.exceptions
from google.cloud import storage

from errors import BucketError, BusyError
from storage.api_errors import judge
from storage.bucket import Lease, reason
from storage.bucket_admin import NO_ANSWER, understood
from storage.lock import UNHELD, Holder, described, is_gone, myself, now
from storage.rate_limit import RateLimiter

log = logging.getLogger("spotted")

LEASE_SECONDS = 30.0  # seconds after the last renewal until a lease expires
RENEWAL_INTERVAL = 8.0  # seconds between two renewals
POLL_INTERVAL = 0.5  # seconds between two looks at another run's lease
DENIED = (google.api_core.exceptions.Forbidden, google.api_core.exceptions.Unauthorized)


class ObjectLease(Lease):
    """A lease that is an object of a bucket; its metadata name the holder."""

    def __init__(
        self, bucket: storage.Bucket, name: str, limiter: RateLimiter, clock: Callable[[], float] = now
    ) -> None:
        self._bucket, self._name, self.where = bucket, name, f"gs://{bucket.name}/{name}"
        self._limiter, self._clock, self._renewed, self._generation = limiter, clock, clock(), 0
        self._lock, self._over, self._holder = threading.Lock(), threading.Event(), myself()
        self._is_kept = False  # whether the bucket does not allow it to be renewed or removed
        self._lost = ""  # description of the run that has taken it over

    @contextlib.contextmanager
    def held(self) -> Iterator[ObjectLease]:
        """Take the lease and renew it while the context lasts; raises BusyError if another run holds it."""
        self._take()
        thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            ending = threading.Thread(target=self._release, daemon=True)  # so that an interrupted program need not wait
            ending.start()
            ending.join(1)

    def check(self) -> None:
        """Raise BucketError if another run has taken it over."""
        if self._lost:
            raise BucketError(f"{self._lost}; this run ends")
        if self._clock() - self._renewed > LEASE_SECONDS and not self._is_kept:
            self.renew(LEASE_SECONDS)

    def renew(self, age: float = 0) -> None:
        """Renew it for LEASE_SECONDS if the last renewal is `age` seconds old; raises BucketError as check() does."""
        with self._lock:
            is_young = self._clock() - self._renewed < age
            if self._over.is_set() or self._is_kept or is_young or self._write(self._generation):
                return
            found = self._find()
            other = f"{described(self.where, found[1])}, since this one was silent for too long" if found else ""
            self._lost = other or f"{self.where}: another program has removed the lease"
        self.check()

    def _take(self) -> None:
        seen, since = 0, self._clock()
        while found := self._find():
            generation, holder = found
            if not seen:
                log.info(
                    "%s; waiting for up to %.0f s to see whether it still does",
                    described(self.where, holder),
                    LEASE_SECONDS,
                )
            elif generation != seen:
                who = described(self.where, holder)
                raise BusyError(
                    f"{who}: wait for its end, or end it; what is left of a run that has ended is taken over after"
                    f" {LEASE_SECONDS:.0f} s"
                )
            seen = generation
            if (is_gone(holder) or self._clock() - since > LEASE_SECONDS) and self._write(generation):
                log.info("%s: taken over, for its run has ended", self.where)
                return
            time.sleep(POLL_INTERVAL)
        if not self._write(0):  # another run has created it meanwhile
            self._take()

    def _find(self) -> tuple[int, Holder] | None:
        with understood(self.where, "the lease"):
            try:
                found = self._bucket.get_blob(self._name, timeout=30)
            except DENIED:
                return None
            except NO_ANSWER as error:
                raise BucketError(f"{self.where}: no lease can be taken: {reason(error)}") from error
        return (int(found.generation or 0), found.metadata or {}) if found else None

    def _write(self, generation: int) -> bool:
        """Write the object if it has this generation; returns whether it did, also if the answer was lost."""
        blob = self._bucket.blob(self._name)
        blob.metadata = self._holder
        try:
            with understood(self.where, "the answer to the lease"):
                self._limiter.run(
                    lambda: blob.upload_from_string(b"", if_generation_match=generation, timeout=30, retry=None), judge
                )
                self._generation = int(blob.generation or 0)
        except google.api_core.exceptions.PreconditionFailed as error:
            found = self._find()
            if found is None and generation == 0:  # what must not exist does not: a policy of the organisation
                raise BucketError(f"{self.where}: no lease can be taken: {reason(error)}") from error
            if found is None or found[1] != self._holder:
                return False
            self._generation = found[0]
        except DENIED as error:
            log.warning(UNHELD, self.where, reason(error))
            self._is_kept = True
        except NO_ANSWER as error:
            raise BucketError(f"{self.where}: no lease can be taken: {reason(error)}") from error
        self._renewed = self._clock()
        return True

    def _keep(self) -> None:
        while not self._over.wait(RENEWAL_INTERVAL) and not self._is_kept and not self._lost:
            with contextlib.suppress(Exception):  # tried again; check() raises once it is too late
                self.renew()

    def _release(self) -> None:
        with self._lock, contextlib.suppress(Exception):  # otherwise it expires
            if not self._is_kept:
                self._bucket.blob(self._name).delete(if_generation_match=self._generation, timeout=10)
