"""A bare loop, which is what the limit is computed from: no source, no archive, nothing listed or written down.

    python benchmarks/bare.py bucket|FOLDER PHOTOS

Puts as many photos and annotations as asked for from memory, into the bucket of STORAGE_EMULATOR_HOST over THREADS
connections or into a folder, and prints {"objects", "seconds", "cpu"} of the loop alone.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import obstore
from obstore.store import GCSStore

from inputs import sizes

THREADS = 256  # as many puts as this tool has in flight
ANNOTATION = 480  # bytes
BYTES = os.urandom(1_500_000)


def into_bucket(url: str) -> Callable[[str, int], None]:
    key = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    store = GCSStore("bench", service_account_key=json.dumps(key), client_options={"allow_http": True})
    return lambda name, size: (obstore.put(store, name, BYTES[:size], use_multipart=False), None)[1]


def into_folder(folder: str) -> Callable[[str, int], None]:
    def put(name: str, size: int) -> None:
        file = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.write(file, BYTES[:size])
        os.close(file)

    return put


def main() -> None:
    target, photos = sys.argv[1], int(sys.argv[2])
    is_bucket = target == "bucket"
    put = into_bucket(os.environ["STORAGE_EMULATOR_HOST"]) if is_bucket else into_folder(target)
    work = list(itertools.chain.from_iterable((size, ANNOTATION) for size in sizes(photos)))
    names = list(map(str, range(len(work))))
    begin, before = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(THREADS if is_bucket else 1) as pool:
        for _ in pool.map(put, names, work):
            pass
    print(json.dumps({"objects": len(work), "seconds": time.monotonic() - begin, "cpu": time.process_time() - before}))


if __name__ == "__main__":
    main()
