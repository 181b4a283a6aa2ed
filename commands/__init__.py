"""Starts the command that the options name; each is a module."""

from __future__ import annotations

import gc
import importlib
import logging
import threading

from pipeline.machine import check_proc, find_temporary_folder, raise_limit
from pipeline.options import RunOptions
from report.log import start_log
from sources import network

log = logging.getLogger("spotted")
ON_DATASETS = {  # they have `open_run`, the others `run`
    "extract": "extracting %s to %s",
    "verify": "verifying %s in %s",
    "repair": "repairing %s in %s",
    "shards": "making shards of %s in %s",
}


def run(options: RunOptions, interrupted: threading.Event) -> int:
    """Run the command of the options; return 0, or the exit status of the worst failure."""
    start_log(options)
    raise_limit()
    network.share()
    find_temporary_folder()
    if options.command != "list":  # which needs no dask
        check_proc()
    # Only this command is imported: others need libraries that take a quarter of a second. Imports leave no garbage:
    # looking for it, now and later, takes a twentieth of a short run.
    gc.disable()
    command = importlib.import_module(f"commands.{options.command}")
    gc.freeze()
    gc.enable()
    if options.command not in ON_DATASETS:
        return int(command.run(options))
    log.info(ON_DATASETS[options.command], ", ".join(dataset.name for dataset in options.datasets), options.to)
    from commands.extract import run_datasets

    return run_datasets(options, command.open_run, interrupted)
