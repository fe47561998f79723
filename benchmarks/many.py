# SPDX-License-Identifier: MIT
"""What many servers cost when nothing happens: ``python benchmarks/many.py [N]``.

idle: N servers of one process, without readers. dead: a merge of "*" reads one live camera at 30 frames per
second beside N sockets that killed servers left. Both print per cent of a core; dead also frames, and those
missed, by second.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time

import valkka_async as va

SECONDS = 15
CAMERA = """
import time, numpy as np, valkka_async as va
with va.serve("live") as server:
    due = time.monotonic()
    while True:
        server.publish(np.zeros((48, 64), np.uint8))
        due += 1 / 30
        time.sleep(max(0, due - time.monotonic()))
"""


async def idle(n: int) -> None:
    servers = [va.serve(f"s{i}") for i in range(n)]
    await asyncio.sleep(2)
    cpu = time.process_time()
    await asyncio.sleep(SECONDS)
    print(f"{n} idle servers: {(time.process_time() - cpu) / SECONDS:.2%} of a core")
    for server in servers:
        server.close()


async def dead(n: int, folder: str) -> None:
    for i in range(n):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(f"{folder}/dead{i}.sock")
    print(f"one live camera beside {n} dead sockets, by second: % of a core, frames, missed")
    frames = missed = seconds = 0
    async with va.merge("*") as merged:
        async for frame in merged:
            frame.release()
            if not seconds:  # the first frame
                seconds, cpu, then = 1, time.process_time(), time.monotonic()
                continue
            frames += 1
            missed += frame.dropped
            if time.monotonic() - then >= 1:
                used = (time.process_time() - cpu) / (time.monotonic() - then)
                print(f"{seconds:4} {used:7.1%} {frames:4} {missed:4}", flush=True)
                cpu, then, frames, missed = time.process_time(), time.monotonic(), 0, 0
                seconds += 1
            if seconds > SECONDS:
                return


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="va-") as folder:
        os.environ["VALKKA_RUNTIME_DIR"] = folder
        asyncio.run(idle(n))
        with subprocess.Popen([sys.executable, "-c", CAMERA]) as camera:
            try:
                while not os.path.exists(f"{folder}/live.sock"):
                    time.sleep(0.01)
                asyncio.run(dead(n, folder))
            finally:
                camera.kill()


if __name__ == "__main__":
    main()
