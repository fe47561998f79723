# SPDX-License-Identifier: MIT
"""The cameras of a service in Home Assistant: what is told to a real broker."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiomqtt
import pytest

import valkka_async as va
from support.program import Example, Process
from support.require import missing
from support.stream import free_port
from support.until import SECONDS, wait_for
from valkka_async.service.config.config import Config
from valkka_async.service.control import Control
from valkka_async.service.service import Service
from valkka_async.service.status import ServiceStatus

CLIP = "lavfi:testsrc2=size=320x180:rate=10"
pytestmark = pytest.mark.one_loop


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """The port of a broker."""
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if mosquitto is None:
        missing("mosquitto is not installed (tests/system-packages)")
    port = free_port()
    settings = tmp_path / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {Path.home().owner()}\n")
    with Process([mosquitto, "-c", str(settings)]):
        wait_for(lambda: _answers(port))
        yield port


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


async def test_home_assistant_finds_the_cameras_and_what_happens_to_them(broker: int, tmp_path: Path) -> None:
    cameras = {"front": {"url": CLIP, "live": False}, "gone": {"url": "rtsp://127.0.0.1:9/x", "live": False}}
    service = Service(Config.model_validate({"web": False, "cameras": cameras}))

    async def status() -> ServiceStatus:
        return service.status()

    async with asyncio.timeout(SECONDS), AsyncExitStack() as running:
        await running.enter_async_context(service)
        await running.enter_async_context(Control("service", {"status": status}))
        with Example("home_assistant_mqtt.py", "127.0.0.1", broker, folder=tmp_path) as example:
            await asyncio.to_thread(example.match, "^connected$")
            async with aiomqtt.Client("127.0.0.1", broker) as client:
                await client.subscribe("#")
                seen: dict[str, str] = {}

                async def until_there(**there: str) -> None:
                    """Those that are retained come first."""
                    wanted = {f"valkka/{topic.replace('_', '/')}": text for topic, text in there.items()}
                    while not wanted.items() <= seen.items():
                        message = await anext(client.messages)
                        seen[str(message.topic)] = bytes(message.payload).decode()

                await until_there(online="online", front_connected="ON", gone_connected="OFF")
                sensor = json.loads(seen["homeassistant/binary_sensor/valkka_front/connected/config"])
                assert (
                    sensor["state_topic"] == "valkka/front/connected" and sensor["device"]["name"] == "front"
                )
                with va.serve("people") as analyser:
                    analyser.emit("person", camera="front", score=0.9)
                    while "person" not in seen.get("valkka/front/event", ""):
                        message = await anext(client.messages)
                        seen[str(message.topic)] = bytes(message.payload).decode()
                assert json.loads(seen["valkka/front/event"])["fields"] == {"score": 0.9}
                left = {"web": False, "cameras": {"front": cameras["front"]}}
                await service.apply(Config.model_validate(left))
                await until_there(gone_connected="")  # nothing of it is retained
                assert seen["homeassistant/binary_sensor/valkka_gone/connected/config"] == ""
                await running.aclose()
                await until_there(front_connected="OFF")  # though no camera said so
                example.kill()
                await until_there(online="offline")  # the broker says so
