"""Starts the command that the options name; each is a module."""

from __future__ import annotations

import importlib
import threading

from pipeline.machine import check_proc, find_temporary_folder, raise_limit
from pipeline.options import RunOptions
from report.log import start_log
from sources import network

ON_DATASETS = frozenset({"extract", "verify", "repair", "shards"})  # have `open_run`, the others `run`


def run(options: RunOptions, interrupted: threading.Event) -> int:
    """Run the command of the options; return 0, or the exit status of the worst failure."""
    start_log(options)
    raise_limit()
    network.share()
    find_temporary_folder()
    if options.command != "list":  # which needs no dask
        check_proc()
    # Only this command is imported: others need libraries that take a quarter of a second.
    command = importlib.import_module(f"commands.{options.command}")
    if options.command not in ON_DATASETS:
        return int(command.run(options))
    extract = importlib.import_module("commands.extract")
    return int(extract.run_datasets(options, command.open_run, interrupted))
