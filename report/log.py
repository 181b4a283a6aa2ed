"""Writes the log as text or JSON lines on stderr, without secrets."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from errors import redact, show_record
from pipeline.options import RunOptions

log = logging.getLogger("spotted")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the keys that Cloud Logging reads (severity, message, time by RFC 3339)."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "severity": record.levelname,
            "message": redact(record.getMessage()),  # JSON escapes control characters
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        }
        return json.dumps(fields | getattr(record, "fields", {}))


def start_log(options: RunOptions) -> None:
    """Send the log of the program to stderr."""
    handler = logging.StreamHandler()
    if options.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(show_record)
    log.handlers = [handler]  # instead of the one from before the options were parsed
    log.setLevel(logging.WARNING if options.quiet else logging.DEBUG if options.verbose else logging.INFO)
    log.propagate = False
