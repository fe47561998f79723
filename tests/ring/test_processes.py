"""Across processes: nothing torn, and whoever dies harms nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import valkka_async as va
from support.program import Child

# Publishes as fast as it can; each frame is full of its own number.
FULL_SPEED = """
s = va.serve("s", slots=int(sys.argv[1]))
h, w = int(sys.argv[2]), int(sys.argv[3])
image = np.empty((h, w, 3), np.uint8)
say("up")
n = 0
while not os.path.exists(sys.argv[4]):
    image[:] = (n + 1) % 251
    n += s.publish(image)
s.close()
say(n, s.stats().dropped)
"""


@pytest.mark.parametrize("policy", ["latest", "ordered"])
@pytest.mark.parametrize("size", [(40, 60), (480, 640)])
def test_a_frame_never_changes_under_a_view_however_slow_the_reader(
    policy: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """And what was received and what was dropped sum up to what was published."""
    stop = tmp_path / "stop"
    with Child(FULL_SPEED, 8, *size, stop) as child:
        child.line()
        held: list[tuple[np.ndarray, int]] = []  # type: ignore[type-arg]
        last = received = dropped = 0
        end = time.monotonic() + 2
        with va.attach("s", policy=policy, max_leases=4) as reader:
            first = None
            for frame in reader:
                first = frame.seq - frame.dropped if first is None else first
                assert first == 1 or received or dropped == 0
                last = frame.seq
                received += 1
                dropped += frame.dropped
                held.append((frame.array, frame.seq))
                del frame
                if len(held) == 3:
                    # the oldest has been held while the other two came
                    array, seq = held.pop(0)
                    value = seq % 251
                    for _ in range(3):
                        assert (array == value).all(), f"frame {seq} changed under a live view"
                if time.monotonic() > end and not stop.exists():
                    held.clear()
                    stop.touch()
            assert all((a == s % 251).all() for a, s in held)
        published = int(child.line().split()[0])
        assert last == published
        assert first is not None
        assert first - 1 + received + dropped == published
        assert received > 20


def test_many_readers_at_different_speeds_see_whole_frames(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    reader = """
    with va.attach("s", policy=sys.argv[1]) as r:
        say("in")
        n = 0
        for f in r:
            a = f.array
            assert (a == f.seq % 251).all(), f.seq
            time.sleep(float(sys.argv[2]))
            assert (a == f.seq % 251).all(), f.seq
            n += 1
            if n == 21:
                say("enough")
    """
    kinds = [("latest", 0), ("latest", 0.003), ("ordered", 0), ("ordered", 0.002)]
    with Child(FULL_SPEED, 12, 100, 100, stop) as writer:
        writer.line()
        readers = [Child(reader, *kind) for kind in kinds]
        try:
            for r in readers:
                assert r.line() == "in"
            for r in readers:
                assert r.line() == "enough"
            time.sleep(0.5)
            stop.touch()
            assert [r.wait() for r in readers] == [0] * 4
        finally:
            for r in readers:
                r.__exit__(None, None, None)


def test_a_killed_reader_gives_its_slots_back_and_nobody_notices() -> None:
    code = """
    with va.attach("s", max_leases=4) as r:
        held = []
        for i in range(3):
            held.append(r.recv(10))
            say("held")
        time.sleep(60)
    """
    with va.serve("s", slots=6) as server, va.attach("s", policy="ordered") as other:
        for _ in range(5):
            with Child(code) as child:
                while server.stats().readers < 2:
                    time.sleep(0.001)
                for _ in range(3):
                    server.publish(b"x")
                    other.recv(5).release()
                    assert child.line() == "held"
                child.kill()
            deadline = time.monotonic() + 5
            while server.stats().readers > 1:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            dropped = server.stats().dropped
            for _ in range(6):  # all the slots are there: none is still leased
                held = [other.recv(5) for _ in range(3) if server.publish(b"y")]
                assert len(held) == 3
                held.clear()
            assert server.stats().dropped == dropped


async def test_a_killed_server_raises_after_its_last_frames() -> None:
    code = """
    s = va.serve("s")
    sys.stdin.readline()
    for i in range(5): s.publish(b"%d" % i)
    say("sent")
    time.sleep(60)
    """
    with Child(code) as child:
        async with va.connect("s", policy="ordered") as client:
            child.tell("go")
            await asyncio.to_thread(child.line)
            assert (await client.recv()).seq == 1
            child.kill()
            with pytest.raises(
                va.ConnectionClosedError, match=f"process {child.pid}.*last frame was 5"
            ) as raised:
                async for frame in client:
                    last = frame.seq
            assert (raised.value.pid, raised.value.last_seq, last) == (child.pid, 5, 5)
            assert isinstance(raised.value, va.ConnectionClosed)
    va.serve("s").close()


async def test_a_reconnecting_client_carries_on_with_the_next_server() -> None:
    code = 's = va.serve("s")\nwhile True: s.publish(sys.argv[1].encode()); time.sleep(0.005)'
    client = va.connect("s", reconnect=True)
    with Child(code, "one") as child:
        async with asyncio.timeout(20):
            await client.open()
            assert bytes((await client.recv()).data) == b"one"
        child.kill()
    with Child(code, "two") as child:
        async with asyncio.timeout(20):
            async for frame in client:
                if bytes(frame.data) == b"two":
                    break
        child.kill()
    stats = client.stats()
    assert stats.received >= 2
    client.close()
    va.serve("s").close()


def test_sigkill_at_a_random_moment_leaves_a_ring_that_can_be_read() -> None:
    """The writer dies in the middle of anything; what was published before is whole."""
    rng = np.random.default_rng(8)
    code = """
    s = va.serve("s", slots=4)
    image = np.empty((300, 400, 3), np.uint8)
    say("up")
    n = 0
    while True:
        image[:] = (n + 1) % 251
        n += s.publish(image)
    """
    for _ in range(10):
        with Child(code) as child:
            child.line()
            with va.attach("s", policy="ordered") as reader:
                last = 0
                end = time.monotonic() + rng.uniform(0, 0.1)
                with pytest.raises(va.ConnectionClosedError) as raised:
                    for frame in reader:
                        assert (frame.array == frame.seq % 251).all()
                        assert frame.seq > last
                        last = frame.seq
                        if time.monotonic() > end:
                            child.kill()
                assert raised.value.last_seq == last
                del frame
    va.serve("s").close()


def test_a_stopped_reader_does_not_stop_the_writer() -> None:
    code = """
    with va.attach("s", policy="ordered") as r:
        for f in r:
            say(f.seq, f.dropped)
    """
    with va.serve("s", slots=4) as server, Child(code) as child:
        while not server.stats().readers:
            time.sleep(0.001)
        server.publish(b"x")
        assert child.line() == "1 0"
        child.signal(signal.SIGSTOP)
        for _ in range(1000):
            assert server.publish(b"x")
        assert server.stats().dropped == 0
        child.signal(signal.SIGCONT)
        seen = 1
        while seen < 1001:
            seq, dropped = map(int, child.line().split())
            assert seq == seen + dropped + 1
            seen = seq
        server.close()
        assert child.wait() == 0


FORK = """
import gc, os, sys, time
import valkka_async as va
server = va.serve("s", slots=3)
reader = va.attach("s")
server.publish(b"held")
frame = reader.recv(5)
pid = os.fork()
if pid == 0:
    ok = server.closed
    for call in (lambda: frame.data, lambda: reader.recv(1), lambda: server.publish(b"child")):
        try:
            call()
            ok = False
        except va.ValkkaError:
            pass
    frame.release(); reader.close(); server.close()
    del frame, reader, server
    gc.collect()
    with va.attach("s") as own, va.serve("mine") as mine:   # the child may have its own
        mine.publish(b"x")
        ok = ok and bytes(own.recv(5).data) == b"held"
    os._exit(0 if ok else 1)
