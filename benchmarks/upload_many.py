"""What a Python user would write: `transfer_manager.upload_many_from_filenames` over an unpacked folder."""

import sys
from pathlib import Path

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage import transfer_manager

WORKERS = 64  # threads; more are no faster, for they share one interpreter

folder, bucket = sys.argv[1:]
names = [str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()]
client = storage.Client(project="x", credentials=AnonymousCredentials())
results = transfer_manager.upload_many_from_filenames(
    client.bucket(bucket), names, source_directory=folder, max_workers=WORKERS, worker_type=transfer_manager.THREAD
)
if failed := [result for result in results if isinstance(result, Exception)]:
    sys.exit(f"{len(failed)} uploads failed; the first: {failed[0]}")
