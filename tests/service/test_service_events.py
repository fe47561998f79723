# SPDX-License-Identifier: MIT
"""What a service tells of its cameras, recordings, readers, workers and itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import valkka_async as va
from support.footage import encode
from support.until import until
from valkka_async.record.timeline import Event
from valkka_async.service.config.config import Config
from valkka_async.service.herald import Herald
from valkka_async.service.service import Service
from valkka_async.service.web.metrics import service_families

pytestmark = pytest.mark.one_loop


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("events") / "clip.mp4", (320, 192), 50, gop=10)


def config(folder: Path, cameras: dict[str, Any], **keys: Any) -> Config:
    pattern = str(folder / "{name}/%H-%M-%S.mp4")
    return Config.model_validate({"web": False, "recordings": pattern, "cameras": cameras} | keys)


async def read(ring: str) -> None:
    async with va.connect(ring, reconnect=True) as client:
        async for frame in client:
            frame.release()


class Listener:
    """All events so far."""

    def __init__(self) -> None:
        self.events: list[va.Event] = []

    async def run(self, happening: va.Events) -> None:
        async for event in happening:
            assert event.missed == 0
            self.events.append(event)

    async def hears(
        self, code: str, camera: str, test: Callable[[va.Event], bool] = lambda _: True
    ) -> va.Event:
        """The first one like this that was not asked for before."""

        def find() -> va.Event | None:
            for number, event in enumerate(self.events):
                if (event.code, event.camera) == (code, camera) and test(event):
                    return self.events.pop(number)
            return None

        return await until(find)  # type: ignore[return-value]


async def test_a_service_tells_what_happens(clip: Path, tmp_path: Path) -> None:
    cameras = {
        "front": {"url": str(clip), "record": True, "live": False},
        "gone": {"url": "rtsp://me:secretpw@127.0.0.1:9/x", "live": False},
    }
    listener = Listener()
    async with va.events() as happening:
        task = asyncio.create_task(listener.run(happening))
        async with Service(config(tmp_path, cameras)) as service:
            live = await listener.hears("camera.live", "front")
            # The service looks now and then, and may find it live at the first look.
            assert live.source == "service" and live.fields["before"] in ("connecting", None)
            await listener.hears("recording.writing", "front")
            report = service.status().camera("front")
            assert report is not None and report.worker.pid is not None

            reader = asyncio.create_task(read("front"))
            try:
                joined = await listener.hears("reader.joined", "front", lambda e: e.fields["ring"] == "front")
                assert joined.fields["pid"] == os.getpid()
                os.kill(report.worker.pid, signal.SIGKILL)
                ended = await listener.hears("worker.ended", "front")
                assert (ended.fields["end"], ended.fields["pid"]) == ("killed", report.worker.pid)
                await listener.hears("camera.live", "front")
                again = await listener.hears("reader.joined", "front", lambda e: e.fields["ring"] == "front")
            finally:
                reader.cancel()
                await asyncio.wait([reader])
            left = await listener.hears("reader.left", "front", lambda e: e.fields["ring"] == "front")
            assert left.fields["reader"] == again.fields["reader"]

            await service.apply(config(tmp_path, {"gate": cameras["gone"]}))
            complete = await listener.hears("recording.file", "front")
            assert Path(complete.fields["path"]).stat().st_size > 0
            assert complete.fields["to_ns"] > complete.fields["from_ns"]
            await listener.hears("camera.removed", "front")
            reloaded = await listener.hears("service.reloaded", "service")
            assert reloaded.fields["added"] == ["gate"] and "front" in reloaded.fields["removed"]
            waiting = await listener.hears("camera.waiting", "gate")
            assert waiting.fields["cause"] == va.Cause.UNREACHABLE and waiting.text
            assert "secretpw" not in str(waiting)
        await listener.hears("service.stopping", "service")
        task.cancel()
        await asyncio.wait([task])


async def test_what_happens_is_told_with_the_recordings(clip: Path, tmp_path: Path) -> None:
    cameras = {"front": {"url": str(clip), "record": True, "live": False}}
    begin_ns = time.time_ns()
    async with Service(config(tmp_path, cameras)) as service:

        async def told() -> tuple[Event, ...]:
            return (await service.archive.timeline("front", begin_ns, begin_ns + 600 * 10**9)).events

        async def tells(code: str) -> None:
            while code not in [event.code for event in await told()]:
                await asyncio.sleep(0.02)

        await until(lambda: service.archive.stored("front"))
        async with asyncio.timeout(30):
            with va.serve("front.people") as analyser:
                for _ in range(3):
                    analyser.emit("person", "at the door")
                analyser.emit("dog", camera="elsewhere")
                await tells("person")
            report = service.status().camera("front")
            assert report is not None and report.worker.pid is not None
            os.kill(report.worker.pid, signal.SIGKILL)
            for code in ("worker.ended", "camera.live"):
                await tells(code)
        # Of one code, one in a second; and not what readers and recordings do, or of other cameras.
        events = await told()
        assert [(e.text, e.count) for e in events if e.code == "person"] == [("at the door", 1)]
        assert {event.code.partition(".")[0] for event in events} == {"person", "worker", "camera"}


async def test_hooks_of_the_config_are_told_and_follow_a_reload(clip: Path, tmp_path: Path) -> None:
    script = tmp_path / "note.sh"
    script.write_text('#!/bin/sh\necho "$VALKKA_CAMERA $VALKKA_EVENT" >> "$1"\n')
    script.chmod(0o700)
    cameras = {"front": {"url": str(clip), "live": False}}

    def noting(name: str, *events: str) -> dict[str, Any]:
        return {"run": [str(script), str(tmp_path / name)], "events": events}

    def noted(name: str) -> list[str]:
        path = tmp_path / name
        return path.read_text().splitlines() if path.exists() else []

    first = config(tmp_path, cameras, on=[noting("one", "camera.live", "person", "service.stopping")])
    async with Service(first) as service:
        await until(lambda: "front camera.live" in noted("one"))
        with va.serve("front.people") as analyser:
            assert analyser.emit("person", camera="front")
            await until(lambda: "front person" in noted("one"))
            await until(lambda: service.status().hooks[0].delivered == 2)
            samples = [s for family in service_families(service.status()) for s in family.samples]
            assert ("valkka_hook_delivered_total", {"hook": "1"}, 2) in [s[:3] for s in samples]
            changes = await service.apply(config(tmp_path, cameras, on=[noting("two", "person")]))
            assert changes.settings == ("on",) and not changes.changed
            assert analyser.emit("person", camera="front")
            await until(lambda: noted("two") == ["front person"])
        assert noted("one") == ["front camera.live", "front person"]


async def test_an_outage_is_told_once_and_not_each_attempt() -> None:
    def status(state: str, cause: str | None = None) -> Any:
        why = cause and va.Cause(cause)
        return SimpleNamespace(name="cam1", state=va.CameraState(state), cause=why, reason="", since_ns=1000)

    herald = Herald("home")
    herald.open()
    async with va.events("cam1") as happening:
        for state in ("connecting", "live", "stalled", "waiting timeout", "connecting", "waiting timeout"):
            herald.camera(status(*state.split()))
        for state in ("connecting", "waiting auth", "connecting", "failed auth", "connecting", "live"):
            herald.camera(status(*state.split()))
        herald.publish(va.Event(va.EventCode.WORKER_ENDED, "cam1", 1))
        herald.camera(status("live"))
        herald.emit("last", "cam1")
        told = []
        while not told or told[-1] != "last":
            event = await happening.recv()
            told.append(f"{event.code} {event.fields.get('cause') or ''}".strip())
            now = told[-1] in ("camera.waiting auth", "worker.ended", "last")  # else since when it is so
            assert (event.time_ns == 1000) == (not now)
    herald.close()
    assert told == [
        "camera.connecting",
        "camera.live",
        "camera.stalled",
        "camera.waiting timeout",
        "camera.waiting auth",
        "camera.failed auth",
        "camera.live",
        "worker.ended",
        "camera.live",
        "last",
    ]


async def test_a_second_service_of_that_name_runs_and_says_that_it_tells_nothing(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with va.serve("service.events"):
        async with Service(config(tmp_path, {"front": {"url": str(clip), "live": False}})) as service:
            await until(lambda: service.ready)
    assert "no events are told" in caplog.text
