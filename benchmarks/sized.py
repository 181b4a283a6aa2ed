"""The tool with spans of another size: sized.py MIB [the tool's own arguments]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import spans

spans.SPAN = spans.LARGE = int(sys.argv.pop(1)) << 20  # before anything takes it over

import cli  # noqa: E402

if __name__ == "__main__":
    sys.exit(cli.main())
