"""The tool with spans of another size: sized.py MIB [the tool's own arguments]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from archives.spans import LARGE, SPAN
from cli import main

SPAN = LARGE = int(sys.argv.pop(1)) << 20  # before anything takes it over


if __name__ == "__main__":
    sys.exit(main())
