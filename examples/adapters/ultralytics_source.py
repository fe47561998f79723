# SPDX-License-Identifier: MIT
"""Rings as the source of an Ultralytics model, in place of its LoadStreams, which decodes in the model's
process, waits for the slowest camera, and shows a black image when one is lost. Here a batch has the newest
frame of each camera that has a new one; cameras come and go. What is found is published under NAME.boxes.

    .venv/bin/pip install ultralytics
    .venv/bin/python examples/adapters/ultralytics_source.py yolo11n.pt "cam*"
"""

import asyncio
import contextlib
import functools
import sys
from types import SimpleNamespace
from typing import Any

from bgr import to_bgr
from ultralytics import YOLO
from ultralytics.data.loaders import LoadStreams

import valkka_async as va


class Rings(LoadStreams):  # known as a source by its type
    def __init__(self, *names: str, **limits: Any) -> None:
        self.mode, self.count, self.bs = "stream", -1, 1
        self.source_type = SimpleNamespace(stream=True, screenshot=False, from_img=False, tensor=False)
        self.taken: list[va.Frame] = []  # of this batch; released, but their numbers and times are there
        self._loop = asyncio.new_event_loop()  # it runs while the model waits for frames, and then alone
        self._cameras = va.merge(*names)
        self._batches = self._cameras.batches(**limits)

    def __next__(self) -> tuple[list[str], list[Any], list[str]]:
        images: list[Any] = []
        while not images:
            with self._loop.run_until_complete(self._next()) as batch:
                pairs = [(frame, image) for frame in batch if (image := to_bgr(frame)) is not None]
            self.taken, images = [frame for frame, _ in pairs], [image for _, image in pairs]
        self.count, self.bs = self.count + 1, len(images)
        return [frame.source for frame in self.taken], images, [""] * self.bs

    async def _next(self) -> va.Batch:
        return await anext(self._batches)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._cameras.aclose())
            self._loop.close()


def main(model: Any, source: Rings) -> None:
    with contextlib.ExitStack() as stack, contextlib.closing(source):
        serve = functools.cache(lambda name: stack.enter_context(va.serve(f"{name}.boxes")))
        for result in model.predict(source, stream=True, verbose=False):
            frame = next(frame for frame in source.taken if frame.source == result.path)
            found = result.boxes.data.tolist()  # x1, y1, x2, y2, score, class
            boxes = [va.Box(*box[:4], result.names[int(box[5])], box[4]) for box in found]
            serve(frame.source).publish_result(frame, boxes)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(YOLO(sys.argv[1]), Rings(*sys.argv[2:], max_age=1.0))
