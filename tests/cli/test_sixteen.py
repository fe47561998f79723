# SPDX-License-Identifier: MIT
"""Sixteen RTSP cameras from one config: `top` and /metrics say what was done to them, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.footage import encode
from support.program import Child, Program, processes, run
from support.rtsp import RtspServer
from support.until import wait_for

COUNT = 16
FPS = 10
# What befalls which; all others are to stay as they are.
STALLED, GONE, LOCKED, RESIZED, CRASHED, SLOW = "cam1", "cam2", "cam3", "cam4", "cam5", "cam6"

READER = """
with va.attach(sys.argv[1], policy="latest") as reader:
    while True:
        with reader.recv():
            say(reader.stats().received, reader.stats().dropped)
            time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sixteen")
    return {
        "small": encode(folder / "small.h264", (320, 192), 20, fps=FPS, gop=10),
        "large": encode(folder / "large.h264", (480, 288), 20, fps=FPS, gop=10),
    }


class Street:
    """The cameras, and what is said of them."""

    def __init__(self, url: str) -> None:
        self._url = url

    def top(self) -> dict[str, dict[str, Any]]:
        done = run("top", "--json", "--once")
        assert (done.returncode, done.stderr) == (0, "")
        return {camera["name"]: camera for camera in json.loads(done.stdout)["cameras"]}

    def metrics(self) -> dict[tuple[str, str], float]:
        """By sample and camera; of states, the one that is 1 is in the sample's name."""
        with urllib.request.urlopen(self._url + "metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name
                if name == "valkka_camera_state":
                    name = f"{name}:{sample.labels['state']}"
                elif name.startswith("valkka_output"):
                    name = f"{name}:{sample.labels['format']}"
                labels = sample.labels
                found[name, labels.get("camera") or labels.get("worker", "")] = sample.value
        return found

    def states(self) -> dict[str, str]:
        prefix = "valkka_camera_state:"
        return {
            camera: name.removeprefix(prefix)
            for (name, camera), value in self.metrics().items()
            if name.startswith(prefix) and value == 1
        }


@pytest.mark.long  # test_camera_chaos.py has as many cameras, test_top.py the figures
@pytest.mark.timeout(240)
def test_top_and_metrics_tell_the_truth_under_faults(
    rtsp: RtspServer, clips: dict[str, Path], tmp_path: Path, runtime_dir: Path
) -> None:
    names = [f"cam{i + 1}" for i in range(COUNT)]
    lines = ["web: {port: 0}", "defaults: {read_timeout: 60}", "cameras:"]
    for name in names:
        auth = ("me", "right-one", "digest") if name == LOCKED else None
        rtsp.mount(f"/{name}", clips["small"], fps=FPS, auth=auth)
        login = "me:wrong-one@" if name == LOCKED else ""
        lines.append(f"  {name}: {{url: 'rtsp://{login}127.0.0.1:{rtsp.port}/{name}'}}")
    config = tmp_path / "cameras.yaml"
    config.write_text("\n".join(lines) + "\n")
    with Program("run", str(config)) as program:
        street = Street(program.line())
        wait_for(lambda: Counter(street.states().values()) == {"live": COUNT - 1, "failed": 1}, 90)
        before = street.metrics()
        assert all(before["valkka_camera_width_pixels", n] == 320 for n in names if n != LOCKED)
        worker = street.top()[CRASHED]["pid"]

        rtsp.pause(f"/{STALLED}")
        rtsp.unmount(f"/{GONE}")
        rtsp.switch(f"/{RESIZED}", clips["large"])
        os.kill(worker, signal.SIGKILL)
        with Child(READER, SLOW, 1.0) as slow, Child(READER, SLOW, 0.0) as quick:
            expected = dict.fromkeys(names, "live") | {STALLED: "stalled", LOCKED: "failed"}

            def come_true() -> bool:
                now = street.states()
                return (
                    now.pop(GONE) in ("waiting", "failed")
                    and now == {n: s for n, s in expected.items() if n != GONE}
                    and street.metrics()["valkka_camera_width_pixels", RESIZED] == 480
                )

            wait_for(come_true, 60)
            for reader in (slow, quick):
                for _ in range(4):
                    reader.line()
            top, metrics = street.top(), street.metrics()

        # Both say the same, and that is what was done.
        for name in names:
            row = top[name]
            wanted = ("waiting", "failed") if name == GONE else (expected[name],)
            assert row["state"] in wanted, name
            assert metrics["valkka_camera_up", name] == (row["state"] == "live")
            assert bool(row["reason"]) == (name in (GONE, LOCKED)) or name in (STALLED, CRASHED), row
            assert (row["restarts"] or 0) == (name == CRASHED)
            assert metrics["valkka_worker_restarts_total", name] == (name == CRASHED)
            assert metrics["valkka_camera_reconnects_total", name] == 0
            if name in (STALLED, GONE):
                assert metrics["valkka_camera_last_frame_age_seconds", name] > 1
                assert row["age"] is None or row["age"] > 1
            elif name != LOCKED:
                assert metrics["valkka_camera_packets_total", name] > 0
                assert row["width"] == (480 if name == RESIZED else 320)
        assert "password" in top[LOCKED]["reason"] or "refuse" in top[LOCKED]["reason"]

        # Only the camera that has readers of pixels is decoded.
        decoding = {n for n in names if metrics["valkka_camera_decoded_total", n] > 0}
        assert decoding == {SLOW}
        ring = next(ring for ring in top[SLOW]["rings"] if ring["name"] == SLOW)
        drops = {client["pid"]: client["dropped"] for client in ring["clients"]}
        assert drops.keys() == {slow.pid, quick.pid}
        assert drops[slow.pid] >= 3 * FPS / 2 > drops[quick.pid]

        # All is well again, and all of it is told.
        rtsp.resume(f"/{STALLED}")
        rtsp.mount(f"/{GONE}", clips["small"], fps=FPS)
        wait_for(lambda: Counter(street.states().values())["live"] >= COUNT - 2)
        status, errors = program.end(signal.SIGTERM)
    assert status == 0
    assert "wrong-one" not in errors + program.seen
    wait_for(lambda: processes(runtime_dir) == [])
