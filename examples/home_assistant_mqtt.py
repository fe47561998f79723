# SPDX-License-Identifier: MIT
"""The cameras of a service in Home Assistant, over MQTT: each is a device, "connected" or not.

Home Assistant finds them by itself (home-assistant.io/integrations/mqtt, "MQTT Discovery"), whenever it is
started: what it needs is retained. All events go to valkka/CAMERA/event as JSON, for automations.

    .venv/bin/pip install aiomqtt
    .venv/bin/valkka-async run cameras.yaml &
    .venv/bin/python examples/home_assistant_mqtt.py [HOST [PORT]]  # and MQTT_USER, MQTT_PASSWORD
"""

import asyncio
import contextlib
import json
import os
import sys
import time

import aiomqtt

import valkka_async as va
from valkka_async.service.control import ask_status, services

HERE = "valkka/online"  # the broker says "offline" when this program ends
LOOK = 30.0  # s: a service that is killed tells nothing


async def tell(client: aiomqtt.Client, camera: str, state: str) -> None:
    node = "".join(c if c.isalnum() else f"_{ord(c):x}_" for c in camera)  # no two cameras have the same
    config = {
        "name": "Connected",
        "unique_id": f"valkka_{node}_connected",
        "device_class": "connectivity",
        "state_topic": f"valkka/{camera}/connected",
        "availability_topic": HERE,
        "device": {"identifiers": [f"valkka_{node}"], "name": camera, "manufacturer": "valkka-async"},
    }
    is_there = state != "removed"  # an empty message takes away the one that is retained
    topic = f"homeassistant/binary_sensor/valkka_{node}/connected/config"
    await client.publish(topic, json.dumps(config) if is_there else "", qos=1, retain=True)
    connected = ("ON" if state == "live" else "OFF") if is_there else ""
    await client.publish(config["state_topic"], connected, qos=1, retain=True)


async def look(client: aiomqtt.Client, known: set[str]) -> None:
    """Tell how all cameras are now. `known`: those of which there was news."""
    gone = set(known)
    for name in services():
        with contextlib.suppress(TimeoutError, va.ValkkaError):  # it does not answer now
            if (status := await asyncio.to_thread(ask_status, name, 5.0)) is not None:
                for camera in status.cameras:
                    await tell(client, camera.name, camera.state)
                    known.add(camera.name)
                    gone.discard(camera.name)
    for camera in gone:  # its service has ended
        await tell(client, camera, "stopped")
        known.discard(camera)


async def follow(client: aiomqtt.Client, happening: va.Events) -> None:
    known: set[str] = set()
    due = time.monotonic()
    while True:
        if time.monotonic() >= due:
            await look(client, known)
            due = time.monotonic() + LOOK
        try:
            async with asyncio.timeout(due - time.monotonic()):
                event = await happening.recv()
        except TimeoutError:
            continue
        if event.code.startswith("camera."):
            await tell(client, event.camera, event.code.removeprefix("camera."))
            (known.discard if event.code == va.EventCode.CAMERA_REMOVED else known.add)(event.camera)
        await client.publish(f"valkka/{event.camera}/event", json.dumps(event.to_json()), qos=1)
        if event.missed or event.code == va.EventCode.SERVICE_STOPPING:
            due = min(due, time.monotonic() + 3)


async def main(host: str = "127.0.0.1", port: str = "1883") -> None:
    login = {"username": os.environ.get("MQTT_USER"), "password": os.environ.get("MQTT_PASSWORD")}
    will = aiomqtt.Will(HERE, "offline", qos=1, retain=True)
    while True:
        with contextlib.suppress(aiomqtt.MqttError):
            async with (
                aiomqtt.Client(host, int(port), will=will, **login) as client,
                va.events() as happening,
            ):
                await client.publish(HERE, "online", qos=1, retain=True)
                print("connected", flush=True)
                await follow(client, happening)
        await asyncio.sleep(3)  # the broker is away


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
