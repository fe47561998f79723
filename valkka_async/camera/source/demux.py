# SPDX-License-Identifier: MIT
"""The packets of a container: of which streams, and those that FFmpeg had collected before."""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from valkka_async.camera.source.packet import AnyPacket, VideoPacket
from valkka_async.camera.source.rational import fraction

_LOOKS = 1.0  # s between looks for streams that were not there at the beginning
_MOST_STREAMS = 8  # of a container that is looked at


class Demux:
    """A container's packets of the picture, and of sound if there is any. `looks`: whether there are more
    streams than at the beginning is looked at."""

    def __init__(
        self,
        container: InputContainer,
        picture: VideoStream,
        sound: AudioStream | None,
        *,
        looks: bool = False,
    ) -> None:
        self.more = False  # streams than at the beginning, of which PyAV hands out nothing
        self._container = container
        self._streams: list[Any] = [picture] if sound is None else [picture, sound]
        self._packets: Any = container.demux(*self._streams)
        self._look_at = time.monotonic() if looks and len(container.streams) < _MOST_STREAMS else None

    def next(self) -> AnyPacket | None:
        """The next one, or None at the end."""
        try:
            if self._look_at is not None and time.monotonic() > self._look_at:
                return self._look()
            return next(self._packets, None)
        except IndexError:  # PyAV's, at the very end, of a stream that was not there at the beginning
            return None

    def _look(self) -> AnyPacket | None:
        """The same. PyAV does not say how many streams there are by now, but refuses one that is not."""
        self._look_at = time.monotonic() + _LOOKS
        packets: Any = self._container.demux(*self._streams, _stranger(len(self._container.streams)))
        try:
            packet = next(packets, None)
        except ValueError as e:
            if isinstance(e, av.error.FFmpegError):
                raise
            return next(self._packets, None)
        self._packets.close()
        self._packets, self._look_at, self.more = packets, None, True
        return packet

    def next_in_time(self, goes_on: Callable[[], bool]) -> AnyPacket | None:
        """The same, where FFmpeg comes back again and again without one. None when not to go on."""
        while goes_on():
            try:
                return self.next()
            except av.error.ExitError:
                self._packets = self._container.demux(*self._streams)
        return None

    def close(self) -> None:
        """Before the container is closed: the generator looks at it once more when it is collected."""
        self._packets.close()


@functools.cache
def _strangers() -> Any:
    other = av.open(io.BytesIO(), "w", format="matroska")
    for _ in range(_MOST_STREAMS):
        other.add_stream("pcm_s16le", rate=8000)
    return other


def _stranger(index: int) -> Any:
    """A stream of this index, of another container."""
    return _strangers().streams[index]


def decodable(container: InputContainer) -> VideoStream | None:
    """The video stream that FFmpeg thinks best; cover art only if there is nothing else."""
    best = container.streams.best("video")
    streams = [best] if isinstance(best, VideoStream) else []
    streams += [stream for stream in container.streams.video if stream is not best]
    # Where there is no decoder, PyAV has no codec context, whatever its annotations say.
    context: Any
    some = None
    for stream in streams:
        context = stream.codec_context
        if context is not None and not stream.disposition & Disposition.attached_pic:
            return stream
        if context is not None:
            some = some or stream
    return some


def spread(backlog: list[tuple[VideoPacket, int]], early: bool) -> Iterator[tuple[VideoPacket, int]]:
    """Packets that FFmpeg had collected before it handed out the first: the last one has just arrived,
    the others came before it by as much as their timestamps say. `early`: as in packets()."""
    if not backlog:
        return
    newest, now = backlog[-1]
    base = fraction(newest.time_base)
    times = []
    for packet, _ in backlog:
        age = 0.0
        if packet.dts is not None and newest.dts is not None and base is not None:
            age = max(0.0, float((newest.dts - packet.dts) * base))
        times.append(now - int(age * 1e9))
    if early:
        times = [2 * times[0] - times[min(1, len(times) - 1)], *times[:-1]]
    for (packet, _), arrival in zip(backlog, times, strict=True):
        yield packet, arrival
