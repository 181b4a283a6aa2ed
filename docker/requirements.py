"""Turns Pipfile.lock into requirements with hashes: `python requirements.py Pipfile.lock default [develop]`."""

import json
import sys
from pathlib import Path

lock = json.loads(Path(sys.argv[1]).read_text())
for name, package in {name: package for part in sys.argv[2:] for name, package in lock[part].items()}.items():
    marker = f" ; {package['markers']}" if "markers" in package else ""
    hashes = "".join(f" --hash={value}" for value in package["hashes"])
    sys.stdout.write(f"{name}{package['version']}{marker}{hashes}\n")
