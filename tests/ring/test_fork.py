"""What a forked child inherits is inert there, whatever another thread did at the moment of the fork."""

from __future__ import annotations

import os
import subprocess
import sys

STRESS_SECONDS = float(os.environ.get("VALKKA_STRESS_SECONDS", "0"))

PRELUDE = """
import asyncio, gc, os, sys, threading, time, warnings
import numpy as np
import valkka_async as va
from valkka_async.ring import fork

def in_child(body):
    "The exit status of body() in a forked child: 0 if it returned True."
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if body() is True else 2
        except BaseException:
            import traceback; traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def raises(kind, call, *args):
    try:
        call(*args)
    except kind:
        return True
    return False

def descriptors():
    "Beyond the standard ones, without that of the directory itself."
    found = {int(fd) for fd in os.listdir("/proc/self/fd")}
    return [fd for fd in found if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")]
"""


def run(code: str, seconds: float = 60) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + code],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_child_does_not_give_back_the_frame_of_a_closed_reader() -> None:
    """Its connection is the frame's, and no reader is there any more that could be told of the fork."""
    assert (
        run("""
server = va.serve("s", slots=3)
held = []
for end in ("close", "collect", "reconnect"):
    reader = va.attach("s", reconnect=end == "reconnect")
    server.publish(np.full(5000, 7, np.uint8))
    held.append(reader.recv(5))
    if end != "collect":
        reader.close()
    del reader
    gc.collect()
    arrays = [frame.array for frame in held]
    def body():
        global held, arrays
        ok = descriptors() == [] and raises(va.FrameReleasedError, lambda: held[-1].array)
        held = arrays = None
        gc.collect()
        return ok
    assert in_child(body) == 0
    for i in range(30):
        server.publish(np.full(5000, i, np.uint8))
    assert all((array == 7).all() for array in arrays), end
    assert server.stats().readers == 1  # the frame is held, and so the connection lives
    held.clear(); del arrays
    while server.stats().readers: time.sleep(0.001)
server.close()
print("done")
""")
        == "done"
    )


def test_what_a_child_writes_into_an_inherited_slot_stays_with_the_child() -> None:
    assert (
        run("""
with va.serve("s") as server, va.attach("s") as reader:
    slot = server.loan((4000,), "bytes")
    memory = slot.array
    memory[:] = 1
    def body():
        memory[:] = 2
        return raises(va.InheritedError, slot.publish)
    assert in_child(body) == 0
    slot.publish()
    print(set(reader.recv(5).array.tolist()))
""")
        == "{1}"
    )


def test_inherited_readers_clients_and_merges_raise_and_do_not_end_like_a_stream() -> None:
    assert (
        run("""
server = va.serve("s")
server.publish(b"one")
with va.attach("s") as reader, va.attach("s", reconnect=True) as patient:
    reader.recv(5).release(); patient.recv(5).release()
    def body():
        return all([
            *(raises(va.InheritedError, call, r) for r in (reader, patient) for call in
              (lambda r: r.recv(1), lambda r: r.recv_nowait(), lambda r: r.fileno(), list)),
            raises(va.InheritedError, server.publish, b"x"),
            raises(va.InheritedError, server.loan, (4,), "bytes"),
        ])
    assert in_child(body) == 0

async def main():
    merge = va.merge("s", "m*")
    async with va.connect("s") as client, va.connect("s", reconnect=True) as patient, merge:
        for one in (client, patient, merge):
            (await one.recv()).release()
        async def everything():
            async def read(one):
                async for frame in one: pass
            for one in (client, patient, merge):
                for call in (one.recv, lambda: read(one)):
                    try:
                        await asyncio.wait_for(call(), 5)
                        return False
                    except va.InheritedError:
                        pass
                if not raises(va.InheritedError, one.recv_nowait):
                    return False
            try:
                await client.open()
                return False
            except va.InheritedError:
                pass
            return True
        def body():
            asyncio._set_running_loop(None)
            return asyncio.run(everything())
        assert in_child(body) == 0
        server.publish(b"two")
        assert bytes((await client.recv()).data) == b"two"  # the parent's are as they were
        assert bytes((await merge.recv()).data) == b"two"
asyncio.run(main())
server.close()
print("done")
""")
        == "done"
    )


