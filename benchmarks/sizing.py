# SPDX-License-Identifier: MIT
"""Memory and descriptors of a service, for each camera: ``python benchmarks/sizing.py [--cameras 4]``.

A real service (`valkka-async run`) reads synthetic H.264 from a real RTSP server on loopback. Memory is PSS:
what several processes share is divided among them. "workers" is all that runs below the service: what workers
share is in there, so that what one more takes is the difference to fewer. docs/sizing.md has these figures;
cameras.py measures CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processes import below, descriptors, pss

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests"))
import valkka_async as va  # noqa: E402
from support.footage import encode  # noqa: E402
from support.program import Program  # noqa: E402
from support.rtsp import RtspServer, rtsp_available  # noqa: E402
from valkka_async.service.control import ask  # noqa: E402

SETTLE = 6.0  # s after all cameras are live
SIZES = {"1080p": (1920, 1080), "360p": (640, 360)}


def config(count: int, url: str, folder: Path, camera: str) -> str:
    cameras = "\n".join(f"  c{n}: {{url: '{url}', {camera}}}" for n in range(count))
    return f"name: sizing\nweb: {{port: 0}}\nrecordings: {folder}/{{name}}/%H%M%S.mp4\ncameras:\n{cameras}\n"


@contextlib.contextmanager
def service(text: str, folder: Path, count: int) -> Iterator[tuple[int, list[int]]]:
    """A service with its cameras live: its pid, and those of its workers."""
    path = folder / "cameras.yaml"
    path.write_text(text)
    with Program("run", str(path)) as program:
        program.line()
        deadline = time.monotonic() + 60
        while True:
            cameras: list[dict[str, Any]] = ask("sizing", "status", 10.0)["cameras"]
            if len(cameras) == count and all(c["state"] == "live" for c in cameras):
                break
            if time.monotonic() > deadline:
                raise TimeoutError("not all cameras are live")
            time.sleep(0.1)
        yield program.process.pid, [c["worker"]["pid"] for c in cameras]
        program.end()


def measure(url: str, count: int, camera: str, read: bool) -> dict[str, float]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        main, workers = stack.enter_context(service(config(count, url, folder, camera), folder, count))
        readers = [stack.enter_context(va.attach(f"c{n}")) for n in range(count if read else 0)]
        end = time.monotonic() + SETTLE
        while time.monotonic() < end:
            for reader in readers:
                with contextlib.suppress(TimeoutError):
                    reader.recv(timeout=0.05).release()
            if not readers:
                time.sleep(0.1)
        return {
            "service_mb": pss(main),
            "workers_mb": sum(map(pss, below(main))),
            "service_fds": descriptors(main),
            "worker_fds": statistics.mean(map(descriptors, workers)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if reason := rtsp_available():
        sys.exit(reason)
    cases = {
        "idle": ("outputs: []", False),
        "recorded": ("outputs: [], record: true", False),
        "rgb24, one reader": ("live: false", True),
        "nv12, one reader": ("live: false, outputs: [{format: nv12}]", True),
        "gray8 640x360, one reader": ("live: false, outputs: [{format: gray8, size: 640x360}]", True),
    }
    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="va-") as name, RtspServer(deadline=900) as server:
        os.environ["VALKKA_RUNTIME_DIR"] = f"{name}/run"
        for size, pixels in SIZES.items():
            server.mount(f"/{size}", encode(Path(name) / f"{size}.h264", pixels, 50))
            for case, (camera, read) in cases.items():
                for count in (1, options.cameras):
                    found = measure(server.url(f"/{size}"), count, camera, read)
                    table[f"{size} {case} x{count}"] = found
                    if not options.json:
                        print(
                            f"{size:6} {case:26} x{count:<3} service {found['service_mb']:6.1f} MB "
                            f"{found['service_fds']:4.0f} fds; workers {found['workers_mb']:6.1f} MB "
                            f"{found['worker_fds']:4.0f} fds each",
                            flush=True,
                        )
    if options.json:
        print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
