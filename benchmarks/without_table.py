"""The tool without its table of images, to measure what that costs: without_table.py [the tool's own arguments]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from pipeline import prove, worker

vars(worker)["note_of"] = lambda *_, **__: ""
vars(prove)["NotedRows"] = lambda _: None

from cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
