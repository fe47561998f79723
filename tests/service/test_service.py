# SPDX-License-Identifier: MIT
"""A service with real cameras: what it tells, records and changes. Coroutines run on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import av
import pytest

import valkka_async as va
from support.footage import encode
from support.rtsp import RtspServer
from support.until import until
from valkka_async.camera.spec import Output
from valkka_async.ring.rendezvous import servers
from valkka_async.service.config.config import Config
from valkka_async.service.service import Service

SECONDS = 30.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("service") / "clip.h264", (320, 192), 50, gop=10)


def config(cameras: dict[str, Any], folder: Path, **keys: Any) -> Config:
    recordings = str(folder / "{name}/%H-%M-%S.mp4")
    return Config.model_validate({"web": False, "recordings": recordings, "cameras": cameras} | keys)


def camera(service: Service, name: str) -> dict[str, Any]:
    return next((c for c in service.status()["cameras"] if c["name"] == name), {})


def states(service: Service) -> dict[str, str]:
    return {c["name"]: c["state"] for c in service.status()["cameras"]}


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


async def eventually(condition: Callable[[], object]) -> None:
    await until(condition, SECONDS)


@pytest.mark.timeout(120)
async def test_status_tells_what_cameras_do(rtsp: RtspServer, clip: Path, tmp_path: Path) -> None:
    url = await mounted(rtsp, "/a", clip)
    cameras = {
        "front": {"url": url, "title": "<Front>"},
        "gone": {"url": "rtsp://me:secretpw@127.0.0.1:9/x", "live": False},
    }
    async with Service(config(cameras, tmp_path)) as service:
        assert list(states(service)) == ["front", "gone"]  # at once, in the order of the file
        await eventually(lambda: states(service) == {"front": "live", "gone": "waiting"} and service.ready)
        front, gone = service.status()["cameras"]
        assert (front["title"], front["live"], front["still"]) == ("<Front>", "front.fmp4", "front.jpeg")
        assert (gone["live"], gone["still"], gone["age"]) == (None, None, None)
        assert gone["reason"] and gone["attempts"] >= 1
        assert "secretpw" not in str(service.status())
        assert front["decoded"] == 0  # nobody looks
        async with reading("front"):
            await eventually(lambda: _fps(service, "front", "front") > 5)
        assert _fps(service, "front", "front.jpeg") == 0
        front = camera(service, "front")
        assert front["age"] < 10 and 0 < front["cpu"] < 2
        assert front["worker"]["pid"] != os.getpid() and front["worker"]["rss"] > 1e6


def _fps(service: Service, name: str, ring: str) -> float:
    return next((float(o["fps"]) for o in camera(service, name)["outputs"] if o["name"] == ring), 0.0)


@pytest.mark.timeout(120)
async def test_another_config_touches_only_what_differs(rtsp: RtspServer, clip: Path, tmp_path: Path) -> None:
    url = await mounted(rtsp, "/a", clip)
    cameras: dict[str, Any] = {"one": {"url": url}, "two": {"url": url}, "three": {"url": url}}
    async with Service(config(cameras, tmp_path)) as service:
        await eventually(lambda: set(states(service).values()) == {"live"})
        before = {name: camera(service, name) for name in cameras}
        assert not await service.apply(config(cameras, tmp_path))

        other = {"one": cameras["one"], "two": {"url": url, "outputs": [{"name": "two.small", "fps": 5}]}}
        changes = await service.apply(config(other | {"four": {"url": url}}, tmp_path))
        assert (changes.added, changes.changed, changes.removed) == (("four",), ("two",), ("three",))
        assert str(changes) == "added four; changed two; removed three"
        assert servers() == [
            "four", "four.fmp4", "four.jpeg", "one", "one.fmp4", "one.jpeg", "two.fmp4", "two.jpeg",
            "two.small",
        ]  # fmt: skip
        await eventually(lambda: list(states(service).values()) == ["live"] * 3)
        after = camera(service, "one")
        assert after["worker"]["pid"] == before["one"]["worker"]["pid"] and after["attempts"] == 1
        assert after["packets"] >= before["one"]["packets"]
        assert camera(service, "two")["worker"]["pid"] == before["two"]["worker"]["pid"]

        changes = await service.apply(config(other, tmp_path, name="other", workers={"group_size": 2}))
        assert set(changes.restart) == {"name", "workers"} and "restart" in str(changes)


@pytest.mark.timeout(120)
async def test_two_cameras_exchange_a_ring(rtsp: RtspServer, clip: Path, tmp_path: Path) -> None:
    url = await mounted(rtsp, "/a", clip)

    def cameras(first: str, second: str) -> Config:
        rings = {"one": first, "two": second}
        return config(
            {n: {"url": url, "live": False, "outputs": [{"name": r}]} for n, r in rings.items()}, tmp_path
        )

    async with Service(cameras("x", "y")) as service:
        await eventually(lambda: states(service) == {"one": "live", "two": "live"})
        await service.apply(cameras("y", "x"))
        await eventually(lambda: states(service) == {"one": "live", "two": "live"})
        assert [o["name"] for c in service.status()["cameras"] for o in c["outputs"]] == ["y", "x"]


@pytest.mark.timeout(120)
async def test_a_recording_on_demand_plays(rtsp: RtspServer, clip: Path, tmp_path: Path) -> None:
    url = await mounted(rtsp, "/a", clip)
    async with Service(config({"front": {"url": url}}, tmp_path)) as service:
        assert camera(service, "front")["recording"] is None
        assert await service.set_recording("front", True) is not None
        await service.set_recording("front", True)  # which is no second one
        await eventually(lambda: camera(service, "front")["recording"]["duration"] > 0.5)
        path = camera(service, "front")["recording"]["path"]
        assert path.startswith(str(tmp_path / "front"))
        assert await service.set_recording("front", False) is None
        assert camera(service, "front")["recording"] is None
        assert await asyncio.to_thread(_frames, path) >= 10
        with pytest.raises(KeyError):
            await service.set_recording("nobody", True)


def _frames(path: str) -> int:
    with av.open(path) as film:
        return sum(1 for _ in film.decode(video=0))


@pytest.mark.timeout(120)
async def test_what_cannot_be_recorded_is_refused(rtsp: RtspServer, tmp_path: Path) -> None:
    stills = await asyncio.to_thread(encode, tmp_path / "clip.mjpeg", (320, 192), 20, codec="mjpeg")
    url = await mounted(rtsp, "/j", stills, codec="mjpeg")
    cameras = {
        "stills": {"url": url},
        "dark": {"url": url, "live": False},
        "always": {"url": url, "record": True},
    }
    async with Service(config(cameras, tmp_path)) as service:
        await eventually(lambda: states(service)["stills"] == "live")
        with pytest.raises(va.ValkkaError, match="mjpeg"):
            await service.set_recording("stills", True)
        with pytest.raises(va.ValkkaError, match="live"):
            await service.set_recording("dark", True)
        with pytest.raises(va.ValkkaError, match="always"):
            await service.set_recording("always", False)


@pytest.mark.timeout(120)
async def test_what_is_always_recorded_goes_on_after_a_crash(
    rtsp: RtspServer, clip: Path, tmp_path: Path
) -> None:
    url = await mounted(rtsp, "/a", clip)
    cameras = {"front": {"url": url, "record": True}}
    async with Service(config(cameras, tmp_path)) as service:
        await eventually(lambda: (camera(service, "front").get("recording") or {}).get("duration", 0) > 0.3)
        os.kill(camera(service, "front")["worker"]["pid"], signal.SIGKILL)
        await eventually(lambda: len(list((tmp_path / "front").glob("*.mp4"))) == 2)
        await eventually(lambda: camera(service, "front")["recording"]["duration"] > 0.3)
        assert camera(service, "front")["worker"]["restarts"] == 1
        await service.apply(config({"front": {"url": url}}, tmp_path))
        assert camera(service, "front")["recording"] is None
    for path in (tmp_path / "front").glob("*.mp4"):
        assert await asyncio.to_thread(_frames, str(path)) > 0


@pytest.mark.timeout(120)
async def test_a_disk_that_refuses_is_told_and_tried_again(
    rtsp: RtspServer, clip: Path, tmp_path: Path
) -> None:
    url = await mounted(rtsp, "/a", clip)
    (tmp_path / "front").write_text("a file where the folder should be")
    async with Service(config({"front": {"url": url}}, tmp_path)) as service:
        await service.set_recording("front", True)
        await eventually(lambda: camera(service, "front")["recording"]["error"])
        assert not camera(service, "front")["recording"]["active"]
        (tmp_path / "front").unlink()
        await service.set_recording("front", True)
        await eventually(lambda: camera(service, "front")["recording"]["duration"] > 0.3)


def test_rings_of_the_page_are_those_of_the_config(tmp_path: Path) -> None:
    spec = config({"a": {"url": "rtsp://host/x", "outputs": [{"format": "gray8"}]}}, tmp_path).specs()["a"]
    assert spec.outputs[0] == Output("a", "gray8")
    assert [o.name for o in spec.outputs] == ["a", "a.fmp4", "a.jpeg"]
    recorded = config({"a": {"url": "rtsp://host/x", "live": False, "record": True}}, tmp_path).specs()["a"]
    assert [o.name for o in recorded.outputs] == ["a", "a.fmp4"]
