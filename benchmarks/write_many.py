"""Writes so many small objects into a bucket, as one of several processes that share it.

python benchmarks/write_many.py BUCKET FOLDER OBJECTS WRITERS RATE
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from storage.api import ApiBucket
from storage.rate_limit import WriteLimits


def main() -> None:
    name, folder, objects, writers, rate = sys.argv[1:]
    bucket = ApiBucket(name, limits=WriteLimits(float(rate), int(writers)))
    with ThreadPoolExecutor(bucket.max_in_flight) as pool:
        list(pool.map(lambda number: bucket.put(f"{folder}/{number}.jpg", bytes(2000)), range(int(objects))))


if __name__ == "__main__":
    main()
