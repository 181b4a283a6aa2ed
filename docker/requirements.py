"""Turns Pipfile.lock into requirements.txt with hashes, as `pipenv requirements --hash` does, without pipenv."""

import json
import sys
from pathlib import Path

for name, package in json.loads(Path(sys.argv[1]).read_text())["default"].items():
    marker = f" ; {package['markers']}" if "markers" in package else ""
    hashes = "".join(f" --hash={value}" for value in package["hashes"])
    sys.stdout.write(f"{name}{package['version']}{marker}{hashes}\n")
