"""This tool beside others, and how it scales: all that benchmarks/results/ holds is made by this.

python benchmarks/bench.py                               everything at full size: twenty minutes for the comparison,
                                                         a quarter for scaling, ten minutes for what
                                                         a mount costs, on two quiet cores
python benchmarks/bench.py --scale 0.02 --rounds 1       a look, in a few minutes
python benchmarks/bench.py --only api,rclone,photos      parts; printed, and written only with --out
"""

from __future__ import annotations

import argparse
from pathlib import Path

import forecast
import mounting
import scaling
from compare import compare
from course import course
from ways import SETTINGS, WAYS

RESULTS = Path(__file__).parent / "results"
PARTS = (*WAYS, *scaling.PARTS, mounting.PART)


def names(text: str) -> list[str]:
    found = text.split(",")
    if unknown := set(found) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the input (default: %(default)s: 41,163 files)")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison (default: %(default)s)")
    parser.add_argument("--only", type=names, default=[], metavar="PART,…", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--delay-ms", type=int, action="append", default=[], metavar="N",
                        help="of a request, for the comparison; may be repeated (default: 0, 20 and 50)")  # fmt: skip
    parser.add_argument("--out", type=Path, help=f"folder for the results (default, without --only: {RESULTS})")
    parser.add_argument("--scratch", type=Path, help="folder for inputs and temporary files (default: /dev/shm)")
    options = parser.parse_args()
    only, out = options.only or PARTS, options.out or (None if options.only else RESULTS)
    with course(options.scratch) as at:
        if set(only) & set(WAYS):
            settings = [it for it in SETTINGS if not options.delay_ms or round(it.delay * 1000) in options.delay_ms]
            compare(at, options.scale, options.rounds, only, out, settings)
        if set(only) & set(scaling.PARTS):
            scaling.measure(at, options.scale, only, out)
        if mounting.PART in only:
            mounting.measure(at, options.scale, options.rounds, out)
    if out and {"api", "members", "photos"} <= set(only):
        forecast.write(out)


if __name__ == "__main__":
    main()
