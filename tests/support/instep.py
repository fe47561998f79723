"""How far sound is from the picture, of flashes and clicks at each whole second (rtsp_sound.py)."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np

_LOUD = 0.1


def flashes_and_clicks(media: bytes | Path) -> tuple[list[float], list[float]]:
    """When there were flashes, and when clicks, decoded by PyAV, in seconds of the file."""
    flashes, clicks = [], []
    quiet = -1.0
    with av.open(io.BytesIO(media) if isinstance(media, bytes) else str(media), "r") as container:
        for packet in container.demux():
            for frame in packet.decode():
                assert frame.time is not None
                if isinstance(frame, av.VideoFrame):
                    if frame.to_ndarray(format="gray").mean() > 128:
                        flashes.append(frame.time)
                    continue
                assert isinstance(frame, av.AudioFrame)
                samples = frame.to_ndarray()
                if samples.dtype.kind == "i":
                    samples = samples / 32768
                for at in np.flatnonzero(np.abs(samples[0]) > _LOUD):
                    seconds = frame.time + float(at) / frame.sample_rate
                    if seconds > quiet:
                        clicks.append(seconds)
                    quiet = seconds + 0.3
    return flashes, clicks


def apart(media: bytes | Path) -> list[float]:
    """How much later than its flash each click is, of those that have one."""
    flashes, clicks = flashes_and_clicks(media)
    pairs = [(click, min(flashes, key=lambda flash: abs(flash - click))) for click in clicks if flashes]
    return [click - flash for click, flash in pairs if abs(click - flash) < 0.45]
