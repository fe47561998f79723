# SPDX-License-Identifier: MIT
"""Arguments that make no sense are refused where they are given, and cost nothing."""

from __future__ import annotations

import gc
import os
import sys
import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import valkka_async as va

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


def test_metadata_that_is_no_json_is_refused() -> None:
    with va.serve("s") as server:
        for value in (float("nan"), float("inf"), {"deep": [float("nan")]}):
            with pytest.raises(va.FrameError):
                server.publish(b"x", meta={"value": value})
        assert server.stats().published == 0


def test_a_header_is_bytes() -> None:
    with va.serve("s") as server:
        for value in (5, [1, 2], "text"):
            with pytest.raises(TypeError):
                server.set_header(value)  # type: ignore[arg-type]
