# SPDX-License-Identifier: MIT
"""Pictures of recordings: the key frame at a clip's beginning, small, as a JPEG.

A page that looks through a day asks for many, and again for those that it had: the last ones are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import TypeAlias

from valkka_async.errors import CameraFormatError
from valkka_async.record.clip import Clip

_AT_ONCE = 2  # that are decoded: they are no more than help to find something
_WAITING = 32
_KEPT_BYTES = 8 << 20
_QUALITY = 70
_Key: TypeAlias = "tuple[str, int, int]"  # camera, Unix ns, width


class TooMany(Exception):
    """Wait, and ask again."""


class Stills:
    """Belongs to an event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._bytes = 0
        self._making: dict[_Key, asyncio.Task[bytes]] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def jpeg(self, camera: str, clip: Clip, width: int) -> bytes:
        """The first frame of a clip, `width` pixels wide or narrower. Requests at the same time share it.

        Raises TooMany; CameraFormatError for what cannot be decoded; ClipError and OSError as Clip.read().
        May be cancelled: what was begun is made for the next who asks.
        """
        key = camera, clip.begin_ns, width
        if (known := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return known
        task = self._making.get(key)
        if task is None:
            if len(self._making) >= _WAITING:
                raise TooMany
            task = self._making[key] = asyncio.create_task(self._make(key, clip), name="still")
            task.add_done_callback(lambda task: self._made(key, task))
        return await asyncio.shield(task)

    async def _make(self, key: _Key, clip: Clip) -> bytes:
        async with self._turns:
            return await asyncio.to_thread(_first, clip, key[2])

    def _made(self, key: _Key, task: asyncio.Task[bytes]) -> None:
        del self._making[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._kept[key] = task.result()
        self._bytes += len(task.result())
        while self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1])


class _File:
    """Blocks of a clip, for FFmpeg to read. Not to be sought in: it would read all of it for the index."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        if not self._left:
            self._left = memoryview(next(self._blocks, b""))
        part, self._left = self._left[:size], self._left[size:]
        return bytes(part)


def _first(clip: Clip, width: int) -> bytes:
    # Not at the top: a service without a page that looks at recordings has no use for PyAV.
    import av
    from av.video.codeccontext import VideoCodecContext

    from valkka_async.camera.pixels.jpeg import JpegEncoder

    with contextlib.closing(clip.read()) as blocks:
        try:
            with av.open(_File(blocks), "r", format="mp4") as film:
                stream = film.streams.video[0]
                aspect = float(stream.sample_aspect_ratio or 1)  # PyAV 19 knows it while the file is open
                packet = next(iter(film.demux(stream)))
                context = stream.codec_context
                assert isinstance(context, VideoCodecContext)
                context.thread_count = 1
                frame = next(iter([*context.decode(packet), *context.decode(None)]))
        except (av.error.FFmpegError, StopIteration, IndexError, ValueError) as e:
            reason = getattr(e, "strerror", None) or "no frame"
            raise CameraFormatError(f"the recording cannot be decoded ({reason})") from None
    wide = min(width, frame.width)
    high = max(2, round(frame.height * wide / (frame.width * aspect) / 2) * 2)
    return JpegEncoder(_QUALITY, (max(2, wide // 2 * 2), high)).encode(frame)