status = os.waitpid(pid, 0)[1]
for i in range(10):
    server.publish(b"%d" % i)
assert bytes(frame.data) == b"held", "the child gave the parent's lease back"
assert bytes(reader.recv(5).data) == b"9"
print(os.waitstatus_to_exitcode(status))
frame.release(); reader.close(); server.close()
"""


def test_a_forked_child_leaves_its_parents_leases_and_sockets_alone() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=30)
    assert done.stdout == "0\n", done.stderr


def test_a_forked_child_does_not_keep_a_dead_parents_server_alive() -> None:
    code = """
    s = va.serve("s"); s.publish(b"x")
    pid = os.fork()
    if pid == 0:
        os.write(1, b"child\\n"); time.sleep(60); os._exit(0)
    os.write(1, b"%d\\n" % pid)  # in one piece: two processes write there
    time.sleep(60)
    """
    with Child(code) as parent:
        said = {parent.line(), parent.line()}  # the child has begun, and so has dropped what it inherited
        orphan = int((said - {"child"}).pop())
        try:
            with va.attach("s") as reader:
                reader.recv(5).release()
                parent.kill()
                with pytest.raises(va.ConnectionClosedError):
                    reader.recv(5)
            with va.serve("s"):  # the lock is free as well
                pass
        finally:
            os.kill(orphan, signal.SIGKILL)


def test_an_opencv_program_without_asyncio() -> None:
    """The plainest use: a loop over frames, each blurred."""
    cv2 = pytest.importorskip("cv2")
    with Child(
        """
        with va.serve("cam1") as s:
            while not s.stats().readers: time.sleep(0.001)
            for i in range(10):
                image = np.zeros((90, 160, 3), np.uint8)
                image[:, 10 * i:10 * i + 10] = 255
                s.publish(image, format="bgr24")
                time.sleep(0.01)
        """
    ) as child:
        seen = 0
        with va.attach("cam1") as reader:
            for frame in reader:
                blurred = cv2.GaussianBlur(frame.array, (5, 5), 0)
                column = (frame.seq - 1) * 10 + 5
                assert blurred[45, column].tolist() == [255, 255, 255]
                seen += 1
        assert seen + reader.stats().dropped == 10
        child.wait()


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise KeyboardInterrupt"])
def test_a_program_may_end_without_closing_anything(end: str) -> None:
    """And its readers see a clean close, or a crash, but they see it."""
    code = f"""
import sys, threading
import valkka_async as va
server = va.serve("s"); reader = va.attach("s"); server.publish(b"x"); frame = reader.recv(5)
print("up", flush=True); sys.stdin.readline()
{end}
"""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        with va.attach("s") as reader:
            reader.recv(5).release()
            process.stdin.close()
            with pytest.raises(va.ConnectionClosed):
                reader.recv(10)
        assert process.wait(10) == {"": 0, "sys.exit(3)": 3}.get(end, -signal.SIGINT)
    va.serve("s").close()


def test_a_program_that_ends_without_closing_anything_ends_in_silence() -> None:
    """The interpreter takes the server last, when nothing can be imported any more."""
    code = """
import valkka_async as va
server = va.serve("s")
server.publish(b"x")
reader = va.attach("s")
frame = reader.recv(5)
class Cycle: pass
cycle = Cycle()
cycle.all = cycle, server, reader
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
