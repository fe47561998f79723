# SPDX-License-Identifier: MIT
"""Cameras of other hosts on the page: which there are, and a snapshot of one when it is asked for. Nothing
of theirs is read between."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from valkka_async import typed
from valkka_async.errors import CameraFormatError, ValkkaError
from valkka_async.ring.client import connect
from valkka_async.ring.formats import FrameFormat
from valkka_async.ring.names import is_source
from valkka_async.ring.rendezvous import servers
from valkka_async.service.web.problems import Code, problem
from valkka_async.timeouts import timeout

_SECONDS = 8.0  # for a frame to come from there
_OLD = 2.0  # s of age, above which a frame gives way to the next one
_AT_ONCE = 8
_QUALITY = 80
_FFMPEG = {"gray8": "gray"}  # our name of a format: FFmpeg's, where they differ


@dataclass(frozen=True, slots=True)
class Hosts:
    """Their cameras, as HOST/CAMERA."""

    cameras: tuple[str, ...]


class Others:
    """Handlers of /api/hosts."""

    def __init__(self) -> None:
        self._waiting = 0

    async def list(self, request: web.Request) -> web.Response:
        """GET /api/hosts: {"cameras": ["garage/cam1", ...]}"""
        return web.json_response(typed.encode(Hosts(tuple(await asyncio.to_thread(_cameras)))))

    async def snapshot(self, request: web.Request) -> web.Response:
        """GET /api/hosts/HOST/CAMERA/snapshot.jpg: a frame of this moment."""
        name = f"{request.match_info['host']}/{request.match_info['camera']}"
        if not is_source(name) or name not in await asyncio.to_thread(_cameras):
            return problem(Code.CAMERA, f"there is no camera {name}")
        if self._waiting >= _AT_ONCE:
            return problem(Code.BUSY, "too many requests wait for a snapshot; try again", Retry_After="1")
        self._waiting += 1
        try:
            async with timeout(_SECONDS):
                jpeg = await _newest(name)
        except TimeoutError:
            return problem(Code.FRAME, f"no frame of {name} within {_SECONDS:g} s")
        except ValkkaError as e:
            return problem(Code.FRAME, f"{name}: {e}")
        finally:
            self._waiting -= 1
        return web.Response(body=jpeg, content_type="image/jpeg")


def _cameras() -> list[str]:
    """Those of which there are packets: other rings have results of models."""
    names = set(servers())
    return sorted(name for name in names if name.count("/") == 1 and f"{name}/packets" in names)


async def _newest(name: str) -> bytes:
    async with connect(name, policy="latest", max_leases=1, open_timeout=_SECONDS) as client:
        while True:
            with await client.recv() as frame:
                if frame.age < _OLD:
                    return await asyncio.to_thread(_jpeg, np.array(frame.array), frame.format)


def _jpeg(pixels: NDArray[Any], format: FrameFormat) -> bytes:
    """Raises CameraFormatError."""
    # Not at the top: a service and a link have no use for PyAV before this.
    from av.video.frame import VideoFrame

    from valkka_async.camera.pixels.jpeg import JpegEncoder

    try:
        image = VideoFrame.from_ndarray(pixels, format=_FFMPEG.get(format, format))
    except ValueError:
        raise CameraFormatError(f"{format} cannot be shown") from None
    return JpegEncoder(_QUALITY).encode(image)
