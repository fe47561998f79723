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

import aiomqtt

import valkka_async as va
from valkka_async.service.control import ask_status, services

HERE = "valkka/online"  # the broker says "offline" when this program ends


async def tell(client: aiomqtt.Client, camera: str, state: str) -> None:
    node = camera.replace(".", "_").replace("/", "_")
    config = {
        "name": "Connected",
        "unique_id": f"valkka_{node}_connected",
        "device_class": "connectivity",
        "state_topic": f"valkka/{camera}/connected",
        "availability_topic": HERE,
        "device": {"identifiers": [f"valkka_{node}"], "name": camera, "manufacturer": "valkka-async"},
    }
    topic = f"homeassistant/binary_sensor/valkka_{node}/connected/config"
    await client.publish(topic, json.dumps(config) if state != "removed" else "", qos=1, retain=True)
    await client.publish(config["state_topic"], "ON" if state == "live" else "OFF", qos=1, retain=True)


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
                for name in services():  # how they are now; what changes comes after
                    if (status := await asyncio.to_thread(ask_status, name, 5.0)) is not None:
                        for camera in status.cameras:
                            await tell(client, camera.name, camera.state)
                print("connected", flush=True)
                async for event in happening:
                    if event.code.startswith("camera."):
                        await tell(client, event.camera, event.code.removeprefix("camera."))
                    await client.publish(f"valkka/{event.camera}/event", json.dumps(event.to_json()), qos=1)
        await asyncio.sleep(3)  # the broker is away


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
