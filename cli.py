"""Turns arguments into an exit status; the only module that handles signals and ends the program."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from typing import NoReturn

from commands import run
from commands.command_line import log_format, parse
from errors import ExtractionError, shown
from pipeline.options import RunOptions
from report import streams
from report.log import JsonFormatter, start_log

INTERRUPTS = (signal.SIGTERM, signal.SIGINT)
NO_THREADS = "this machine allows no more threads (ulimit -u, docker's --pids-limit): try --uploads 8"
log = logging.getLogger("spotted")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return the exit status."""
    streams.prepare()
    for number in INTERRUPTS:
        signal.signal(number, _interruption.interrupt)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if log_format(arguments, os.environ) == "json":  # before all others, which may be wrong
            start_log(RunOptions(log_format="json"))
        options = parse(arguments, os.environ)
        status = run(options, _interruption)
        streams.flush()
        ignore_signals()  # only the shutdown of Python is left
        return status
    except KeyboardInterrupt:
        return force_exit()
    except BrokenPipeError:  # the reader has closed the pipe: `--list | head`
        streams.discard_output()
        return ExtractionError.exit_status
    except Exception as error:
        if _interruption.is_set():
            return force_exit()
        if "start new thread" in str(error):
            error = ExtractionError(NO_THREADS)
        is_expected = isinstance(error, (ExtractionError, OSError))
        if is_expected:
            _say(logging.ERROR, f"error: {error}")
        if not is_expected or log.isEnabledFor(logging.DEBUG):
            _say_traceback(traceback.format_exc())
        with contextlib.suppress(OSError):  # the error may be that of stdout
            streams.flush()
        return error.exit_status if isinstance(error, ExtractionError) else ExtractionError.exit_status


def _say(level: int, message: str) -> None:
    """Log a message; print it before the log has started."""
    if log.handlers:
        log.log(level, "%s", message)
    else:
        print(shown(message), file=sys.stderr)


def _say_traceback(text: str) -> None:
    """Log a traceback: one JSON record, or its lines one by one, since line breaks in a message are escaped."""
    is_json = any(isinstance(handler.formatter, JsonFormatter) for handler in log.handlers)
    for line in [text] if is_json else text.splitlines():
        _say(logging.ERROR, line)


class Interruption(threading.Event):
    """Set by the first SIGINT or SIGTERM; `number` is that signal's."""

    number: int = signal.SIGINT

    def interrupt(self, signum: int, frame: object) -> NoReturn:
        """Handle a signal. Raises KeyboardInterrupt."""
        # Raised within a callback of the garbage collector, it is swallowed and would be printed by Python, which would
        # also warn of unfinished coroutines of dask.
        if not self.is_set():
            self.number = signum
        self.set()
        sys.unraisablehook = lambda _: None
        warnings.simplefilter("ignore")
        raise KeyboardInterrupt


_interruption = Interruption()  # one for the process, as its signal handlers


def ignore_signals() -> None:
    """Ignore interrupts from here on."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


def force_exit() -> int:
    """End the process within two seconds; the next run continues."""
    ignore_signals()  # a second Ctrl-C would only print a traceback
    _say(logging.WARNING, "interrupted; what is stored is kept: run the same command again to continue")
    if "distributed" in sys.modules:
        time.sleep(0.5)
    for process in multiprocessing.active_children():  # of --workers: one that is just starting would not end
        process.kill()
    sys.stderr.flush()
    os._exit(128 + _interruption.number)  # as shells report it: 130 or 143


if __name__ == "__main__":
    streams.use_utf8()
    sys.exit(main())
