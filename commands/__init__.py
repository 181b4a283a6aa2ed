"""The commands, one module each; `run` starts the one that the options name."""

from __future__ import annotations

import threading

from commands import listing
from pipeline.machine import check_proc, find_temporary_folder, raise_limit
from pipeline.options import RunOptions
from report.log import start_log
from sources import network


def run(options: RunOptions, interrupted: threading.Event) -> int:
    """Run the command of the options; 0, or the exit status of the worst failure."""
    start_log(options)
    raise_limit()
    network.share()
    find_temporary_folder()
    if options.command == "list":  # the others import dask and the libraries of the clouds, which takes a second
        return listing.run(options)
    check_proc()
    from commands import check, extract, plan, repair, shards, verify

    commands = {"plan": plan.run, "check": check.run}
    if options.command in commands:
        return commands[options.command](options)
    opened = {"extract": extract, "verify": verify, "repair": repair, "shards": shards}
    return extract.run_datasets(options, opened[options.command].open_run, interrupted)
