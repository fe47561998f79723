# SPDX-License-Identifier: MIT
"""A camera of two streams in a service: recorded from one, shown from the other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from web_tools import Stand, camera, looking, served

import valkka_async as va
from support.footage import encode
from support.rtsp import RtspServer
from support.until import until
from valkka_async.camera.spec import Output
from valkka_async.camera.status import CameraState, Cause, before_start
from valkka_async.service.config.config import Config
from valkka_async.service.service import Service
from valkka_async.service.status import CameraReport

LARGE, SMALL = (640, 384), (320, 192)
SPEC = va.CameraSpec(
    "front",
    outputs=[
        Output("front.fmp4", "fmp4"),
        Output("front.sub.fmp4", "fmp4", stream="sub"),
        Output("front.jpeg", "jpeg"),
    ],
    streams={"main": "rtsp://10.0.0.7/1", "sub": "rtsp://10.0.0.7/2"},
)

pytestmark = pytest.mark.one_loop


@pytest.fixture
def two(rtsp: RtspServer, tmp_path: Path) -> dict[str, str]:
    for name, size in (("main", LARGE), ("sub", SMALL)):
        rtsp.mount(f"/{name}", encode(tmp_path / f"{name}.h264", size, 50, gop=10))
    return {"main": rtsp.url("/main"), "sub": rtsp.url("/sub")}


def config(folder: Path, **keys: Any) -> Config:
    pattern = str(folder / "{name}/%H-%M-%S.mp4")
    return Config.model_validate({"web": False, "recordings": pattern, "cameras": {"front": keys}})


def front(service: Service) -> CameraReport:
    report = service.status().camera("front")
    assert report is not None
    return report


def states(service: Service) -> list[str]:
    return [stream.state for stream in front(service).camera.streams]


async def shown(service: Service) -> tuple[int, int]:
    """The size of what the page shows."""
    async with served(service) as client, looking(client) as browser:
        text = await browser.text()
        while text["type"] != "init":
            text = await browser.text()
        return text["width"], text["height"]


async def test_what_is_recorded_is_large_and_what_is_shown_is_small(
    two: dict[str, str], tmp_path: Path
) -> None:
    async with Service(config(tmp_path, streams=two, record={"seconds": None})) as service:
        await until(lambda: states(service) == ["live", "live"] and front(service).state == "live")
        report = front(service)
        assert (report.live, report.still) == ("front.sub.fmp4", "front.jpeg")
        assert await shown(service) == SMALL
        async with va.connect("front") as client:
            with await client.recv() as frame:
                assert frame.shape == (SMALL[1], SMALL[0], 3)
        await until(lambda: (r := front(service).recording) is not None and r.duration > 1)
        recording = front(service).recording
        assert recording is not None and recording.path is not None
    with av.open(recording.path) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == LARGE


async def test_on_demand_the_main_stream_is_connected_for_a_recording_and_no_longer(
    two: dict[str, str], rtsp: RtspServer, tmp_path: Path
) -> None:
    async with Service(config(tmp_path, streams=two, connect="on_demand")) as service:
        await until(lambda: states(service) == ["idle", "idle"])
        await service.set_recording("front", True)
        await until(lambda: states(service) == ["live", "idle"] and front(service).state == "live")
        assert rtsp.stats()["/sub"].clients == 0
        assert await shown(service) == SMALL  # connected by looking
        await service.set_recording("front", False)
        await until(lambda: states(service) == ["idle", "idle"])


async def test_a_reload_of_one_stream_does_not_interrupt_the_recording_of_the_other(
    two: dict[str, str], tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"streams": two, "record": {"seconds": None}, "live": False}
    async with Service(config(tmp_path, **keys)) as service:
        await until(lambda: (r := front(service).recording) is not None and r.duration > 0.5)
        before = front(service)
        changes = await service.apply(config(tmp_path, **keys | {"streams": two | {"sub": two["main"]}}))
        assert changes.changed == ("front",)
        await until(lambda: states(service) == ["live", "live"])
        await until(lambda: front(service).camera.streams[1].width == LARGE[0])
        # Without the small stream, and what is made of it.
        await service.apply(config(tmp_path, **keys | {"streams": {"main": two["main"]}, "outputs": []}))
        await until(lambda: states(service) == ["live"])
        after = front(service)
        main = after.camera.streams[0]
        assert main.attempts == 1 and after.camera.pid == before.camera.pid
        assert main.packets > before.camera.streams[0].packets
        recording = after.recording
        assert recording is not None and (recording.files, recording.dropped) == (1, 0)


def report(main: dict[str, Any], sub: dict[str, Any], **more: Any) -> CameraReport:
    """One whose two streams have these values."""
    status = before_start(SPEC, CameraState.LIVE, pid=4711)
    streams = tuple(replace(one, **values) for one, values in zip(status.streams, (main, sub), strict=True))
    return camera("front", live="front.sub.fmp4", **more, streams=streams, outputs=status.outputs)


def test_a_ring_is_as_its_stream_is() -> None:
    failed = {"state": CameraState.FAILED, "cause": Cause.AUTH, "reason": "no"}
    one = report({}, failed, state=CameraState.FAILED)
    assert one.feeding("front.fmp4").state == "live" and one.feeding("front.sub.fmp4").reason == "no"
    gone = replace(one, worker=replace(one.worker, pid=1), state=CameraState.WAITING)
    assert gone.feeding("front.fmp4").state == "waiting"  # the process that said so is gone


async def test_metrics_have_a_label_for_each_of_several_streams() -> None:
    stand = Stand()
    stand.cameras["front"] = report({"fps": 25.0, "packets": 7}, {"fps": 5.0, "packets": 3})
    stand.cameras["back"] = camera("back")
    stand.cameras["idle"] = replace(
        report({"state": CameraState.IDLE}, {"state": CameraState.FAILED}), name="idle"
    )
    async with served(stand) as client, client.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    for line in (
        'valkka_camera_fps{camera="front",stream="main"} 25.0',
        'valkka_camera_fps{camera="front",stream="sub"} 5.0',
        'valkka_camera_packets_total{camera="front",stream="sub"} 3.0',
        'valkka_camera_up{camera="front",stream="sub"} 1.0',
        'valkka_camera_up{camera="back"} 1.0',
        'valkka_camera_up{camera="idle",stream="sub"} 0.0',
    ):
        assert line in lines
    assert not any('camera="idle",stream="main"' in line and "_up" in line for line in lines)
    assert not any(line.startswith('valkka_camera_fps{camera="front"}') for line in lines)


async def test_the_api_has_both() -> None:
    stand = Stand({"front": report({"codec": "hevc"}, {"codec": "h264"})})
    async with served(stand) as client, client.get("/api/status") as answer:
        told = json.loads(await answer.text())
    streams = told["cameras"][0]["camera"]["streams"]
    assert [(s["name"], s["codec"]) for s in streams] == [("main", "hevc"), ("sub", "h264")]
