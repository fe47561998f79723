"""No memory for a moment, at any allocation: an exception, and all works when the moment is over."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

import valkka_async as va
from support.until import wait_for
from valkka_async.ring import _watch

try:
    from _testcapi import remove_mem_hooks, set_nomemory
except ImportError:
    set_nomemory = None

needs_hooks = pytest.mark.skipif(set_nomemory is None, reason="this Python has no hooks in its allocator")
IMAGE = np.arange(3000, dtype=np.uint8)
HELD = 20  # more than are kept for use again without an allocation


def without_memory(call: Callable[[], object], allocation: int) -> bool:
    """Call it, and refuse one allocation of it. True: it came to its end."""
    set_nomemory(allocation, allocation + 1)
    try:
        call()
    except Exception:  # mostly MemoryError; in C libraries also what they make of it
        return False
    finally:
        remove_mem_hooks()
    return True


@needs_hooks
def test_a_frame_without_memory_costs_no_lease_and_is_there_later() -> None:
    with va.serve("s", slots=2 * HELD) as server, va.attach("s", policy="ordered", max_leases=40) as reader:
        for _ in range(HELD + 1):
            server.publish(IMAGE)
        held = [reader.recv(5) for _ in range(HELD)]
        assert not without_memory(reader.recv_nowait, 0)
        assert reader.stats().leases == len(held)
        assert reader.recv(5).seq == HELD + 1


@needs_hooks
def test_a_loan_without_memory_costs_no_slot() -> None:
    with va.serve("s", slots=HELD) as server:
        server.loan(IMAGE.shape, "bytes").discard()
        held = [server.loan(IMAGE.shape, "bytes") for _ in range(HELD - 1)]
        allocation = 0
        while not without_memory(lambda: server.loan(IMAGE.shape, "bytes"), allocation):
            allocation += 1
        assert allocation
        held.append(server.loan(IMAGE.shape, "bytes"))
        with pytest.raises(va.NoFreeSlotError):
            server.loan(IMAGE.shape, "bytes")


PROGRAM = """
import logging, sys
from _testcapi import remove_mem_hooks, set_nomemory
import valkka_async as va

logging.disable()
sys.unraisablehook = lambda _: None  # of __del__ and callbacks that met it
step, image, calm = sys.argv[1], bytes(3000), 0
with va.serve("s") as server, va.attach("s", policy="ordered") as reader:
    for allocation in range(1000):
        other = va.serve("other") if step == "close" else None
        call = {
            "publish": lambda: server.publish(image, meta={"a": 1}),
            "set_header": lambda: server.set_header(b"%d" % allocation),
            "serve": lambda: va.serve("other").close(),
            "close": other and other.close,
        }[step]
        set_nomemory(allocation, allocation + 1)
        try:
            call()
            ended = True
        except Exception:  # mostly MemoryError; also what others make of it
            ended = False
        remove_mem_hooks()
        if other is not None:
            other.close()
        other = None
        va.serve("other").close()  # its name is free
        server.set_header(b"again")
        assert server.publish(image)
        newest = server.stats().published
        seen = 0
        while seen < newest:
            with reader.recv(30) as frame:
                assert frame.dropped == 0
                seen = frame.seq
        calm = calm + 1 if ended else 0
        if calm > 20:
            break
    assert calm > 20 and reader.header == b"again"
print("done", allocation)
"""


@needs_hooks
@pytest.mark.skipif(
    sys.version_info[:2] == (3, 13), reason="Python 3.13 crashes without memory for a closure"
)
@pytest.mark.parametrize("step", ["publish", "set_header", "serve", "close"])
def test_steps_without_memory_leave_a_server_and_its_readers_working(step: str) -> None:
    """Whichever allocation fails, also in the thread that looks after servers."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, step], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("error", [MemoryError, OSError])
def test_the_thread_that_looks_after_servers_outlives_a_moment_without_memory(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = _watch.ThreadWatcher._turn, threading.Event()

    def turn(self: _watch.ThreadWatcher, life: _watch._Life) -> bool:
        if not failed.is_set():
            failed.set()
            raise error
        return real(self, life)

    with va.serve("s") as server:
        monkeypatch.setattr(_watch.ThreadWatcher, "_turn", turn)
        with va.attach("s", open_timeout=None):  # wakes the thread
            wait_for(failed.is_set)
            with va.attach("s", open_timeout=30):
                wait_for(lambda: server.readers == 2)
    assert os.listdir(os.environ["VALKKA_RUNTIME_DIR"]) == []
