# SPDX-License-Identifier: MIT
"""One measurement, in processes of its own: ``python stage.py JOB`` prints one line of JSON.

The stage forks the readers and the writer, tells them when to go on, and gathers what they measured:

    all      say "h" when they are there, and open their library at "g"
    writer   publishes warm-up frames until every reader has one ("w" from the reader, "m" to the writer)
    writer   LATENCY frames at 30 fps, FLOOD frames as fast as it can, its result, then STOP frames
    readers  their result at the first STOP frame

run.py puts a deadline on the whole and kills it by its process group.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, ClassVar

import bench
import numpy as np
from contenders import REGISTRY, Contender, Spec

WRITERS_OF_CHANNELS = 2
SETTLE_SECONDS = 0.2


class Failed(Exception):
    """A measurement that cannot be had; its text goes into the report."""


class Child:
    """A forked process and the socket to it. It lives until the stage closes the socket."""

    ours: ClassVar[list[socket.socket]] = []

    def __init__(self, what: str, run: Callable[[socket.socket], None]) -> None:
        self.what = what
        self.gone = False
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.append(self.sock)
        self.pid = os.fork()
        if self.pid == 0:
            for sock in self.ours:
                sock.close()  # or nobody would see the end of the others
            bench.die_with_parent()
            try:
                theirs.send(b"h")
                theirs.recv(1)
                run(theirs)
            except BaseException:
                with contextlib.suppress(OSError):
                    theirs.send(json.dumps({"error": traceback.format_exc(limit=-3)}).encode()[:60000])
            os._exit(0)  # no atexit handlers and no joining of feeder threads: it has been measured
        theirs.close()

    def died_of(self) -> str:
        """How a process ended whose socket has closed."""
        self.sock.close()
        _, status = os.waitpid(self.pid, 0)
        self.gone = True
        code = os.waitstatus_to_exitcode(status)
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def end(self, grace: float) -> None:
        self.sock.close()
        if self.gone:
            return
        until = time.monotonic() + grace
        while time.monotonic() < until:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return
            time.sleep(0.005)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Ring:
    """Waits for messages of all children."""

    def __init__(self, children: list[Child], deadline: float) -> None:
        self.children, self.deadline = children, deadline
        self.selector = selectors.DefaultSelector()
        for child in children:
            self.selector.register(child.sock, selectors.EVENT_READ, child)
        self.results: dict[str, dict[str, Any]] = {}
        self.said: dict[bytes, set[str]] = {b"h": set(), b"w": set()}

    def wait(self, done: Callable[[], bool], what: str) -> None:
        while not done():
            left = self.deadline - time.monotonic()
            ready = self.selector.select(max(0.0, left))
            if not ready and left <= 0:
                raise Failed(f"nothing more within the deadline, while waiting for {what}")
            for key, _ in ready:
                child = key.data
                try:
                    data = child.sock.recv(65536)
                except OSError:
                    data = b""
                if not data:
                    self.selector.unregister(child.sock)
                    if child.what not in self.results:
                        raise Failed(f"the {child.what} died ({child.died_of()}) while waiting for {what}")
                elif data in self.said:
                    self.said[data].add(child.what)
                else:
                    result = json.loads(data)
                    if "error" in result:
                        raise Failed(f"{child.what}: {result['error']}")
                    self.results[child.what] = result


# --------------------------------------------------------------------------------------- memory


def memory() -> tuple[int, int]:
    """Bytes of this process: proportional set size, and what is resident of shared memory."""
    pss = shared = 0
    counting = False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            word, _, rest = line.partition(" ")
            if not word.endswith(":"):
                counting = "/memfd:" in line or "/dev/shm/" in line
            elif word == "Pss:":
                pss += int(rest.split()[0])
            elif word == "Rss:" and counting:
                shared += int(rest.split()[0])
    return pss * 1024, shared * 1024


# -------------------------------------------------------------------------------------- readers


def percentiles(raw: bytes) -> dict[str, float]:
    values = sorted(array.array("q", raw))
    if not values:
        return {}
    return {
        f"p{p}": values[min(len(values) - 1, int(len(values) * p / 100))] / 1000 for p in (50, 90, 99)
    } | {"max": values[-1] / 1000}


def reader_result(before: int) -> dict[str, Any]:
    after, shared = memory()
    phases, hand, touched = bench.results()
    names = ("warm", "latency", "flood", "stop")
    result: dict[str, Any] = {
        "hand_us": percentiles(hand),
        "touched_us": percentiles(touched),
        "pss": after - before,
        "shared": shared,
    }
    for k, name in enumerate(names):
        count, torn, lost, first, last, cpu = phases[k]
        if not count:
            continue
        following = next((p for p in phases[k + 1 :] if p[0]), None)
        result[name] = {
            "count": count,
            "torn": torn,
            "lost": lost,
            "first_ns": first,
            "per_s": (count - 1) * 1e9 / (last - first) if count > 1 and last > first else 0.0,
            "cpu_us": (following[5] - cpu) / 1000 if following else 0.0,
        }
    return result


def read(open_reader: Callable[[], Any], sock: socket.socket) -> None:
    before = memory()[0]
    bench.tell(sock.fileno())
    reader = open_reader()
    reader.read(bench.touch)
    sock.send(json.dumps(reader_result(before)).encode())
    while sock.recv(64):
        pass  # until nobody needs this reader to be there
    reader.close()


# --------------------------------------------------------------------------------------- writer


def heard(sock: socket.socket, seconds: float = 0.0) -> bool:
    """Has the stage said something?"""
    sock.settimeout(seconds or 1e-6)
    try:
        sock.recv(1)
        return True
    except (TimeoutError, BlockingIOError):
        return False
    finally:
        sock.settimeout(None)


def write(
    contender: Contender, spec: Spec, shared: Any, job: dict[str, Any], image: np.ndarray, sock: socket.socket
) -> None:
    before = memory()[0]
    writer = contender.writer(spec, shared)
    while not heard(sock, 0.001):
        writer.send(image, bench.WARM)
    writer.pace(image, bench.WARM, 200, 16)
    time.sleep(SETTLE_SECONDS)
    count = round(job["fps"] * job["latency_s"])
    cpu = [bench.cpu()]
    writer.pace(image, bench.LATENCY, job["fps"], count)
    time.sleep(0.01)
    cpu.append(bench.cpu())
    started = time.monotonic()
    published, dropped = writer.flood(image, job["flood_s"])
    seconds = time.monotonic() - started
    cpu.append(bench.cpu())
    after, resident = memory()
    result = {
        "latency": {"count": count, "cpu_us": (cpu[1] - cpu[0]) / 1000},
        "flood": {
            "count": published,
            "dropped": dropped,
            "per_s": published / seconds,
            "cpu_us": (cpu[2] - cpu[1]) / 1000,
        },
        "pss": after - before,
        "shared": resident,
    }
    sock.send(json.dumps(result).encode())
    while not heard(sock, 0.01):
        writer.send(image, bench.STOP)
    sock.recv(1)  # until its memory has been looked at
    writer.close()


def stream(contender: Contender, spec: Spec, job: dict[str, Any], deadline: float) -> dict[str, Any]:
    """One writer to some readers."""
    image = picture(spec)
    shared = contender.prepare(spec)
    names = [f"reader {i}" for i in range(spec.readers)]
    children = [
        Child(name, lambda sock, i=i: read(lambda: contender.reader(spec, shared, i), sock))
        for i, name in enumerate(names)
    ]
    writer = Child("writer", lambda sock: write(contender, spec, shared, job, image, sock))
    children.append(writer)
    try:
        ring = Ring(children, deadline)
        ring.wait(lambda: len(ring.said[b"h"]) == len(children), "the processes to start")
        go = time.monotonic_ns()
        for child in children:
            child.sock.send(b"g")
        ring.wait(lambda: len(ring.said[b"w"]) == spec.readers, "the first frame")
        writer.sock.send(b"m")
        ring.wait(lambda: len(ring.results) == len(children), "the results")
        with contextlib.suppress(OSError):
            writer.sock.send(b"e")
        readers = [ring.results[name] for name in names]
        return stream_result(ring.results["writer"], readers, spec, go)
    finally:
        end(children)


def stream_result(w: dict[str, Any], readers: list[dict[str, Any]], spec: Spec, go: int) -> dict[str, Any]:
    def total(phase: str, key: str) -> float:
        return sum(r.get(phase, {}).get(key, 0) for r in readers)

    result: dict[str, Any] = {
        "start_ms": max(r["warm"]["first_ns"] for r in readers if "warm" in r) / 1e6 - go / 1e6,
        "pss_mb": (w["pss"] + sum(r["pss"] for r in readers)) / 1e6,
        "shared_mb": max(w["shared"], *(r["shared"] for r in readers)) / 1e6,
        "shared_frames": max(w["shared"], *(r["shared"] for r in readers)) / spec.nbytes,
    }
    if frames := total("latency", "count"):
        for key in ("hand_us", "touched_us"):
            for p in readers[0][key]:
                result[f"{key[:-3]}_{p}_us"] = sum(r[key][p] for r in readers if r[key]) / len(readers)
        result["paced_cpu_us"] = (w["latency"]["cpu_us"] + total("latency", "cpu_us")) / frames
        result["paced_delivered"] = frames / len(readers) / w["latency"]["count"]
    if frames := total("flood", "count"):
        result["per_s"] = total("flood", "per_s")
        result["published_per_s"] = w["flood"]["per_s"]
        result["dropped"] = w["flood"]["dropped"]
        result["lost"] = total("flood", "lost")
        result["torn"] = total("flood", "torn")
        result["flood_cpu_us"] = (w["flood"]["cpu_us"] + total("flood", "cpu_us")) / frames
        result["flood_writer_cpu_us"] = w["flood"]["cpu_us"] / w["flood"]["count"]
        result["flood_reader_cpu_us"] = total("flood", "cpu_us") / frames
    return result


# ------------------------------------------------------------------------------------- channels


def write_channels(
    contender: Contender,
    spec: Spec,
    shared: Any,
    job: dict[str, Any],
    image: np.ndarray,
    sock: socket.socket,
    first: int,
    count: int,
) -> None:
    pace = contender.channel_writer(spec, shared, first, count)
    fps = job["rate"] / WRITERS_OF_CHANNELS
    while not heard(sock):
        pace(image, bench.WARM, fps, max(10, int(fps / 50)))
    # Every channel once, so that who connects late and who has slots to touch does it now; then settle.
    pace(image, bench.WARM, fps, max(2 * count, int(fps * (0.5 + spec.channels / 1000))))
    time.sleep(SETTLE_SECONDS)
    frames = round(fps * job["latency_s"])
    cpu = bench.cpu()
    pace(image, bench.LATENCY, fps, frames)
    cpu = bench.cpu() - cpu
    time.sleep(0.05)
    sock.send(json.dumps({"count": frames, "cpu_us": cpu / 1000}).encode())
    sock.recv(1)  # the first STOP frame ends the reader: the other writer must be ready too
    while not heard(sock, 0.01):
        pace(image, bench.STOP, 100, 1)
    sock.recv(1)


def channels(contender: Contender, spec: Spec, job: dict[str, Any], deadline: float) -> dict[str, Any]:
    """Two writer processes with half the channels each, all read by one process."""
    image = picture(spec)
    shared = contender.prepare(spec)
    half = spec.channels // WRITERS_OF_CHANNELS
    reader = Child("reader", lambda sock: read(lambda: contender.channel_reader(spec, shared), sock))
    writers = [
        Child(
            f"writer {k}",
            lambda sock, k=k: write_channels(contender, spec, shared, job, image, sock, k * half, half),
        )
        for k in range(WRITERS_OF_CHANNELS)
    ]
    children = [reader, *writers]
    try:
        ring = Ring(children, deadline)
        ring.wait(lambda: len(ring.said[b"h"]) == len(children), "the processes to start")
        for child in children:
            child.sock.send(b"g")
        ring.wait(lambda: bool(ring.said[b"w"]), "the first frame")
        for writer in writers:
            writer.sock.send(b"m")
        ring.wait(lambda: len(ring.results) == len(writers), "the writers' results")
        for writer in writers:
            writer.sock.send(b"s")
        ring.wait(lambda: len(ring.results) == len(children), "the reader's result")
        for writer in writers:
            with contextlib.suppress(OSError):
                writer.sock.send(b"e")
    finally:
        end(children)
    r = ring.results["reader"]
    published = sum(ring.results[w.what]["count"] for w in writers)
    got = r.get("latency")
    if not got:
        raise Failed("no frame arrived")
    return {
        "touched_p50_us": r["touched_us"]["p50"],
        "touched_p99_us": r["touched_us"]["p99"],
        "delivered": got["count"] / published,
        "reader_cpu_us": got["cpu_us"] / got["count"],
        "writer_cpu_us": sum(ring.results[w.what]["cpu_us"] for w in writers) / published,
        "frames": got["count"],
        "per_s": got["per_s"],
    }


def picture(spec: Spec) -> np.ndarray:
    """What is published: random pixels, all of whose pages are there."""
    pixels = np.random.default_rng(1).integers(0, 256, spec.nbytes, np.uint8)
    return np.frombuffer(bytearray(pixels), np.uint8).reshape(spec.shape)


def end(children: list[Child]) -> None:
    """Readers are done by now; a writer may be stuck in a full queue that nobody reads any more."""
    files: set[str] = set()
    for child in children:
        with contextlib.suppress(OSError), open(f"/proc/{child.pid}/maps") as maps:
            files |= {line.split()[-1] for line in maps if "/dev/shm/" in line and "(deleted)" not in line}
    for child in children:
        child.sock.close()
    for child in children:
        child.end(0.3)
    for file in files:  # some leave their memory behind when they are killed, and some always
        with contextlib.suppress(OSError):
            os.unlink(file)


def main() -> None:
    job = json.loads(sys.argv[1])
    deadline = time.monotonic() + job["deadline_s"]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    spec = Spec(**job["spec"])
    contender = REGISTRY[job["contender"]]
    started = time.monotonic()
    try:
        try:
            contender.load()
        except Exception as e:
            raise Failed(f"cannot be imported: {type(e).__name__}: {e}") from None
        loaded = (time.monotonic() - started) * 1000
        work = channels if spec.channels else stream
        result = work(contender, spec, job, deadline) | {"import_ms": loaded}
    except Failed as e:
        result = {"error": str(e)}
    except Exception:
        result = {"error": traceback.format_exc(limit=-3)}
    print("\n" + json.dumps(result), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
