# SPDX-License-Identifier: MIT
"""HOST/CAMERA/fmp4: what a host sends, as fragmented MP4, for recorders. For the importing worker alone."""

from __future__ import annotations

import io
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av

from valkka_async.camera.mp4.fragments import TIME_BASE, Muxer
from valkka_async.camera.mp4.timeline import Timeline
from valkka_async.errors import CameraFormatError
from valkka_async.link.faults import Fault
from valkka_async.link.ondemand import LINGER, OnDemand, received
from valkka_async.link.packets import context, is_after_loss, packet
from valkka_async.ring.frame import Frame
from valkka_async.ring.reader import Reader
from valkka_async.ring.server import Server


class Muxed(OnDemand):
    """Muxes while somebody reads. Nothing is decoded."""

    fault = Fault.MUX

    def __init__(self, camera: str, server: Server) -> None:
        self.dropped = 0
        self._timeline = Timeline()
        super().__init__(server, f"{camera}/packets")

    def work(self, reader: Reader) -> None:
        muxer: Muxer | None = None
        made_of: tuple[str, bytes] | None = None
        while self.going:
            frame = received(reader, LINGER)
            if frame is None:
                continue
            with frame:
                if frame.key and (
                    made_of != (frame.format, reader.header)
                    or is_after_loss(frame)
                    or (muxer is not None and not muxer.fits(packet(frame)))
                ):
                    made_of = frame.format, reader.header
                    muxer = Muxer(_stream(frame, reader.header), self._timeline)
                if muxer is None:
                    continue
                for fragment in muxer.mux(packet(frame), frame.timestamp_ns):
                    self.server.set_header(muxer.init_segment)
                    published = self.server.publish(fragment.data, **fragment.about(), meta=frame.meta)
                    if not published:
                        self.dropped += 1
                        self.fail(Fault.SLOTS)
                        muxer = made_of = None  # from the next key frame on
                        break


def _stream(frame: Frame, header: bytes) -> Any:
    """What a Muxer is to know of the stream: there is no container that could say it. Raises
    CameraFormatError."""
    if frame.format == "jpeg":
        try:
            return av.open(io.BytesIO(bytes(frame.data)), format="mjpeg").streams.video[0]
        except (av.error.FFmpegError, IndexError):
            raise CameraFormatError("what should be a JPEG is none") from None
    base: Fraction = frame.time_base or TIME_BASE
    coding = context(frame.format, header)
    return SimpleNamespace(codec_context=coding, time_base=base, average_rate=None, guessed_rate=None)
