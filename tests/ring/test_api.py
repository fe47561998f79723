"""The ring's names, as programs, editors and type checkers see them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import valkka_async as va
from valkka_async.ring.formats import FORMATS
from valkka_async.ring.policy import NUMBERS

ROOT = Path(__file__).parents[2]


def test_every_public_name_is_there_and_can_be_found() -> None:
    assert set(va.__all__) <= set(dir(va))
    for name in va.__all__:
        assert getattr(va, name) is not None


def test_what_stats_returns_is_public() -> None:
    for kind in (va.ServerStats, va.PeerStats, va.ReaderStats, va.MergeStats):
        assert dataclasses.is_dataclass(kind) and kind.__doc__
    with va.serve("s") as server, va.attach("s") as reader:
        assert type(server.stats()) is va.ServerStats
        assert [type(one) for one in server.reader_stats()] == [va.PeerStats]
        assert type(reader.stats()) is va.ReaderStats


def test_what_has_to_be_awaited_is_a_coroutine_function() -> None:
    for method in (
        va.Client.recv, va.Client.open, va.Client.aclose, va.connect("s").recv,
        va.Merge.recv, va.Merge.aclose, va.merge("s").recv,
        va.Server.writable, va.Server.aclose,
    ):  # fmt: skip
        assert inspect.iscoroutinefunction(method)


def test_every_error_is_named_as_one_and_hangs_below_the_base() -> None:
    errors = [getattr(va, name) for name in va.__all__ if inspect.isclass(getattr(va, name))]
    errors = [error for error in errors if issubclass(error, BaseException)]
    assert len(errors) > 15
    for error in errors:
        assert issubclass(error, va.ValkkaError)
        assert re.search(r"Error$|^ConnectionClosed(OK)?$", error.__name__)


def test_literals_say_what_is_accepted() -> None:
    assert get_args(va.Policy) == tuple(NUMBERS)
    assert get_args(va.FrameFormat) == FORMATS
    assert all(len(format) <= 16 and format.isascii() for format in FORMATS)


def test_attach_and_connect_take_the_same_arguments() -> None:
    assert inspect.signature(va.attach).parameters == inspect.signature(va.connect).parameters


USER = """
import numpy as np
import valkka_async as va

policy: va.Policy = "ordered"
server = va.serve("s")
server.publish(np.zeros((4, 4)), format="array", pts=1, dts=2, duration=3)
with server.loan((4, 4), "array", dtype="float32") as slot:
    slot.array[:] = 0
reader = va.attach("s", policy=policy, reconnect=True)
frame = reader.recv()
server.publish(frame, format=frame.format, time_base=frame.time_base)
stats: va.ReaderStats = reader.stats()
size: int = frame.dtype.itemsize

async def main() -> None:
    async with va.connect("s", policy="latest") as client, va.merge("a", client, policy="lossless") as merge:
        first: va.Frame = await client.recv()
        async for other in merge:
            print(other.dts, other.duration, first.seq)

va.attach("s", policy="newest")  # wrong
va.connect("s", policy="newest")  # wrong
va.merge("s", policy="newest")  # wrong
va.attach("s", timeout=1)  # wrong
server.publish(b"x", format="rgb")  # wrong
server.loan((4, 4), "gray")  # wrong
server.publish(b"x", tiem_base=(1, 25))  # wrong
if frame.format == "rgb23":  # wrong
    pass
"""


@pytest.mark.timeout(240)
def test_a_type_checker_finds_what_is_wrong_in_a_users_program_and_nothing_else(tmp_path: Path) -> None:
    program = tmp_path / "user.py"
    program.write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(program)],
        cwd=ROOT, capture_output=True, text=True, timeout=220,
    )  # fmt: skip
    found = {int(number) for number in re.findall(r"user\.py:(\d+): error", done.stdout)}
    wrong = {n for n, line in enumerate(USER.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wrong, done.stdout + done.stderr
