# SPDX-License-Identifier: MIT
"""What a service logs: text or JSON, one line for each event, whatever is in it."""

from __future__ import annotations

import gc
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from valkka_async.service import log as service_log


@pytest.fixture(autouse=True)
def quiet_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(False)
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    """All that was written, by a reader that ends lines wherever Python does."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_logs_are_json_where_that_is_asked_for() -> None:
    stream = io.StringIO()
    service_log.configure("info", "json", stream=stream)
    log = logging.getLogger("valkka_async.service")
    log.warning("%s: %s", "front", 'stalled "quietly"\nreally', extra={"camera": "front"})
    log.debug("not this")
    try:
        raise OSError("gone")
    except OSError:
        log.exception("failed")
    first, second = entries(stream)
    assert first["message"] == 'front: stalled "quietly"\nreally' and first["camera"] == "front"
    assert first["level"] == "warning" and first["time"].endswith("Z")
    assert "OSError: gone" in second["exception"]


@pytest.mark.parametrize(
    "text", ["a\u2028b\u2029c\x85d", "half \ud83d of a pair", "a\r\n\x0b\x0c\x1c\x1eb", "\0\x1b[31m"]
)
def test_a_record_is_one_line_of_json_whatever_is_in_it(text: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "utf-8", write_through=True)
    service_log.configure("info", "json", stream=stream)
    logging.getLogger("x").warning("%s", text, extra={"camera": text})
    lines = raw.getvalue().decode().splitlines()
    assert len(lines) == 1
    entry = json.loads(lines[0])
    assert entry["message"] == entry["camera"] == text


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "a\rb", "\x9b31m", "\u202eabc", "\ud800", "a\u2028b"])
def test_what_cameras_send_does_not_command_the_terminal(text: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "utf-8", write_through=True)
    service_log.configure("info", "text", stream=stream)
    logging.getLogger("x").warning("says %s", text)
    written = raw.getvalue().decode()
    assert len(written.splitlines()) == 1 and written[:-1].isprintable() and "\\" in written


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_record_that_cannot_be_written_is_told_in_the_same_format(
    format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    service_log.configure("info", format, stream=stream)
    log = logging.getLogger("x")
    log.warning("%d of %d", 1)
    log.warning("and on")
    written = stream.getvalue().splitlines()
    assert len(written) == 2 and "TypeError" in written[0] and "and on" in written[1]
    if format == "json":
        assert [json.loads(line)["level"] for line in written] == ["error", "warning"]
    stream.close()
    log.warning("to nobody")
    assert capsys.readouterr() == ("", "")


def test_what_python_would_print_by_itself_is_logged() -> None:
    stream = io.StringIO()
    service_log.configure("info", "json", stream=stream)
    service_log.take_over()

    def fail() -> None:
        raise ZeroDivisionError("in a thread")

    class Unraisable:
        def __del__(self) -> None:
            raise ZeroDivisionError("in a finaliser")

    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    Unraisable()
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    try:
        raise ZeroDivisionError("in the program")
    except ZeroDivisionError as e:
        sys.excepthook(type(e), e, e.__traceback__)
    told = entries(stream)
    assert [entry["level"] for entry in told] == ["error", "error", "warning", "critical"]
    assert "worker" in told[0]["message"] and "in a thread" in told[0]["exception"]
    assert "in a finaliser" in told[1]["exception"] and "old" in told[2]["message"]
    assert "in the program" in told[3]["exception"]


def test_without_standard_error_nothing_is_logged_and_nothing_fails() -> None:
    program = (
        "import logging, sys\n"
        "assert sys.stderr is None\n"
        "from valkka_async.service import log\n"
        "log.configure('info', 'json'); log.take_over()\n"
        "logging.getLogger('x').warning('to nobody')\n"
    )
    command = f'exec {sys.executable} -c "$0" 2>&-'
    assert subprocess.run(["sh", "-c", command, program], timeout=30).returncode == 0


def test_the_journal_gets_priorities_instead_of_times() -> None:
    stream = io.StringIO()
    service_log.configure("info", "text", journal=True, stream=stream)
    logging.getLogger("x").error("two\nlines")
    assert stream.getvalue() == "<3>two\n<3>lines\n"
    service_log.configure("warning", "text", stream=stream)
    logging.getLogger("x").info("not this")
    logging.getLogger("x").warning("this")
    assert stream.getvalue().endswith(" WARNING this\n")


def test_records_of_a_task_that_looks_after_a_camera_are_about_it() -> None:
    stream = io.StringIO()
    service_log.configure("info", "json", stream=stream)
    before = service_log.camera_of_log.set("front")
    try:
        logging.getLogger("valkka_async").warning("recording front.fmp4: the disk is too slow")
    finally:
        service_log.camera_of_log.reset(before)
    logging.getLogger("valkka_async").warning("of none")
    assert [entry.get("camera") for entry in entries(stream)] == ["front", None]
