# SPDX-License-Identifier: MIT
"""What a service writes about itself: a line for each event, as text or as JSON, on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import TextIO

_FIELDS = ("camera", "state", "client", "status")  # of `extra`, where there are any


class JsonFormatter(logging.Formatter):
    """A JSON object on a line: time (RFC 3339, UTC), level, logger, message, and what is known besides."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": f"{_utc(record.created)}.{int(record.created % 1 * 1000):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {key: value for key in _FIELDS if (value := getattr(record, key, None)) is not None}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`2026-11-22 17:03:21 WARNING front: stalled`. Under systemd, whose journal knows the time, without that
    and with the priority in front, as in sd-daemon(3)."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)s %(message)s")
        self.default_msec_format = ""
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._journal:
            return text
        level = record.levelno
        priority = 3 if level >= logging.ERROR else 4 if level >= logging.WARNING else 6
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


def configure(level: str, format: str, *, journal: bool = False, stream: TextIO | None = None) -> None:
    """Send the records of all loggers there. `level` is debug, info, warning or error; `format` "text" or
    "json". May be called again, with other settings."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter(journal=journal))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # asyncio tells at DEBUG which selector it uses, aiohttp at INFO of each request: nobody asks for these.
    for noisy in ("asyncio", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def is_journal(stream: TextIO) -> bool:
    """Does the stream go to systemd's journal? See JOURNAL_STREAM in systemd.exec(5)."""
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def _utc(created: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
