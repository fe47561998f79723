"""A number of seconds means what it says, and a time that is none is refused."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import valkka_async as va
from support.clock import unset_clock
from support.program import Child
from valkka_async.ring.connection import report

FOR_EVER = [math.inf, 3e6, 1e18, pytest.param(10**400, id="huge"), None]
NEVER = [math.nan, -1, -0.001, -math.inf, pytest.param(-(10**400), id="below")]
CALLS: list[Callable[[object], object]] = [
    lambda t: va.attach("s", open_timeout=t).close(),  # type: ignore[arg-type]
    lambda t: va.connect("s", open_timeout=t),  # type: ignore[arg-type]
    lambda t: report("s", t),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("timeout", FOR_EVER)
def test_long_is_long(timeout: float | None) -> None:
    with va.serve("s") as server, va.attach("s", open_timeout=timeout) as reader:
        assert report("s", timeout) is not None
        assert server.wait_writable(timeout)
        threading.Timer(0.05, server.publish, [b"x"]).start()
        assert bytes(reader.recv(timeout).data) == b"x"
    with va.serve("t", slots=2) as server, va.attach("t", policy="lossless") as reader:
        while server.publish(b"x"):
            pass
        threading.Timer(0.05, lambda: reader.recv(5).release()).start()
        assert server.wait_writable(timeout)


@pytest.mark.parametrize("seconds", FOR_EVER)
async def test_long_is_long_in_a_loop(seconds: float | None) -> None:
    async def later() -> va.Server:
        await asyncio.sleep(0.05)
        return va.serve("s")

    task = asyncio.create_task(later())
    async with va.connect("s", open_timeout=seconds):
        pass
    (await task).close()


async def test_nothing_is_one_look() -> None:
    """And a server that is there has time to answer."""
    with pytest.raises(TimeoutError, match="no server"):
        await asyncio.to_thread(va.attach, "s", open_timeout=0)
    with pytest.raises(TimeoutError, match="no server"):
        await va.connect("s", open_timeout=0)
    assert await asyncio.to_thread(report, "s", 0) is None
    async with va.serve("s") as server:
        async with va.connect("s", open_timeout=0):
            pass
        reader = await asyncio.to_thread(va.attach, "s", open_timeout=0)
        with reader:
            assert await asyncio.to_thread(report, "s", 0) is not None
            assert server.wait_writable(0)
            with pytest.raises(TimeoutError):
                reader.recv(0)
            server.publish(b"x")
            assert bytes(reader.recv(0).data) == b"x"


def test_no_room_is_told_at_once() -> None:
    with va.serve("s", slots=2) as server, va.attach("s", policy="lossless"):
        while server.publish(b"x"):
            pass
        assert not server.wait_writable(0)
        assert not server.wait_writable(0.01)


@pytest.mark.parametrize("timeout", NEVER)
def test_what_is_no_time_is_refused(timeout: float) -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        server.publish(b"x")
        for call in (*CALLS, reader.recv, server.wait_writable):
            with pytest.raises(ValueError, match="timeout is a number of seconds"):
                call(timeout)  # type: ignore[operator]
        reader.recv(5)


@pytest.mark.parametrize("timeout", ["5", b"5", object()])
def test_what_is_no_number_is_refused(timeout: object) -> None:
    with va.serve("s"):
        for call in CALLS:
            with pytest.raises(TypeError):
                call(timeout)


@pytest.mark.parametrize(
    "stamp", [1.8e9, 1.8e18, 1_800_000_000, 1_800_000_000_000, 1_800_000_000_000_000, "1"]
)
def test_a_capture_time_in_another_unit_is_refused(stamp: int) -> None:
    with va.serve("s") as server, va.attach("s") as reader:
        for publish in (
            lambda: server.publish(b"x", timestamp_ns=stamp),
            lambda: server.publish(np.zeros((2, 2, 3), np.uint8), timestamp_ns=stamp),
            lambda: server.loan((2, 2, 3), timestamp_ns=stamp),
        ):
            with pytest.raises(va.FrameError, match="timestamp_ns"):
                publish()
        server.publish(b"y", timestamp_ns=time.time_ns())
        with reader.recv(5) as frame:
            assert frame.seq == 1 and frame.age < 60


@pytest.mark.parametrize("says", [2, 1800, 20 * 24 * 3600])  # s since 1970: seconds, ms, us of today
def test_times_of_a_clock_that_is_not_set_are_taken_and_later_told(tmp_path: Path, says: int) -> None:
    environment, there = unset_clock(tmp_path, says)
    code = """
    with va.serve("s") as server, va.attach("s") as reader:
        early = time.time_ns()
        for when in ("unset", "set"):
            server.publish(b"x", timestamp_ns=early)
            say(reader.recv(5).timestamp_ns == early, time.time() < 1e9)
            server.loan((2, 2, 3), timestamp_ns=early).discard()
            if when == "unset":
                open(os.environ["CLOCK_SET"], "w").close()
    """
    with Child(code, **environment) as child:
        assert [child.line(), child.line()] == ["True True", "True False"]
        assert child.finish() == (0, "")


@pytest.mark.parametrize("field", ["pts", "dts", "duration"])
@pytest.mark.parametrize("value", [1.5, "1", 2**63])
def test_a_time_of_the_stream_that_is_no_integer_is_refused(field: str, value: object) -> None:
    with va.serve("s") as server:
        with pytest.raises(va.FrameError, match=field):
            server.publish(b"x", time_base=Fraction(1, 90000), **{field: value})  # type: ignore[arg-type]
        assert server.publish(b"x", time_base=Fraction(1, 90000), **{field: np.int64(7)})  # type: ignore[arg-type]
