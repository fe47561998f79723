# SPDX-License-Identifier: MIT
"""A service with real cameras: what it tells, records and changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import pytest

import valkka_async as va
from support.footage import encode
from support.rtsp import RtspServer
from support.until import until
from valkka_async import typed
from valkka_async.camera.spec import Output
from valkka_async.camera.workers.supervisor import Supervisor
from valkka_async.record.cause import RecordingCause
from valkka_async.ring.rendezvous import servers
from valkka_async.service import recordings
from valkka_async.service.config.config import Config
from valkka_async.service.service import Service
from valkka_async.service.status import CameraReport, RecordingState, RecordingStatus, ServiceStatus

SECONDS = 30.0
NO_RECORDING = RecordingStatus(RecordingState.WAITING, False, False, 0, None, 0.0, None, 0, 0, 0, None, None)

pytestmark = pytest.mark.one_loop


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("service") / "clip.h264", (320, 192), 50, gop=10)


def config(cameras: dict[str, Any], folder: Path, **keys: Any) -> Config:
    pattern = str(folder / "{name}/%H-%M-%S.mp4")
    return Config.model_validate({"web": False, "recordings": pattern, "cameras": cameras} | keys)


def camera(service: Service, name: str) -> CameraReport:
    report = service.status().camera(name)
    assert report is not None
    return report


def recording(service: Service, name: str) -> RecordingStatus:
    """Nothing has been written if there is none (yet)."""
    report = service.status().camera(name)
    return NO_RECORDING if report is None or report.recording is None else report.recording


def states(service: Service) -> dict[str, str]:
    return {c.name: c.state for c in service.status().cameras}


@contextlib.asynccontextmanager
async def reading(name: str) -> AsyncIterator[None]:
    """A reader that reads all the time."""

    async def read() -> None:
        async with va.connect(name, reconnect=True, open_timeout=SECONDS) as client:
            async for frame in client:
                frame.release()

    task = asyncio.create_task(read())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def mounted(rtsp: RtspServer, path: str, *args: Any, **settings: Any) -> str:
    await asyncio.to_thread(rtsp.mount, path, *args, **settings)
    return rtsp.url(path)


def test_one_that_is_not_entered_yet_says_so_to_whoever_asks(tmp_path: Path) -> None:
    """`top`, while the first footage of a demo is made."""
    status = Service(config({"yard": {"url": "rtsp://127.0.0.1:9/x"}}, tmp_path)).status()
    assert status.cameras == () and status.name == "service"


async def test_status_tells_what_cameras_do(rtsp: RtspServer, clip: Path, tmp_path: Path) -> None:
    url = await mounted(rtsp, "/a", clip)
    cameras = {
        "front": {"url": url, "title": "<Front>"},
        "gone": {"url": "rtsp://me:secretpw@127.0.0.1:9/x", "live": False},
    }
    async with Service(config(cameras, tmp_path)) as service:
        assert list(states(service)) == ["front", "gone"]  # at once, in the order of the file
        await until(lambda: states(service) == {"front": "live", "gone": "waiting"} and service.ready)
        front, gone = service.status().cameras
        assert (front.title, front.live, front.still) == ("<Front>", "front.fmp4", "front.jpeg")
        assert (gone.live, gone.still, gone.age) == (None, None, None)
        assert gone.cause is va.Cause.UNREACHABLE and gone.reason and gone.camera.attempts >= 1
        assert "secretpw" not in str(service.status()) + typed.dumps(service.status())
        assert typed.loads(ServiceStatus, typed.dumps(service.status())).camera("gone") is not None
        assert front.camera.decoded == 0  # it has no readers
        async with reading("front"):
            await until(lambda: _fps(service, "front", "front") > 5)
        assert _fps(service, "front", "front.jpeg") == 0
        await until(lambda: 0 < camera(service, "front").cpu < 2)  # which is measured over some seconds
        front = camera(service, "front")
        assert front.age is not None and front.age < 10
        assert front.worker.pid not in (None, os.getpid()) and front.worker.rss > 1e6


def _fps(service: Service, name: str, ring: str) -> float:
    return camera(service, name).ring_fps.get(ring, 0.0)


async def test_another_config_touches_only_what_differs(rtsp: RtspServer, clip: Path, tmp_path: Path) -> None:
    url = await mounted(rtsp, "/a", clip)
    cameras: dict[str, Any] = {"one": {"url": url}, "two": {"url": url}, "three": {"url": url}}
    async with Service(config(cameras, tmp_path)) as service:
        await until(lambda: set(states(service).values()) == {"live"})
        before = {name: camera(service, name) for name in cameras}
        assert not await service.apply(config(cameras, tmp_path))

        other = {"one": cameras["one"], "two": {"url": url, "outputs": [{"name": "two.small", "fps": 5}]}}
        changes = await service.apply(config(other | {"four": {"url": url}}, tmp_path))
        assert (changes.added, changes.changed, changes.removed) == (("four",), ("two",), ("three",))
        assert str(changes) == "added four; changed two; removed three"
        assert servers() == [
            "four", "four.fmp4", "four.jpeg", "one", "one.fmp4", "one.jpeg", "service.events",
            "two.fmp4", "two.jpeg", "two.small",
        ]  # fmt: skip
        await until(lambda: list(states(service).values()) == ["live"] * 3)
        after = camera(service, "one")
        assert after.worker.pid == before["one"].worker.pid and after.camera.attempts == 1
        assert after.camera.packets >= before["one"].camera.packets
        assert camera(service, "two").worker.pid == before["two"].worker.pid

        changes = await service.apply(config(other, tmp_path, name="other", workers={"group_size": 2}))
        assert set(changes.restart) == {"name", "workers"} and "restart" in str(changes)


@pytest.mark.parametrize("turns", [1, 20])
async def test_what_a_cancelled_change_left_undone_is_done_by_the_next(
    rtsp: RtspServer, clip: Path, tmp_path: Path, turns: int
) -> None:
    url = await mounted(rtsp, "/a", clip)

    def cameras(**settings: dict[str, Any]) -> Config:
        return config({name: {"url": url} | values for name, values in settings.items()}, tmp_path)

    first = cameras(
        one={}, two={}, gone={}, x={"outputs": [{"name": "x.a"}]}, y={"outputs": [{"name": "y.a"}]}
    )
    other = cameras(
        one={},
        two={"title": "Two"},
        new={},
        x={"outputs": [{"name": "y.a"}]},
        y={"outputs": [{"name": "x.a"}]},
    )
    async with Service(first) as service:
        await until(lambda: service.ready)
        applying = asyncio.create_task(service.apply(other))
        for _ in range(turns):
            await asyncio.sleep(0)
        applying.cancel()
        await asyncio.wait([applying])
        changes = await service.apply(other)
        assert "two" in changes.changed and "one" not in changes.changed  # and not that nothing has changed
        await until(lambda: states(service) == dict.fromkeys(("one", "two", "new", "x", "y"), "live"))
        rings = {c.name: [o.name for o in c.camera.outputs] for c in service.status().cameras}
        assert (rings["x"][0], rings["y"][0]) == ("y.a", "x.a")
        assert camera(service, "two").title == "Two"
        assert not await service.apply(other)


async def test_cameras_are_changed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"cam{n}" for n in range(6)]
    change, together = Supervisor.change, asyncio.Barrier(len(names))

    async def slow(self: Supervisor, spec: va.CameraSpec) -> None:
        await together.wait()  # nobody comes through before all have begun
        await change(self, spec)

    monkeypatch.setattr(Supervisor, "change", slow)

    def cameras(port: int) -> Config:
        return config({name: {"url": f"rtsp://127.0.0.1:{port}/x"} for name in names}, tmp_path)

    async with Service(cameras(9)) as service:
        await until(lambda: service.ready)
        assert (await service.apply(cameras(7))).changed == tuple(names)


async def test_a_config_that_cannot_be_applied_changes_nothing(tmp_path: Path) -> None:
    cameras: dict[str, Any] = {"one": {"url": "rtsp://127.0.0.1:9/x"}, "two": {"url": "rtsp://127.0.0.1:9/x"}}
    good = config(cameras, tmp_path)
    # Not to be had from a file, whose loader looks at patterns.
    broken = config({"one": {"url": "rtsp://127.0.0.1:7/x"}}, tmp_path).model_copy(
        update={"recordings": "{name}/{nonsense}.mp4"}
    )
    async with Service(good) as service:
        await until(lambda: service.ready)
        before = [report.worker.pid for report in service.status().cameras]
        with pytest.raises(va.ValkkaError, match="recordings of one"):
            await service.apply(broken)
        assert service.config is good
        assert [report.worker.pid for report in service.status().cameras] == before
        assert not await service.apply(good)


async def test_changes_that_are_no_cameras_are_told(tmp_path: Path) -> None:
    cameras: dict[str, Any] = {"one": {"url": "rtsp://127.0.0.1:9/x"}}
    async with Service(config(cameras, tmp_path)) as service:
        changes = await service.apply(config(cameras, tmp_path / "elsewhere"))
        assert (changes.settings, changes.changed, changes.restart) == (("recordings",), (), ())
        for _ in range(2):  # for as long as it is true
            changes = await service.apply(config(cameras, tmp_path / "elsewhere", name="other"))
            assert (changes.settings, changes.restart) == ((), ("name",)) and service.name == "service"


async def test_two_cameras_exchange_a_ring(rtsp: RtspServer, clip: Path, tmp_path: Path) -> None:
    url = await mounted(rtsp, "/a", clip)

    def cameras(first: str, second: str) -> Config:
        rings = {"one": first, "two": second}
        return config(
            {n: {"url": url, "live": False, "outputs": [{"name": r}]} for n, r in rings.items()}, tmp_path
        )

    async with Service(cameras("x", "y")) as service:
        await until(lambda: states(service) == {"one": "live", "two": "live"})
        await service.apply(cameras("y", "x"))
        await until(lambda: states(service) == {"one": "live", "two": "live"})
        assert [o.name for c in service.status().cameras for o in c.camera.outputs] == ["y", "x"]


async def test_a_recording_on_demand_plays(rtsp: RtspServer, clip: Path, tmp_path: Path) -> None:
    url = await mounted(rtsp, "/a", clip)
    async with Service(config({"front": {"url": url}}, tmp_path)) as service:
        assert camera(service, "front").recording is None
        assert await service.set_recording("front", True) is not None
        await service.set_recording("front", True)  # which is no second one
        await until(lambda: recording(service, "front").duration > 0.5)
        path = recording(service, "front").path
        assert recording(service, "front").state is RecordingState.WRITING
        assert path is not None and path.startswith(str(tmp_path / "front"))
        assert await service.set_recording("front", False) is None
        assert camera(service, "front").recording is None
        assert await asyncio.to_thread(_frames, path) >= 10
        await service.archive.settled()
        (span,) = (await service.archive.timeline("front", 0, 1 << 62)).spans
        assert span.to_ns > span.from_ns and span.codec.startswith("avc1.")
        found = await service.archive.clip("front", span.from_ns, span.to_ns)
        assert found.end_ns - found.begin_ns == pytest.approx(span.to_ns - span.from_ns, abs=0.1e9)
        stored = camera(service, "front").stored
        assert stored is not None and (stored.files, stored.oldest_ns) == (1, span.from_ns)
        with pytest.raises(KeyError):
            await service.set_recording("nobody", True)


@pytest.mark.timeout(120)
async def test_an_event_is_recorded_from_before_it_until_after_it(
    rtsp: RtspServer, clip: Path, tmp_path: Path
) -> None:
    url = await mounted(rtsp, "/a", clip)
    record = {"on": "event", "before": "1s", "after": 2}
    cameras = {"front": {"url": url, "record": record}, "b": {"url": url}}
    async with Service(config(cameras, tmp_path)) as service:
        await until(lambda: recording(service, "front").state is RecordingState.ARMED)
        before = camera(service, "front").camera.packets
        await until(lambda: camera(service, "front").camera.packets > before + 50)  # 2 s of them
        assert not (tmp_path / "front").exists()
        told_ns = time.time_ns()
        service.record_event("front")
        await until(lambda: recording(service, "front").files == 1)
        await until(lambda: recording(service, "front").state is RecordingState.ARMED)
        await until(lambda: recording(service, "front").path is None)
        await service.archive.settled()
        (span,) = (await service.archive.timeline("front", 0, 1 << 62)).spans
        assert told_ns - span.from_ns > 0.9e9 and span.to_ns - told_ns > 0.9e9
        with pytest.raises(va.ValkkaError, match="on: event"):
            service.record_event("b")
        with pytest.raises(KeyError):
            service.record_event("nobody")


def _frames(path: str) -> int:
    with av.open(path) as film:
        return sum(1 for _ in film.decode(video=0))


async def test_what_cannot_be_recorded_is_refused(rtsp: RtspServer, tmp_path: Path) -> None:
    stills = await asyncio.to_thread(encode, tmp_path / "clip.mjpeg", (320, 192), 20, codec="mjpeg")
    url = await mounted(rtsp, "/j", stills, codec="mjpeg")
    cameras = {
        "raw": {"url": "lavfi:testsrc=size=64x48:rate=10"},
        "dark": {"url": url, "live": False},
        "always": {"url": url, "record": True},
    }
    async with Service(config(cameras, tmp_path)) as service:
        await until(lambda: states(service)["raw"] == "live")
        with pytest.raises(va.ValkkaError, match="raw video"):
            await service.set_recording("raw", True)
        with pytest.raises(va.ValkkaError, match="live"):
            await service.set_recording("dark", True)
        with pytest.raises(va.ValkkaError, match="always"):
            await service.set_recording("always", False)


async def test_what_is_always_recorded_goes_on_after_a_crash(
    rtsp: RtspServer, clip: Path, tmp_path: Path
) -> None:
    url = await mounted(rtsp, "/a", clip)
    cameras = {"front": {"url": url, "record": True}}
    async with Service(config(cameras, tmp_path)) as service:
        await until(lambda: recording(service, "front").duration > 0.3)
        pid = camera(service, "front").worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: len(list((tmp_path / "front").glob("*.mp4"))) == 2)
        await until(lambda: recording(service, "front").duration > 0.3)
        assert camera(service, "front").worker.restarts == 1
        await service.apply(config({"front": {"url": url}}, tmp_path))
        assert camera(service, "front").recording is None
    for path in (tmp_path / "front").glob("*.mp4"):
        assert await asyncio.to_thread(_frames, str(path)) > 0


async def test_a_recording_has_failed_until_it_is_written_again(
    rtsp: RtspServer,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(recordings, "_AGAIN", (0.05, 0.1))
    caplog.set_level("DEBUG", "valkka_async.service")
    url = await mounted(rtsp, "/a", clip)
    (tmp_path / "front").write_text("a file where the folder should be")

    def said(level: int) -> int:
        return sum(
            getattr(r, "camera", "") == "front" and "recording" in r.message and r.levelno == level
            for r in caplog.records
        )

    async with Service(config({"front": {"url": url, "record": True}}, tmp_path)) as service:
        assert recording(service, "front").state is not RecordingState.WRITING
        await until(lambda: recording(service, "front").error)
        seen = []

        def attempts() -> bool:
            seen.append(recording(service, "front"))
            return said(logging.DEBUG) > 8

        await until(attempts)
        assert {(one.state, one.active, one.always) for one in seen} == {(RecordingState.FAILED, True, True)}
        assert {one.error.cause for one in seen if one.error} == {RecordingCause.DISK}
        text = seen[-1].error.text if seen[-1].error else ""
        assert text.count(str(tmp_path)) == 1 and "Errno" not in text
        assert said(logging.ERROR) == said(logging.INFO) == 1  # one outage, however many attempts
        (tmp_path / "front").unlink()
        await until(lambda: recording(service, "front").state is RecordingState.WRITING)
        assert recording(service, "front").error is None


async def test_a_disk_that_refuses_is_told_and_tried_again(
    rtsp: RtspServer, clip: Path, tmp_path: Path
) -> None:
    url = await mounted(rtsp, "/a", clip)
    (tmp_path / "front").write_text("a file where the folder should be")
    async with Service(config({"front": {"url": url}}, tmp_path)) as service:
        await service.set_recording("front", True)
        await until(lambda: recording(service, "front").state is RecordingState.FAILED)
        failed = recording(service, "front")
        assert failed.error is not None and failed.error.cause is RecordingCause.DISK and not failed.active
        (tmp_path / "front").unlink()
        await service.set_recording("front", True)
        await until(lambda: recording(service, "front").duration > 0.3)


def test_rings_of_the_page_are_those_of_the_config(tmp_path: Path) -> None:
    spec = config({"a": {"url": "rtsp://host/x", "outputs": [{"format": "gray8"}]}}, tmp_path).specs()["a"]
    assert spec.outputs[0] == Output("a", "gray8")
    assert [o.name for o in spec.outputs] == ["a", "a.fmp4", "a.jpeg"]
    recorded = config({"a": {"url": "rtsp://host/x", "live": False, "record": True}}, tmp_path).specs()["a"]
    assert [o.name for o in recorded.outputs] == ["a", "a.fmp4"]
