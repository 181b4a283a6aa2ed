"""--list: prints the datasets that can be extracted."""

from __future__ import annotations

import json
import logging
import shutil
import textwrap
from collections.abc import Iterator

from datasets import Dataset
from pipeline.options import RunOptions
from report.humanize import amount

log = logging.getLogger("spotted")
MAX_COLUMNS = 120  # columns of running text


def run(options: RunOptions) -> int:
    """Print the datasets; return 0."""
    for each in options.datasets:
        if options.log_format == "json":
            fields = {"dataset": each.name, "title": each.title, "group": each.group, "objects": each.objects,
                      "bytes": each.size, "licence": each.licence, "home": each.home}  # fmt: skip
            print(json.dumps(fields))
        else:
            print("\n".join(_listed(each)), end="\n\n")
    if options.filter:
        log.info("the figures are those of all, not of %s", options.filter)
    return 0


def _listed(each: Dataset) -> Iterator[str]:
    """Yield name and title of a dataset, then a line for each fact, wrapped with a hanging indent."""
    options = {"breed": "-a, -b", "individual": "-a, -i", "": ""}[each.group]
    about = "about " if each.tables else ""  # some photos are always gone
    facts = {
        "options": ", ".join(filter(None, (options, f"-d {each.name}"))),
        "size": f"{about}{amount(each.size)} to download" if each.size else "not known before it is planned (--plan)",
        "objects": f"{about}{each.objects:,}" if each.objects else "not known before it is extracted",
        "licence": each.licence,
        "home": each.home,
    }
    yield f"{each.name}: {each.title}"
    for name, text in ((name, text) for name, text in facts.items() if text):
        yield textwrap.fill(text, min(shutil.get_terminal_size().columns, MAX_COLUMNS), initial_indent=f"  {name:<9}",
                            subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)  # fmt: skip
