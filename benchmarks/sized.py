"""The tool with spans of another size: sized.py MIB [the tool's own arguments]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from archives import spans

spans.SPAN_BYTES = spans.LARGE = int(sys.argv.pop(1)) << 20  # before another module imports them

from cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
