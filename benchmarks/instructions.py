# SPDX-License-Identifier: MIT
"""User-space instructions of what runs for each frame: ``python benchmarks/instructions.py``.

For machines that are too busy for times. Needs valgrind with its headers, and a C compiler. "channels" are 64
servers of another process, one frame at a time, read by a merge, by 64 clients, and by a callback that only
looks (the floor).
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

N = 200
CHANNELS = 64
PERIOD = 0.02
IMAGE = np.zeros((48, 64), np.uint8)
MARKS = """
#include <valgrind/callgrind.h>
void on(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
"""
SERVERS = """
import sys, time, numpy as np, valkka_async as va
servers = [va.serve(f"s{i}") for i in range(int(sys.argv[1]))]
while sum(server.readers for server in servers) < len(servers):
    time.sleep(0.1)
time.sleep(1)
while True:
    for server in servers:
        server.publish(np.zeros((48, 64), np.uint8))
        time.sleep(float(sys.argv[2]))
"""


class Counter:
    def __init__(self) -> None:
        self.marks = ctypes.CDLL(f"{sys.argv[2]}/marks.so")
        self.seen = 0

    def many(self, name: str, step: Callable[[], object]) -> None:
        for _ in range(20):
            step()
        self.marks.zero()
        for _ in range(N):
            step()
        self.marks.dump(f"{name}={N}".encode())

    def one_more(self, name: str) -> bool:
        """A frame of a channel was seen. True: enough."""
        self.seen += 1
        if self.seen == 2 * CHANNELS:
            self.marks.on()
        if self.seen == 2 * CHANNELS + N:
            self.marks.dump(f"{name}={N}".encode())
        return self.seen >= 2 * CHANNELS + N


def run(coroutine: Any) -> object:
    """A coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as e:
        return e.value
    raise RuntimeError("it waits")


async def single(count: Counter) -> None:
    import valkka_async as va
    from valkka_async.ring import client

    client.TURN_SECONDS = 1e9  # valgrind takes longer than that
    with va.serve("s") as server:
        server.publish(IMAGE)
        for policy in ("latest", "ordered"):
            async with va.connect("s", policy=policy) as c:
                (await c.recv()).release()
                count.marks.on()

                def receive(c: va.Client = c) -> None:
                    server.publish(IMAGE)
                    run(c.recv()).release()  # type: ignore[attr-defined]

                def iterate(c: va.Client = c) -> None:
                    server.publish(IMAGE)
                    run(c.__anext__()).release()  # type: ignore[attr-defined]

                count.many(f"publish-and-recv-{policy}", receive)
                count.many(f"publish-and-anext-{policy}", iterate)
        count.many("publish", lambda: server.publish(IMAGE))


def plain(count: Counter) -> None:
    import valkka_async as va

    with va.serve("s") as server, va.attach("s", policy="ordered") as reader:

        def receive() -> None:
            server.publish(IMAGE)
            reader.recv().release()

        def iterate() -> None:
            server.publish(IMAGE)
            next(reader).release()

        count.marks.on()
        count.many("publish-and-attach-recv", receive)
        count.many("publish-and-attach-next", iterate)
        server.publish(IMAGE)
        with reader.recv() as frame:
            count.many("frame-array", lambda: frame.array)


async def merge(count: Counter) -> None:
    import valkka_async as va

    async with va.merge(*(f"s{i}" for i in range(CHANNELS))) as merged:
        async for frame in merged:
            with frame:
                _ = frame.array
                if count.one_more("channels-merge"):
                    return


async def clients(count: Counter) -> None:
    import valkka_async as va

    over = asyncio.Event()

    async def one(name: str) -> None:
        async with va.connect(name) as client:
            async for frame in client:
                with frame:
                    _ = frame.array
                    if count.one_more("channels-clients"):
                        over.set()
                        return

    tasks = [asyncio.create_task(one(f"s{i}")) for i in range(CHANNELS)]
    await over.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def floor(count: Counter) -> None:
    sys.path.insert(0, sys.argv[2])
    import bench

    bench.floor_make(CHANNELS, 2, IMAGE.nbytes, 1)
    if os.fork() == 0:
        time.sleep(3)
        bench.floor_pace(IMAGE, 0, int(PERIOD * 1e9), 2 * CHANNELS + N + 10, 0, CHANNELS)
        os._exit(0)

    async def read() -> None:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def watch(ring: int) -> None:
            slots = [np.frombuffer(s, np.uint8).reshape(IMAGE.shape) for s in bench.floor_slots(ring)]
            newest, arm, drain = bench.floor_newest, bench.floor_arm, bench.floor_drain

            def on_bell() -> None:
                drain(ring, 0)
                while True:
                    slot = newest(ring)
                    if slot >= 0:
                        _ = slots[slot]
                        if count.one_more("channels-floor"):
                            over.set()
                    elif arm(ring, 0):
                        return

            loop.add_reader(bench.floor_bell(ring, 0), on_bell)
            on_bell()

        for ring in range(CHANNELS):
            watch(ring)
        await over.wait()

    asyncio.run(read())


def measured(what: str) -> None:
    gc.disable()
    count = Counter()
    with tempfile.TemporaryDirectory(prefix="va-") as folder:
        os.environ["VALKKA_RUNTIME_DIR"] = folder
        if what == "floor":
            floor(count)
        elif what == "single":
            asyncio.run(single(count))
            plain(count)
        else:
            command = [sys.executable, "-c", SERVERS, str(CHANNELS), str(PERIOD)]
            with subprocess.Popen(command) as servers:
                try:
                    asyncio.run({"merge": merge, "clients": clients}[what](count))
                finally:
                    servers.kill()


def main() -> None:
    from build import build

    with tempfile.TemporaryDirectory(prefix="va-") as folder:
        build(Path(folder))
        Path(folder, "marks.c").write_text(MARKS)
        subprocess.run(
            [
                "cc",
                "-O2",
                "-shared",
                "-fPIC",
                "-o",
                f"{folder}/marks.so",
                f"{folder}/marks.c",
            ],
            check=True,
        )
        for what in ("single", "floor", "merge", "clients"):
            subprocess.run(
                ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
                 f"--callgrind-out-file={folder}/out.{what}.%p",
                 sys.executable, __file__, what, folder],
                check=True, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        for path in sorted(Path(folder).glob("out.*.*.*"), key=lambda path: path.stat().st_mtime_ns):
            text = path.read_text()
            name = re.search(r"Client Request: (\S+)=(\d+)", text)
            total = re.search(r"^totals: (\d+)", text, re.MULTILINE)  # the summary has what was before zero()
            if name and total:
                print(f"{name[1]:26} {int(total[1]) / int(name[2]):8.0f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measured(sys.argv[1])
    else:
        main()
