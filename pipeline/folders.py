"""Put placeholder objects for folders, in threads, while the units run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from errors import BucketError, KeptError, MemberError
from manifest.records import FAILED, Row
from pipeline.context import ByteSemaphore
from storage.bucket import Bucket

FOLDERS_AT_ONCE, FOLDERS_WAITING = 64, 1000


class FolderPlaceholders:
    """Empty objects `folder/`: GCSFuse without implicit dirs shows only folders that have one.

    Without a bucket, or in one that has folders of its own, nothing is put. Leaving the context cancels what waits.
    """

    def __init__(self, bucket: Bucket | None) -> None:
        self.bucket = bucket
        self.existing = set[str]()  # of an earlier run
        self.created = set[str]()
        self.failed = list[Row]()
        self._threads, self._waiting = ThreadPoolExecutor(FOLDERS_AT_ONCE), ByteSemaphore(FOLDERS_WAITING)

    def __enter__(self) -> FolderPlaceholders:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def create(self, names: Iterable[str]) -> None:
        """Queue the placeholders of these folders, except existing ones."""
        if self.bucket is None or self.bucket.has_folders:
            return
        for name in sorted(set(names) - self.existing - self.created):
            self.created.add(name)
            self._waiting.acquire(1)
            self._threads.submit(self._put, self.bucket, name)

    def _put(self, bucket: Bucket, name: str) -> None:
        try:
            with contextlib.suppress(KeptError):  # another program's has bytes: it shows the folder too
                bucket.put(name, b"")
        # A file and a folder of one name in a directory, or a bucket that cannot be written. No thread takes this
        # exception, so the folder is reported as missing.
        except (MemberError, BucketError) as error:
            self.failed.append(Row(name, 0, 0, "", 0, FAILED, str(error)))
        finally:
            self._waiting.release(1)

    def wait(self) -> None:
        """Wait until all are put."""
        self._waiting.acquire(FOLDERS_WAITING)
        self._waiting.release(FOLDERS_WAITING)

    def discard(self, names: set[str]) -> None:
        """Forget failures of these folders, which do not belong to the dataset."""
        self.failed = [row for row in self.failed if row.path not in names]
