"""What a forked child inherits is inert there, whatever another thread did at the moment of the fork."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FORKS = int(os.environ.get("VALKKA_STRESS_COUNT", "300"))

PRELUDE = """
import gc, os, sys, threading, time, warnings
import numpy as np
import valkka_async as va
from valkka_async.ring import fork

def child(body):
    "The pid of a forked child, which ends with the status 0 if body() returns True."
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if body() is True else 2
        except BaseException:
            import traceback; traceback.print_exc()
        finally:
            os._exit(code)
    return pid

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def in_child(body):
    return status(child(body))

def raises(kind, call, *args):
    try:
        call(*args)
    except kind:
        return True
    return False

def descriptors():
    "Beyond the standard ones, that of the directory itself, and that of libffi, which keeps its file open."
    found = {int(fd) for fd in os.listdir("/proc/self/fd")}
    found = {fd for fd in found if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")}
    return [fd for fd in found if "libffi" not in os.readlink(f"/proc/self/fd/{fd}")]
"""


def run(code: str, seconds: float = 60, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + code, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout + done.stderr
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
            raises(va.InheritedError, server.set_header, b"x"),
            raises(va.InheritedError, server.set_header, b""),
            raises(va.InheritedError, server.expire),
            raises(va.InheritedError, server.wait_writable, 0),
        ])
    assert in_child(body) == 0

import asyncio
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


def test_a_child_of_a_parent_that_waits_for_a_frame_is_told_what_is_its_own() -> None:
    assert (
        run("""
import asyncio
server = va.serve("s")
async def main():
    async with va.connect("s") as client, va.merge("s") as merge:
        waiting = [asyncio.create_task(one.recv()) for one in (client, merge)]
        await asyncio.sleep(0.01)
        async def receive(one):
            try:
                await asyncio.wait_for(one.recv(), 5)
            except va.InheritedError:
                return True
        def body():
            asyncio._set_running_loop(None)
            inherited = [raises(va.InheritedError, one.recv_nowait) for one in (client, merge)]
            return all(inherited) and all(asyncio.run(receive(one)) for one in (client, merge))
        assert in_child(body) == 0
        for task in waiting:
            task.cancel()
asyncio.run(main())
server.close()
print("done")
""")
        == "done"
    )


def test_workers_over_an_inherited_reader_fail_and_do_not_find_an_empty_stream() -> None:
    """As loaders of training data fork them: the reader is opened once, and read in each worker."""
    assert (
        run("""
import multiprocessing as mp
from concurrent.futures import ProcessPoolExecutor
context = mp.get_context("fork")
server = va.serve("s")
server.publish(b"one")
reader = va.attach("s")
reader.recv(5).release()

def work(results):
    try:
        results.put(len(list(reader)))
    except BaseException as e:
        results.put(type(e).__name__)
def count(number):
    return sum(1 for frame in reader)

results = context.Queue()
worker = context.Process(target=work, args=(results,))
worker.start(); print(results.get(timeout=20)); worker.join()
results.close(); results.join_thread()
with context.Pool(1) as pool:
    try: print(pool.map(count, [1]))
    except va.InheritedError as e: print(type(e).__name__)
with ProcessPoolExecutor(1, mp_context=context) as pool:
    print(type(pool.submit(count, 1).exception(20)).__name__)
server.publish(b"two")
assert bytes(reader.recv(5).data) == b"two"
reader.close(); server.close()
""")
        == "InheritedError\nInheritedError\nInheritedError"
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


def test_a_fork_waits_for_descriptors_on_their_way() -> None:
    """Between the call that opens one and the place where it is noted."""
    assert (
        run("""
order = []
held = threading.Event()
def hold():
    with fork.steady():
        held.set()
        time.sleep(0.1)
        order.append("noted")
thread = threading.Thread(target=hold)
thread.start()
held.wait()
assert in_child(lambda: True) == 0
order.append("forked")
thread.join()
print(order)
""")
        == "['noted', 'forked']"
    )


def test_a_child_and_its_child_have_what_is_their_own_and_no_more() -> None:
    """Threads, too: what watches over a server needs the lock that the fork has waited for."""
    assert (
        run("""
def own(name):
    with va.serve(name) as server, va.attach(name, open_timeout=5) as reader:
        server.publish(b"x")
        return bytes(reader.recv(5).data) == b"x"

def grandchild():
    return all([descriptors() == [], server.closed, mine.closed,
                raises(va.InheritedError, mine.publish, b"x"), own("third")])

def first():
    global mine
    with va.serve("mine") as mine, va.attach("mine", open_timeout=5) as reader:
        mine.publish(b"1")
        frame = reader.recv(5)
        code = in_child(grandchild)
        for _ in range(40): mine.publish(b"2")
        return code == 0 and bytes(frame.data) == b"1" and bytes(reader.recv(5).data) == b"2"

server = va.serve("s")
assert in_child(first) == 0
assert own("another")
server.close()
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
FORKS = int(sys.argv[1])
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

gc.collect(); gc.freeze()  # a child has little to look through

def body():
    gc.collect()
    left = descriptors()
    if left:
        print([(fd, os.readlink(f"/proc/self/fd/{fd}")) for fd in left], file=sys.stderr)
        return False
    raised = [raises(va.InheritedError, call) for call in (lambda: server.publish(b"x"), steady.recv_nowait)]
    return all(raised)

deadline = time.monotonic() + float(sys.argv[2])
forks = 0
statuses = set()
children = []
while forks < FORKS and time.monotonic() < deadline and not failures:
    children.append(child(body))
    forks += 1
    if len(children) > 3:
        statuses.add(status(children.pop(0)))
statuses.update(map(status, children))
stop.set()
for thread in threads: thread.join()
while (frame := steady.recv_nowait()) is not None:
    counts["received"] += 1
    frame.release()
steady.close()
published = server.stats().published
server.close()
assert not failures, failures
assert statuses == {0}, statuses
assert counts["changed"] == 0, counts
assert counts["published"] == counts["received"] == published, (counts, published)
print("forks", forks, *counts.values())
"""


@pytest.mark.timeout(60 + max(20, FORKS / 20))
def test_hundreds_of_forks_while_threads_publish_read_and_serve_change_nothing() -> None:
    """As many as there is time for; in `make stress` a hundred thousand, however long that takes."""
    stress = FORKS > 300
    seconds = FORKS / 20 if stress else 5
    forks = int(run(BUSY, 40 + seconds, str(FORKS), str(seconds)).split()[1])
    assert forks == FORKS if stress else forks >= 20


def test_a_fork_that_could_not_wait_leaves_the_child_a_lock() -> None:
    """A signal's handler raised while it waited for another thread, which the child does not have."""
    assert (
        run("""
import signal
taken, over = threading.Event(), threading.Event()
def hold():
    with fork.steady():
        taken.set()
        over.wait(60)
def handle(*_):
    raise KeyboardInterrupt
def body():
    with va.serve("other") as other, va.attach("other") as reader:
        return other.publish(b"x") and reader.recv(30).seq == 1
sys.unraisablehook = lambda _: None  # says that the fork did not wait
signal.signal(signal.SIGALRM, handle)
with va.serve("s") as server, va.attach("s") as reader:
    server.publish(b"one")
    frame = reader.recv(5)
    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        assert in_child(body) == 0
    finally:
        over.set()
    thread.join()
    assert server.publish(b"two") and reader.recv(5).seq == 2
print("done")
""")
        == "done"
    )


def test_a_child_has_no_part_in_a_ring_larger_than_the_machines_memory() -> None:
    """Most of such a ring was never touched; the kernel does not let a process have as much of its own."""
    assert (
        run("""
machine = sum(int(line.split()[1]) << 10 for line in open("/proc/meminfo")
              if line.startswith(("MemTotal:", "SwapTotal:")))
with va.serve("s", slots=1024) as server, va.attach("s") as reader:
    slot = server.loan((machine // 1024,), "bytes")  # as much again as room to spare
    memory = slot.array[:4096]
    memory[:] = 1
    def body():
        memory[:] = 2
        return set(memory.tolist()) == {2}
    assert in_child(body) == 0
    print(set(memory.tolist()))
""")
        == "{1}"
    )


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is of this machine's system calls")
def test_a_child_that_gets_no_memory_cannot_write_its_parents() -> None:
    """As where overcommit is off (vm.overcommit_memory=2)."""
    assert (
        run("""
import ctypes, struct
lines = (
    (0x20, 0, 0, 0), (0x15, 0, 5, 9),  # mmap
    (0x20, 0, 0, 32), (0x15, 0, 3, 3),  # of memory to be written
    (0x20, 0, 0, 40), (0x45, 0, 1, 0x10),  # at a place that is told
    (0x06, 0, 0, 0x5000C), (0x06, 0, 0, 0x7FFF0000))
program = b"".join(struct.pack("HBBI", *line) for line in lines)
with va.serve("s") as server, va.attach("s") as reader:
    slot = server.loan((4096,), "bytes")
    memory = slot.array
    memory[:] = 1
    held = ctypes.create_string_buffer(program)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    assert libc.prctl(22, 2, struct.pack("HxxxxxxP", len(lines), ctypes.addressof(held)), 0, 0) == 0
    def body():
        os.write(1, b"%d " % memory[0])
        memory[:] = 2
    assert in_child(body) == -11
    print(set(memory.tolist()))
""")
        == "0 {1}"
    )
