"""The usual way: download whole, unpack into a temporary folder, copy with a pool of processes into the mounted bucket.

The mount is made with the same flags as this tool's own. After source and mount point, the number of processes may be
given; as many as cores otherwise.
"""

import os
import shutil
import sys
import tarfile
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from storage.gcsfuse import Mountable, mounted

FOLDERS = {"images.tar": "x", "annotation.tar": "x", "lists.tar": "x/lists"}


def copy(source: Path, root: Path, target: Path) -> None:
    place = target / source.relative_to(root)
    os.makedirs(place.parent, exist_ok=True)
    shutil.copy(source, place)


def main() -> None:
    source, target = sys.argv[1], Path(sys.argv[2])
    processes = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    for name, folder in FOLDERS.items():
        urllib.request.urlretrieve(f"{source}/{name}", name)
        with tarfile.open(name) as archive:
            archive.extractall(folder, filter="data")
    files = [path for path in Path("x").rglob("*") if path.is_file()]
    with mounted(Mountable("bench"), target), ProcessPoolExecutor(processes or None) as pool:
        list(pool.map(partial(copy, root=Path("x"), target=target), files, chunksize=16))


if __name__ == "__main__":
    main()
