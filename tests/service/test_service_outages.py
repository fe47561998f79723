# SPDX-License-Identifier: MIT
"""What a service logs of cameras that are out: an outage once, a crash as one record, each with `camera`."""

from __future__ import annotations

import json
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support import footage
from support.program import Program
from support.rtsp import RtspServer
from support.until import wait_for
from valkka_async.camera.spec import CameraSpec
from valkka_async.camera.status import CameraState, Cause, before_start
from valkka_async.camera.workers.status import SupervisedStatus, WorkerState, WorkerStatus
from valkka_async.service.control import ask_status
from valkka_async.service.outages import Outages


def one(state: CameraState, cause: Cause | None = None, reason: str = "") -> SupervisedStatus:
    camera = before_start(CameraSpec("one", "rtsp://10.0.0.7/live", ()), state)
    worker = WorkerStatus(("one",), WorkerState.RUNNING, 1, 1, 0, None, None, "", 0.0, 0)
    return SupervisedStatus("one", state, cause, reason, 1, None, camera, worker)


def test_an_outage_is_told_once_and_another_cause_is_news(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outages = Outages()
    S, C = CameraState, Cause
    gone = [one(S.WAITING, C.UNREACHABLE, "no route"), one(S.CONNECTING, C.UNREACHABLE, "no route")]
    for status in (
        *(one(S.CONNECTING), one(S.LIVE)),
        *(one(S.STALLED), one(S.WAITING, C.TIMEOUT, "nothing came")),  # one outage
        *gone * 20,
        *(one(S.FAILED, C.AUTH, "401"), one(S.CONNECTING, C.AUTH), one(S.FAILED, C.AUTH, "401, again")),
        *(one(S.LIVE), one(S.WAITING, C.WORKER, "was killed"), one(S.CONNECTING, C.WORKER), one(S.LIVE)),
        *(one(S.WAITING, C.UNREACHABLE, "no route"), one(S.IDLE), one(S.STOPPED)),
    ):
        outages.tell(status)
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("INFO", "one: connecting"),
        ("INFO", "one: live"),
        ("WARNING", "one: stalled"),
        ("WARNING", "one: waiting: no route"),
        ("WARNING", "one: failed: 401"),
        ("INFO", "one: live"),
        ("INFO", "one: live"),  # the worker's end was told by those who know how it ended
        ("WARNING", "one: waiting: no route"),
        ("INFO", "one: idle"),
        ("INFO", "one: stopped"),
    ]
    assert {r.camera for r in caplog.records} == {"one"}  # type: ignore[attr-defined]
    outages.tell(gone[0])
    outages.forget("one")
    outages.tell(replace(gone[0], reason="another camera of that name"))
    assert caplog.records[-1].message == "one: waiting: another camera of that name"


def test_a_crash_is_one_record_of_json_and_an_outage_another(rtsp: RtspServer, tmp_path: Path) -> None:
    clip = footage.encode(tmp_path / "clip.h264", (320, 192), 50, gop=10)
    rtsp.mount("/one", clip, fps=25)
    config = tmp_path / "cameras.yaml"
    camera = f"{{url: '{rtsp.url('/one')}', retry_max: 0.2, retry_refused: 0.2}}"
    config.write_text(f"web: false\nlog: {{format: json}}\ncameras: {{one: {camera}}}\n")
    with Program("run", str(config)) as program:

        def told() -> list[dict[str, Any]]:
            lines = program.stderr().split("\n")[:-1]  # the last one may not be complete yet
            return [json.loads(line) for line in lines]  # all of it is JSON

        def live(times: int) -> bool:
            return sum(entry.get("state") == "live" for entry in told()) == times

        def pid() -> int:
            status = ask_status("service", 10.0)
            assert status is not None and status.cameras[0].worker.pid is not None
            return status.cameras[0].worker.pid

        wait_for(lambda: live(1))
        os.kill(pid(), signal.SIGSEGV)
        wait_for(lambda: live(2))
        rtsp.unmount("/one")
        wait_for(lambda: any(entry.get("state") in ("waiting", "failed") for entry in told()))
        program.line_if_any(1.5)  # some attempts more
        rtsp.mount("/one", clip, fps=25)
        wait_for(lambda: live(3))
        status, _ = program.end(signal.SIGTERM)
        entries = told()
    assert status == 0
    bad = [entry for entry in entries if entry["level"] in ("warning", "error", "critical")]
    assert all(entry.get("camera") == "one" for entry in bad), bad
    (crash,) = [entry for entry in bad if "signal" in entry]
    assert crash["signal"] == "SIGSEGV" and "was killed by SIGSEGV" in crash["message"]
    assert crash["text"].startswith("Fatal Python error: Segmentation fault") and "\n" in crash["text"]
    causes = [entry["message"] for entry in bad if entry is not crash]
    assert 1 <= len(causes) == len(set(causes)) <= 2  # it ended; and then there was no such path
