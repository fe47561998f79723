# SPDX-License-Identifier: MIT
"""Which of a camera's streams other hosts have."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

import valkka_async as va
from support.until import until, wait_for
from valkka_async.link.budget import Budget
from valkka_async.link.exporter import Catalogue
from valkka_async.link.sender import Sender
from valkka_async.link.status import Level
from valkka_async.link.unit import decode


@pytest.mark.parametrize("rings", [{"a": "sub", "b": "main"}, {"a": "main", "b": "sub"}, {"a": "sub"}])
async def test_it_is_the_main_one_if_its_packets_are_there(rings: dict[str, str]) -> None:
    pictures = "lavfi:testsrc=size=64x48:rate=5"
    outputs = [va.Output(name, "packets", stream=stream) for name, stream in rings.items()]
    outputs.append(va.Output("pixels", stream="main"))
    catalogue = Catalogue(lambda: None)
    following = asyncio.create_task(catalogue.follow())
    main = next((name for name, stream in rings.items() if stream == "main"), None)
    sub = next(name for name, stream in rings.items() if stream == "sub")
    smaller = {"cam": sub} if main else {}
    async with va.Camera("cam", streams=dict.fromkeys(["main", "sub"], pictures), outputs=outputs):
        await until(lambda: catalogue.rings == {"cam": main or sub, "cam.sub": sub})
        assert catalogue.smaller == smaller and catalogue.raw == {"pixels"}
    following.cancel()


def test_a_sender_goes_to_the_smaller_stream_and_back() -> None:
    """As a restart, with a number of its own: the reading host misses nothing."""
    budget, units = Budget(None), list[tuple[int, bytes]]()

    def put(payload: bytes) -> None:
        unit, _, data = decode(payload)
        units.append((unit.stream, bytes(data)))

    sender = Sender("attic", budget, itertools.count(1).__next__)
    with va.serve("main") as main, va.serve("sub") as sub:

        def publish() -> None:
            for server in (main, sub):
                server.publish(server.name.encode(), format="h264")
            time.sleep(0.01)

        def sends(data: bytes) -> int:
            wait_for(lambda: publish() or units[-1:] and units[-1][1] == data)  # type: ignore[func-returns-value]
            return units[-1][0]

        publish()
        try:
            sender.add("main", put, "sub")
            numbers = [sends(b"main")]
            for level in (Level.SMALLER, Level.KEYS):
                budget.level = level
                numbers.append(sends(b"sub" if level is Level.SMALLER else b"main"))
            assert numbers == [1, 2, 3]
        finally:
            sender.stop()
            assert sender.join(30)
