# SPDX-License-Identifier: MIT
"""Arguments that make no sense are refused where they are given, and cost nothing."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import valkka_async as va
from valkka_async.ring.rendezvous import sweep

NAN = float("nan")
IMAGE = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 2.5}, {"slots": "16"}, {"max_clients": 2.5}, {"mode": -1}, {"mode": 1 << 31},
        {"mode": 0o1000}, {"group": -5}, {"group": 1 << 33}, {"group": 1.5}, {"group": "no such group"},
    ],
    ids=str,
)  # fmt: skip
def test_a_server_refuses_arguments_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        va.serve("s", **wrong)
    va.serve("s", slots=np.int64(4)).close()  # type: ignore[arg-type]


def test_a_reader_refuses_numbers_that_are_none_before_it_connects() -> None:
    with va.serve("s") as server:
        for wrong in ({"max_leases": 2.5}, {"max_leases": "4"}, {"open_timeout": NAN}, {"open_timeout": "1"}):
            for make in (va.attach, va.connect):
                with pytest.raises((ValueError, TypeError)):
                    make("s", **wrong)  # type: ignore[operator]
        assert server.readers == 0


def test_a_timeout_that_is_not_a_number_is_refused_and_does_not_spin() -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        with pytest.raises(ValueError):
            reader.recv(timeout=NAN)
        with pytest.raises(ValueError):
            server.wait_writable(NAN)
        with pytest.raises(ValueError):
            va.attach("nobody", open_timeout=NAN)


@pytest.mark.parametrize("long", [float("inf"), 1e30, 30 * 86400.0])
def test_a_timeout_may_be_as_long_as_one_likes(long: float) -> None:
    with va.serve("s", slots=2) as server, va.attach("s", open_timeout=long) as reader:
        timer = threading.Timer(0.05, server.publish, [IMAGE])
        timer.start()
        with reader.recv(timeout=long) as frame:  # waited for: nothing was published before
            assert frame.seq == 1
        timer.join()
        assert server.wait_writable(long)
    with va.serve("s", slots=2) as server, va.attach("s", policy="lossless") as reader:
        while server.publish(IMAGE):
            pass
        timer = threading.Timer(0.05, lambda: reader.recv().release())
        timer.start()
        assert server.wait_writable(long)
        timer.join()


@pytest.mark.parametrize("field", ["timestamp_ns", "pts", "dts", "duration"])
@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, np.uint64(1 << 63)])
def test_times_beyond_64_bits_are_a_frame_error_and_cost_no_slot(field: str, value: int) -> None:
    wrong: dict[str, Any] = {field: value}
    with va.serve("s", slots=2) as server:
        for _ in range(3):
            with pytest.raises(va.FrameError):
                server.publish(IMAGE, **wrong)
            with pytest.raises(va.FrameError):
                server.loan((4, 4, 3), **wrong)
        assert server.publish(IMAGE, time_base=Fraction(1, 90000))
        assert server.stats().published == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"pts": 1.5},
        {"time_base": 0},
        {"time_base": Fraction(-1, 25)},
        {"time_base": (-1, 25)},
        {"time_base": (1, 0)},
        {"time_base": math.inf},
        {"format": []},
        {"format": np.array(["bytes", "gray8"])},
        {"meta": []},
        {"meta": ""},
    ],
    ids=str,
)
def test_what_is_no_time_or_no_metadata_is_a_frame_error(wrong: dict[str, Any]) -> None:
    with va.serve("s") as server:
        with pytest.raises(va.FrameError):
            server.publish(IMAGE, **wrong)
        assert server.publish(IMAGE)
        with pytest.raises(va.FrameError):  # also where frames are like the one before
            server.publish(IMAGE, **wrong)
        with pytest.raises(va.FrameError):
            server.loan((4, 4, 3), **wrong)
        with pytest.raises(TypeError):
            server.loan((4.5, 4, 3))  # type: ignore[arg-type]


def test_what_is_refused_costs_no_slot_and_no_backlog() -> None:
    with va.serve("s", slots=3, backlog="gop") as server:
        for number in range(3):
            server.publish(b"x", key=number == 0)
        for publish in (server.publish, lambda data, **wrong: server.loan((1,), "bytes", **wrong)):
            with pytest.raises(va.FrameError):
                publish(b"x", key=False, pts="soon")  # type: ignore[operator]
        assert server.stats().backlog == 3 and not server.stats().backlog_outgrown
        with va.attach("s", policy="ordered") as reader:
            for number in range(3):
                with reader.recv(5) as frame:
                    assert (frame.seq, frame.dropped) == (number + 1, 0)


def test_the_next_loan_may_be_of_another_kind() -> None:
    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
        for shape, format, dtype in (
            ((4, 4, 3), "rgb24", None),
            ((4, 4, 3), "bgr24", None),
            ((4, 4, 3), "array", np.float32),
            ((4, 4), "gray8", None),
        ):
            for _ in range(2):
                with server.loan(shape, format, dtype=dtype):  # type: ignore[arg-type]
                    pass
                with reader.recv(5) as frame:
                    assert (frame.shape, frame.format, frame.dtype) == (shape, format, dtype or np.uint8)


def test_metadata_that_is_nested_too_deeply_is_a_frame_error() -> None:
    meta: dict[str, Any] = {}
    for _ in range(2 * sys.getrecursionlimit()):
        meta = {"": meta}
    with va.serve("s") as server, pytest.raises(va.FrameError):
        server.publish(IMAGE, meta=meta)


def test_what_could_not_be_made_is_forgotten_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    before = len(os.listdir("/proc/self/fd"))
    for kind in (va.Server, va.Reader, va.Client, va.Merge):
        with pytest.raises(TypeError):
            kind("s", no_such_argument=1)  # type: ignore[call-arg]
    gc.collect()
    assert not said
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_lives_to_the_interpreters_end_says_nothing_there() -> None:
    """In a module that is taken apart when theirs have lost what they had."""
    program = """
import logging, valkka_async as va
server = va.serve("s")
server.publish(b"x")
reader = va.attach("s")
logging.mine = [server, reader, reader.recv(5), va.connect("s"), va.merge("s")]
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    sweep("s")


def test_metadata_that_is_no_json_is_refused() -> None:
    with va.serve("s") as server:
        for value in (float("nan"), float("inf"), {"deep": [float("nan")]}):
            with pytest.raises(va.FrameError):
                server.publish(b"x", meta={"value": value})
        assert server.stats().published == 0


def test_a_header_cannot_be_set_after_the_end() -> None:
    server = va.serve("s")
    server.close()
    for header in (b"", b"x"):
        with pytest.raises(va.ConnectionClosedOK):
            server.set_header(header)


def test_a_header_is_bytes() -> None:
    with va.serve("s") as server:
        for value in (5, [1, 2], "text"):
            with pytest.raises(TypeError):
                server.set_header(value)  # type: ignore[arg-type]
