"""An exception out of a signal's handler, wherever Python may call one: what was begun is done or undone.

A tracer raises where the interpreter looks for signals (after a call, at a jump back, as a function starts),
at each such place in turn.
"""

from __future__ import annotations

import dis
import gc
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

import valkka_async as va
from support.until import wait_for
from valkka_async.ring import server as ring

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of what an interrupt took from us
FOLDER = os.path.dirname(ring.__file__)
# Where names, and what is the matter with them, are looked after as a whole.
ELSEWHERE = ("rendezvous.py", "_kernel.py")
LOOKS = ("RESUME", "CALL", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")


class Interrupt(BaseException):
    """What the handler raises."""


class Interrupter:
    """Call a function and raise at the place with this number. `reached`: there was such a place."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.reached = False
        self.where = ""

    def call(self, function: Callable[[], Any]) -> Any:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return function()
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(FOLDER) or path.endswith(ELSEWHERE):
            return None
        frame.f_trace_opcodes = True
        code = frame.f_code.co_code
        handlers = dis._parse_exception_table(frame.f_code)  # type: ignore[attr-defined]
        last, at = "", 0

        def handler(offset: int) -> int:
            return min((h.target for h in handlers if h.start <= offset < h.end), default=-1)

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal last, at
            if event == "opcode":
                # What a handler raises comes out of the instruction before, inside its `try` or `with`.
                looked = last.startswith(LOOKS) and handler(at) == handler(frame.f_lasti)
                last, at = dis.opname[code[frame.f_lasti]], frame.f_lasti
                if looked and not self.reached:
                    self.place -= 1
                    if self.place < 0:
                        self.reached = True
                        self.where = f"{os.path.basename(path)}:{frame.f_lineno} {frame.f_code.co_name}"
                        raise Interrupt
            return trace

        return trace


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def at_each_place(scenario: Callable[[Interrupter], None]) -> None:
    """Each leaves as many descriptors and threads as there were."""
    gc.collect()
    threads, before = threading.active_count(), descriptors()
    place = 0
    while True:
        interrupter = Interrupter(place)
        try:
            scenario(interrupter)
            gc.collect()
            wait_for(lambda: descriptors() == before and threading.active_count() == threads, 5, pause=0.001)
        except BaseException as e:
            e.add_note(f"interrupted at place {place}: {interrupter.where}")
            raise
        if not interrupter.reached:
            break
        place += 1
    assert place > 5, "the tracer saw nothing"


def last_of(reader: va.Reader) -> bytes:
    """The newest frame, over a connection that may have been given up."""
    with reader.recv(5) as frame:
        return bytes(frame.data)


@pytest.mark.parametrize("first", [True, False])
def test_a_publish_that_is_interrupted_silences_no_reader(first: bool) -> None:
    """Neither in a first ring nor in one that takes another's place."""

    def scenario(interrupter: Interrupter) -> None:
        with va.serve("s") as server, va.attach("s") as reader, va.attach("s", policy="ordered") as ordered:
            if not first:
                server.publish(b"0" * 10)
                assert last_of(reader) == last_of(ordered) == b"0" * 10
            with suppress(Interrupt):
                interrupter.call(lambda: server.publish(b"1" * 300_000))
            assert server.publish(b"2" * 300_001)
            number = server.stats().published
            assert last_of(reader) == b"2" * 300_001
            while (frame := ordered.recv(5)).seq < number:
                frame.release()
            frame.release()
            assert ordered.stats().dropped == 0
            with va.attach("s") as late:
                assert last_of(late) == b"2" * 300_001
            assert server.publish(b"3" * 700_000)  # and once more in another ring
            assert last_of(reader) == b"3" * 700_000

    at_each_place(scenario)


def test_a_header_that_is_interrupted_can_be_set_again() -> None:
    def scenario(interrupter: Interrupter) -> None:
        with va.serve("s") as server, va.attach("s") as reader:
            server.publish(b"0")
            reader.recv(5).release()
            with suppress(Interrupt):
                interrupter.call(lambda: server.set_header(b"moov"))
            server.set_header(b"moov")
            server.publish(b"1")
            reader.recv(5).release()
            assert reader.header == b"moov"

    at_each_place(scenario)


def test_a_reader_that_is_interrupted_while_it_attaches_leaves_nothing() -> None:
    with va.serve("s") as server:
        server.publish(b"0")

        def scenario(interrupter: Interrupter) -> None:
            with suppress(Interrupt):
                interrupter.call(lambda: va.attach("s")).close()
            gc.collect()
            wait_for(lambda: server.readers == 0, 5, pause=0.001)

        at_each_place(scenario)
        with va.attach("s") as reader:
            assert last_of(reader) == b"0"


def test_a_reader_that_is_interrupted_while_it_closes_can_be_closed() -> None:
    with va.serve("s") as server:
        server.publish(b"0")

        def scenario(interrupter: Interrupter) -> None:
            reader = va.attach("s")
            frame = reader.recv(5)
            reader.fileno()
            with suppress(Interrupt):
                interrupter.call(reader.close)
            reader.close()
            assert reader.closed
            with pytest.raises(va.ConnectionClosedOK):
                reader.recv(0)
            assert bytes(frame.data) == b"0"
            frame.release()
            wait_for(lambda: server.readers == 0, 5, pause=0.001)

        at_each_place(scenario)


def test_a_recv_that_is_interrupted_loses_its_connection_at_most() -> None:
    """While a new ring arrives: it is read, or the reader says that it was interrupted."""
    with va.serve("s") as server:
        server.publish(b"0")

        def scenario(interrupter: Interrupter) -> None:
            with va.attach("s", reconnect=True) as reader:
                server.publish(b"0")
                reader.recv(5).release()
                server.set_header(os.urandom(8))
                server.publish(b"1")
                with suppress(Interrupt):
                    frame = interrupter.call(lambda: reader.recv(5))
                    frame.release()
                server.publish(b"2")
                while last_of(reader) != b"2":
                    pass

        at_each_place(scenario)


def test_a_server_that_is_interrupted_while_it_begins_leaves_its_name_free() -> None:
    def scenario(interrupter: Interrupter) -> None:
        with suppress(Interrupt):
            interrupter.call(lambda: va.serve("s")).close()
        gc.collect()
        with va.serve("s") as server, va.attach("s") as reader:
            server.publish(b"1")
            assert last_of(reader) == b"1"

    at_each_place(scenario)


def test_a_server_that_is_interrupted_while_it_closes_can_be_closed() -> None:
    def scenario(interrupter: Interrupter) -> None:
        server = va.serve("s")
        reader = va.attach("s")
        server.publish(b"0")
        reader.recv(5).release()
        with suppress(Interrupt):
            interrupter.call(server.close)
        server.close()
        assert server.closed
        with pytest.raises(va.ConnectionClosedOK):
            server.publish(b"1")
        with pytest.raises(va.ConnectionClosed):
            reader.recv(5)
        reader.close()
        va.serve("s").close()

    at_each_place(scenario)
