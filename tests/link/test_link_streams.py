# SPDX-License-Identifier: MIT
"""Which of a camera's streams other hosts have."""

from __future__ import annotations

import asyncio

import pytest

import valkka_async as va
from support.until import until
from valkka_async.link.exporter import Catalogue


@pytest.mark.parametrize("rings", [{"a": "sub", "b": "main"}, {"a": "main", "b": "sub"}, {"a": "sub"}])
async def test_it_is_the_main_one_if_its_packets_are_there(rings: dict[str, str]) -> None:
    pictures = "lavfi:testsrc=size=64x48:rate=5"
    outputs = [va.Output(name, "packets", stream=stream) for name, stream in rings.items()]
    outputs.append(va.Output("pixels", stream="main"))
    catalogue = Catalogue(lambda: None)
    following = asyncio.create_task(catalogue.follow())
    wanted = next((name for name, stream in rings.items() if stream == "main"), "a")
    async with va.Camera("cam", streams=dict.fromkeys(["main", "sub"], pictures), outputs=outputs):
        await until(lambda: catalogue.rings == {"cam": wanted})
    following.cancel()
