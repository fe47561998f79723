# SPDX-License-Identifier: MIT
"""The service's log: a line for each event, as text or as JSON, on standard error."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Collection
from contextvars import ContextVar
from types import TracebackType
from typing import TextIO

_FIELDS = ("camera", "state", "client", "status", "signal")  # of `extra`, where there are any

# Some programs end a line at these, and JSON leaves them as they are.
_BREAKS = re.compile("[\x85\u2028\u2029\ud800-\udfff]")
# What cameras and clients send may be meant for the terminal on which somebody reads the log.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

log = logging.getLogger("valkka_async.service")

# The camera that a task looks after: its records are about it, also those of code that knows no cameras.
camera_of_log: ContextVar[str | None] = ContextVar("camera_of_log", default=None)


class JsonFormatter(logging.Formatter):
    """A JSON object on a line: time (RFC 3339, UTC), level, logger, message, and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": f"{_utc(record.created)}.{int(record.created % 1 * 1000):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {key: value for key in _FIELDS if (value := getattr(record, key, None)) is not None}
        if "camera" not in entry and (camera := camera_of_log.get()) is not None:
            entry["camera"] = camera
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["text"] = record.stack_info
        return _BREAKS.sub(_escaped, json.dumps(entry, ensure_ascii=False, default=str))


class TextFormatter(logging.Formatter):
    """`2026-11-22 17:03:21 WARNING front: stalled`. Under systemd, whose journal knows the time, without the
    time and with the priority in front, as in sd-daemon(3)."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)s %(message)s")
        self.default_msec_format = ""
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = _CONTROL.sub(_escaped, super().format(record))
        if not self._journal:
            return text
        level = record.levelno
        priority = 3 if level >= logging.ERROR else 4 if level >= logging.WARNING else 6
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


class _Handler(logging.StreamHandler[TextIO]):
    """A record that cannot be written is told in the same format, and not as a traceback of logging's own."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        kind = sys.exc_info()[0]
        name = "" if kind is None else kind.__name__
        text = f"a record of {record.name} (line {record.lineno}) cannot be written: {name}"
        told = logging.LogRecord(__name__, logging.ERROR, "", 0, text, None, None)
        try:
            self.stream.write(self.format(told) + self.terminator)
            self.flush()
        except (OSError, ValueError):  # nobody reads any more
            pass


def configure(
    level: str,
    format: str,
    *,
    journal: bool = False,
    stream: TextIO | None = None,
    without: Collection[str] = (),
) -> None:
    """Send the records of all loggers to `stream`, by default to standard error, if there is one. `level` is
    debug, info, warning or error; `format` "text" or "json"; `without`: names of loggers that are left out
    but at debug. May be called again, with other settings."""
    stream = stream or sys.stderr
    handler = logging.NullHandler() if stream is None else _Handler(stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter(journal=journal))
    if level != "debug":
        handler.addFilter(lambda record: record.name not in without)
    root = logging.getLogger()
    before = list(root.handlers)
    root.addHandler(handler)
    for old in before:
        root.removeHandler(old)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # asyncio logs at DEBUG which selector it uses, aiohttp at INFO each request: neither is of interest.
    for noisy in ("asyncio", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def take_over() -> None:
    """Log what Python would write to standard error by itself: exceptions that nobody has caught, in any
    thread, and those that cannot be raised."""

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("the service ends by an error", exc_info=(kind, error, trace))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            name = args.thread.name if args.thread is not None else "?"
            log.error("the thread %s ended by an error", name, exc_info=args.exc_value)

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        log.error(
            "%s: %r", args.err_msg or "Exception ignored in", args.object, exc_info=args.exc_value or False
        )

    sys.excepthook, threading.excepthook, sys.unraisablehook = excepthook, in_thread, unraisable


def is_journal(stream: TextIO) -> bool:
    """Does the stream go to systemd's journal? See JOURNAL_STREAM in systemd.exec(5)."""
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def _utc(created: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
