"""An exception out of a signal's handler, wherever Python may call one: what was begun is done or undone.

A tracer, or a monitor, raises where the interpreter looks for signals (after a call, at a jump back, as a
function starts), at each such place in turn.
"""

from __future__ import annotations

import dis
import gc
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import valkka_async as va
from support.until import wait_for
from valkka_async import backoff
from valkka_async.ring import reader as plain
from valkka_async.ring import server as ring
from valkka_async.ring.connection import report

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of what an interrupt took from us
# And in what of the standard library holds a descriptor for a moment. (threading.py is not whole itself: a
# thread that is interrupted while it is started is listed for ever.)
PLACES = (os.path.dirname(ring.__file__), socket.__file__)
ELSEWHERE = ("_kernel.py",)  # calls of the system, one each
LOOKS = ("RESUME", "CALL", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")


class Interrupt(BaseException):
    """What the handler raises."""


class Interrupter:
    """Call a function and raise at the place with this number. `reached`: there was such a place."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.error: Callable[[], BaseException] = Interrupt
        self.reached = False
        self.where = ""

    def call(self, function: Callable[[], Any]) -> Any:
        with _monitored(self._look) if sys.version_info >= (3, 12) else _traced(self._look):
            return function()

    def _look(self, before: tuple[str, int], code: Code, at: int) -> None:
        """Between two instructions: the one before (its name, its place), and the one at `at`."""
        # What a handler raises comes out of the instruction before, inside its `try` or `with`.
        if before[0].startswith(LOOKS) and code.handler(before[1]) == code.handler(at) and not self.reached:
            self.place -= 1
            if self.place < 0:
                self.reached = True
                self.where = f"{os.path.basename(code.path)}:{sys._getframe(2).f_lineno} {code.name}"
                raise self.error()


class Code:
    """What a code object is made of."""

    def __init__(self, code: CodeType) -> None:
        self.path, self.name = code.co_filename, code.co_name
        self.ours = self.path.startswith(PLACES) and not self.path.endswith(ELSEWHERE)
        self._bytes = code.co_code
        self._handlers = dis._parse_exception_table(code)  # type: ignore[attr-defined]

    def instruction(self, at: int) -> tuple[str, int]:
        return dis.opname[self._bytes[at]], at

    def handler(self, at: int) -> int:
        """Where an exception of this instruction goes."""
        return min((h.target for h in self._handlers if h.start <= at < h.end), default=-1)


Look = Callable[[tuple[str, int], Code, int], None]


@contextmanager
def _traced(look: Look) -> Iterator[None]:
    """`look` is called between the instructions of this thread. Python 3.13 traces no opcodes of code that
    runs for the first time, and loses others."""

    def enter(frame: FrameType, event: str, arg: object) -> Any:
        code = Code(frame.f_code)
        if not code.ours:
            return None
        frame.f_trace_opcodes = True
        before = ("", 0)

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal before
            if event == "opcode":
                last, before = before, code.instruction(frame.f_lasti)
                look(last, code, frame.f_lasti)
            return trace

        return trace

    tracer = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(tracer)


@contextmanager
def _monitored(look: Look) -> Iterator[None]:
    """The same from Python 3.12 on, by what it has for this."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    tool, event = 4, monitoring.events.INSTRUCTION
    thread = threading.get_ident()
    known: dict[CodeType, Code] = {}
    before: dict[int, tuple[str, int]] = {}  # of each frame

    def step(code: CodeType, at: int) -> Any:
        if code not in known:
            known[code] = Code(code)
        if not known[code].ours:
            return monitoring.DISABLE
        if threading.get_ident() == thread:
            frame = id(sys._getframe(1))
            last, before[frame] = before.get(frame, ("", 0)), known[code].instruction(at)
            look(last, known[code], at)
        return None

    monitoring.use_tool_id(tool, "interrupts")
    monitoring.register_callback(tool, event, step)
    monitoring.set_events(tool, event)
    try:
        yield
    finally:
        monitoring.set_events(tool, monitoring.events.NO_EVENTS)
        monitoring.register_callback(tool, event, None)
        monitoring.restart_events()
        monitoring.free_tool_id(tool)


def holds() -> tuple[int, int]:
    """Descriptors and threads."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def at_each_place(scenario: Callable[[Interrupter], None]) -> None:
    """Each leaves as many descriptors and threads as there were."""
    gc.collect()
    gc.freeze()  # what other tests have left would be looked at again at each place
    try:
        _at_each_place(scenario)
    finally:
        gc.unfreeze()


def _at_each_place(scenario: Callable[[Interrupter], None]) -> None:
    before = holds()
    place = 0

    def left() -> tuple[int, int]:
        if holds() != before:
            gc.collect()  # an exception's traceback may hold it, and a look at everything takes its time
        return holds()

    while True:
        interrupter = Interrupter(place)
        try:
            scenario(interrupter)
            wait_for(lambda: left() == before, pause=0.001)
        except BaseException as e:
            e.add_note(f"interrupted at place {place}: {interrupter.where}")
            raise
        if not interrupter.reached:
            break
        place += 1
    assert place > 5, "the tracer saw nothing"


@pytest.mark.parametrize("error", [TimeoutError, pytest.param(RuntimeError, marks=pytest.mark.long)])
def test_what_a_handler_raises_reaches_the_program_as_it_is(error: type[Exception]) -> None:
    """Also if it could be the system's by its type: TimeoutError is an OSError."""

    made: list[object] = []  # not collected while interrupted: what is raised in a __del__ reaches nobody

    def use() -> None:
        with va.serve("s") as server, va.attach("s") as reader:
            made.extend((server, reader))
            server.set_header(b"moov")
            server.publish(b"0")
            reader.recv(5).release()
            report("s", 5)

    def scenario(interrupter: Interrupter) -> None:
        gc.collect()  # nor what the place before has left
        interrupter.error = partial(error, "mine")
        arrived = False
        try:
            interrupter.call(use)
        except error as e:
            arrived = type(e) is error and e.args == ("mine",)
        made.clear()
        assert arrived == interrupter.reached

    at_each_place(scenario)


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
            wait_for(lambda: server.readers == 0, pause=0.001)

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
            wait_for(lambda: server.readers == 0, pause=0.001)

        at_each_place(scenario)


def test_a_recv_that_is_interrupted_loses_its_connection_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a new ring arrives: it is read, or the reader says that it was interrupted."""
    monkeypatch.setattr(plain, "REFUSED_SECONDS", 0.001)
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
                assert reader.stats().leases == 0

        at_each_place(scenario)


def test_a_reader_that_is_interrupted_while_it_connects_again_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plain, "REFUSED_SECONDS", 0.001)
    monkeypatch.setattr(backoff.random, "uniform", lambda shortest, longest: 0.001)
    with va.serve("s"):
        reader = va.attach("s", reconnect=True)
    assert reader.recv_nowait() is None

    def scenario(interrupter: Interrupter) -> None:
        with va.serve("s") as server:
            server.publish(b"0")
            with suppress(Interrupt):
                interrupter.call(lambda: reader.recv(5).release())
            server.publish(b"1")
            while last_of(reader) != b"1":
                pass
            assert reader.stats().leases == 0
        assert reader.recv_nowait() is None

    with reader:
        at_each_place(scenario)


def test_a_server_that_is_interrupted_while_it_begins_leaves_its_name_free(runtime_dir: Path) -> None:
    def scenario(interrupter: Interrupter) -> None:
        with suppress(Interrupt):
            interrupter.call(lambda: va.serve("s")).close()
        gc.collect()
        assert os.listdir(runtime_dir) == []
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