def test_one_thing_that_cannot_be_dropped_leaves_nothing_else_alive() -> None:
    """As a descriptor that is closed already: EBADF."""
    assert (
        run("""
class Broken: pass
def fail(thing): os.close(987654)
things = [Broken() for _ in range(3)]
fork.in_child(things[0], fail)
server = va.serve("s")
fork.in_child(things[1], fail)
reader = va.attach("s")
server.publish(b"x"); frame = reader.recv(5)
fork.in_child(things[2], fail)
def body():
    return descriptors() == [] and raises(va.InheritedError, server.publish, b"y") and server.closed
assert in_child(body) == 0
frame.release(); reader.close(); server.close()
print("done")
""")
        == "done"
    )


def test_a_server_in_the_middle_of_its_end_leaves_no_descriptor_in_the_child() -> None:
    assert (
        run("""
from valkka_async.ring.rendezvous import Claim
statuses = []
def body():
    return descriptors() == []
def close(claim, close=Claim.close):
    statuses.append(in_child(body))  # the server counts as closed, and has not given its name back
    close(claim)
Claim.close = close
server = va.serve("s")
server.publish(b"x")
server.close()
va.serve("s").close()
print(statuses)
""")
        == "[0, 0]"
    )


BUSY = """
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0
FORKS = 100_000 if SECONDS else 300
SECONDS = SECONDS or 12
sys.setswitchinterval(1e-5)
stop = threading.Event()
failures, counts = [], {"published": 0, "received": 0, "changed": 0}

def guarded(work):
    def loop():
        try:
            while not stop.is_set():
                work()
        except BaseException as e:
            failures.append(repr(e)); raise
    return threading.Thread(target=loop)

server = va.serve("s", slots=12)
steady = va.attach("s", policy="lossless")
number = 0

def publish():
    "All bytes of a frame are its number; every hundredth is longer than all before, up to a limit."
    global number
    size = 1000 + number // 100 % 40 * 500
    if server.publish(np.full(size, (number + 1) % 251, np.uint8), format="bytes"):
        number += 1
        counts["published"] += 1
    else:
        time.sleep(0.0005)

def receive():
    frame = steady.recv_nowait()
    if frame is None:
        time.sleep(0.0005)
        return
    counts["received"] += 1
    if not (frame.array == frame.seq % 251).all():
        counts["changed"] += 1
    frame.release()

def come_and_go():
    reader = va.attach("s", policy="latest")
    frame = reader.recv(10)
    array = frame.array
    reader.close()
    time.sleep(0.003)
    if not (array == frame.seq % 251).all():
        counts["changed"] += 1

def serve():
    with va.serve("other") as other:
        other.publish(b"x")

threads = [guarded(work) for work in (publish, receive, come_and_go, serve)]
for thread in threads: thread.start()

def body():
    gc.collect()
    left = descriptors()
    if left:
        print([(fd, os.readlink(f"/proc/self/fd/{fd}")) for fd in left], file=sys.stderr)
        return False
    raised = [raises(va.InheritedError, call) for call in (lambda: server.publish(b"x"), steady.recv_nowait)]
    return all(raised)

deadline = time.monotonic() + SECONDS
forks = 0
statuses = {}
while forks < FORKS and time.monotonic() < deadline and not failures:
    status = in_child(body)
    statuses[status] = statuses.get(status, 0) + 1
    forks += 1
stop.set()
for thread in threads: thread.join()
while (frame := steady.recv_nowait()) is not None:
    counts["received"] += 1
    frame.release()
steady.close()
published = server.stats().published
server.close()
assert not failures, failures
assert set(statuses) == {0}, statuses
assert counts["changed"] == 0, counts
assert counts["published"] == counts["received"] == published, (counts, published)
assert forks >= 20, forks
print("forks", forks)
"""


def test_hundreds_of_forks_while_threads_publish_read_and_serve_change_nothing() -> None:
    seconds = max(STRESS_SECONDS, 0)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + BUSY, *([str(seconds)] if seconds else [])],
        capture_output=True,
        text=True,
        timeout=60 + 2 * seconds,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("forks")
