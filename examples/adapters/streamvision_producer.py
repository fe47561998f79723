# SPDX-License-Identifier: MIT
"""A ring as a VideoFrameProducer of Roboflow's inference (its package streamvision).

Its own producer opens the camera in the model's process, which then decodes all of them. Here each camera is
decoded once, elsewhere, for any number of pipelines, and the newest frame is taken.

    .venv/bin/pip install inference
    .venv/bin/python examples/adapters/streamvision_producer.py MODEL_ID cam1 cam2
"""

import functools
import sys
from typing import Any

from bgr import to_bgr
from streamvision.camera.entities import SourceProperties, VideoFrameProducer

import valkka_async as va


class Producer(VideoFrameProducer):
    """Without a frame for so many seconds the source counts as lost."""

    def __init__(self, name: str, timeout: float = 10.0) -> None:
        self._reader = va.attach(name, open_timeout=timeout, reconnect=True)
        self._timeout = timeout
        self._frame: va.Frame | None = None

    def isOpened(self) -> bool:
        return not self._reader.closed

    def grab(self) -> bool:
        if self._frame is not None:
            self._frame.release()
        try:
            self._frame = self._reader.recv(self._timeout)
        except (TimeoutError, va.ConnectionClosed):
            self._frame = None
        return self._frame is not None

    def retrieve(self) -> tuple[bool, Any]:
        image = None if self._frame is None else to_bgr(self._frame)
        return image is not None, image

    def discover_source_properties(self) -> SourceProperties:
        if self._frame is None:
            self.grab()
        height, width = image.shape[:2] if (image := self.retrieve()[1]) is not None else (0, 0)
        return SourceProperties(width=width, height=height, total_frames=-1, is_file=False, fps=30)

    def release(self) -> None:
        if self._frame is not None:
            self._frame.release()
        self._reader.close()


if __name__ == "__main__":
    from inference import InferencePipeline
    from inference.core.interfaces.stream.sinks import render_boxes

    cameras = [functools.partial(Producer, name) for name in sys.argv[2:]]
    InferencePipeline.init(model_id=sys.argv[1], video_reference=cameras, on_prediction=render_boxes).start()
