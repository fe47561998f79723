# SPDX-License-Identifier: MIT
"""What is said of a recording: never that it is written while it is not."""

from __future__ import annotations

import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from valkka_async.record.cause import RecordingCause
from valkka_async.record.recorder import RecorderStats
from valkka_async.service.recordings import judge
from valkka_async.service.status import RecordingState

MINUTE = 60 * 10**9
NOW = 1_700_000_000 * 10**9
AGES = st.integers(0, 10 * MINUTE)


def age(packet: int | None) -> float:
    return math.inf if packet is None else packet / 1e9


@given(
    opened=st.booleans(),
    written=st.none() | AGES,
    began=AGES,
    packet=st.none() | AGES,
    codec=st.sampled_from(["", "h264", "vp8"]),
    pending=st.integers(0, 1 << 30),
    step=st.integers(-10 * MINUTE, 10 * MINUTE),
)
def test_nothing_is_said_to_be_written_while_no_byte_was_for_a_minute_and_the_camera_sends(
    opened: bool, written: int | None, began: int, packet: int | None, codec: str, pending: int, step: int
) -> None:
    quiet = None if written is None else min(written, began)
    written_ns = None if quiet is None else NOW - quiet
    path = Path("a.mp4") if opened else None
    stats = RecorderStats(
        int(opened), 1, 1, 0, path, 0.0, written_ns, pending, quiet=None if quiet is None else quiet / 1e9
    )
    # Whatever has become of the time of day.
    state, error = judge(stats, NOW - began + step, began / 1e9, codec, age(packet))
    idle = began if quiet is None else quiet
    assert (error is not None) == (state is RecordingState.FAILED)
    if idle >= MINUTE:
        assert state is not RecordingState.WRITING
        if packet is not None and packet <= MINUTE // 2:
            assert state is RecordingState.FAILED
    elif opened and written_ns is not None and idle < MINUTE // 2:
        assert state is RecordingState.WRITING
    if not opened and codec == "vp8":
        assert error is not None and error.cause is RecordingCause.FORMAT


@given(waits=st.booleans(), held=st.none() | AGES, began=AGES, packet=st.none() | AGES)
def test_a_recording_is_armed_only_while_frames_are_kept_for_it(
    waits: bool, held: int | None, began: int, packet: int | None
) -> None:
    quiet = None if held is None else min(held, began)
    held_ns = None if quiet is None else NOW - quiet
    stats = RecorderStats(
        0, 0, 0, 0, None, 0.0, None, 0, waits, held_ns, None if quiet is None or not waits else quiet / 1e9
    )
    state, _ = judge(stats, NOW - began, began / 1e9, "h264", age(packet))
    assert state is not RecordingState.WRITING
    if state is RecordingState.ARMED:
        assert waits and held_ns is not None and NOW - held_ns < MINUTE
    if waits and packet is not None and packet <= MINUTE // 2 and NOW - (held_ns or 0) >= MINUTE <= began:
        assert state is RecordingState.FAILED


def test_a_slow_camera_is_not_a_failure() -> None:
    """Its newest packet is in the file."""
    last = NOW - 5 * MINUTE
    stats = RecorderStats(1, 1, 1, 0, Path("a.mp4"), 0.0, last, 0, quiet=300.0)
    assert judge(stats, last - MINUTE, 360.0, "h264", 300.0) == (RecordingState.WAITING, None)
