# SPDX-License-Identifier: MIT
"""Ways from the rings of many cameras to arrays of (N, 640, 640, 3): each a generator of batches, of which it
yields the array and when each of its frames was published (ns)."""

from __future__ import annotations

import asyncio
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import valkka_async as va

SIZE = 640
Batches = Iterator[tuple[NDArray[np.uint8], list[int]]]


@dataclass(frozen=True)
class Contender:
    label: str
    note: str
    modules: tuple[str, ...]  # packages
    run: Callable[[list[str]], Batches]


def ours(names: list[str], resize: Literal["area", "linear"], window: float | None = None) -> Batches:
    ready: queue.SimpleQueue[tuple[NDArray[np.uint8], list[int]]] = queue.SimpleQueue()
    taken = threading.Semaphore(0)

    async def receive() -> None:
        async with va.merge(*names) as cameras:
            async for batch in cameras.batches(
                len(names), window, size=(SIZE, SIZE), format="bgr24", resize=resize
            ):
                ready.put((batch.array, [frame.timestamp_ns for frame in batch]))
                del batch
                taken.acquire()  # the consumer holds up the loop, as a model would

    threading.Thread(target=asyncio.run, args=(receive(),), daemon=True).start()
    while True:
        yield ready.get()
        taken.release()


def letterbox(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As everybody writes it."""
    import cv2

    height, width = image.shape[:2]
    scale = min(SIZE / width, SIZE / height)
    inside = round(width * scale), round(height * scale)
    left, top = (SIZE - inside[0]) // 2, (SIZE - inside[1]) // 2
    if inside != (width, height):
        image = cv2.resize(image, inside, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    right, bottom = SIZE - inside[0] - left, SIZE - inside[1] - top
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114,) * 3)  # type: ignore[return-value]


def cv2_threads(names: list[str]) -> Batches:
    """A thread for each camera keeps its newest frame; the model's thread takes what is new."""
    from batching.capture import RingCapture, stamp

    newest: list[NDArray[np.uint8] | None] = [None] * len(names)
    arrived = threading.Condition()

    def read(place: int) -> None:
        capture = RingCapture(names[place])
        while True:
            image = capture.read()[1]
            with arrived:
                newest[place] = image
                arrived.notify()

    for place in range(len(names)):
        threading.Thread(target=read, args=(place,), daemon=True).start()
    while True:
        with arrived:
            arrived.wait_for(lambda: all(image is not None for image in newest), timeout=0.05)
            images = [image for image in newest if image is not None]
            newest[:] = [None] * len(names)
        if images:
            yield np.stack([letterbox(image) for image in images]), [stamp(image) for image in images]


def ultralytics(names: list[str]) -> Batches:
    """Its LoadStreams, over rings, and the LetterBox and stack of its predictor's preprocess."""
    import cv2
    from ultralytics.data.augment import LetterBox
    from ultralytics.data.loaders import LoadStreams

    from batching.capture import RingCapture, stamp

    cv2.VideoCapture = RingCapture  # type: ignore[misc, assignment]
    with tempfile.NamedTemporaryFile("w", suffix=".streams") as file:
        file.write("\n".join(names))
        file.flush()
        streams = LoadStreams(file.name)
    box = LetterBox((SIZE, SIZE), auto=False)
    for _, images, _ in streams:
        yield np.stack([box(image=image) for image in images]), [stamp(image) for image in images]


def streamvision(names: list[str], mode: Literal["auto", "freshest"]) -> Batches:
    """roboflow inference's sources and collector, set up as its pipeline does in this mode, but with buffers
    of 8 frames and not 64, which would be 6 GB; letterbox as above."""
    from streamvision.camera.collection_policy import (
        FRESHEST_MODE_BATCH_COLLECTION_TIMEOUT,
        CollectionPolicy,
        VideoProcessingMode,
    )
    from streamvision.camera.entities import SourceProperties, VideoFrameProducer
    from streamvision.camera.utils import multiplex_videos
    from streamvision.camera.video_source import BufferConsumptionStrategy, BufferFillingStrategy, VideoSource

    from batching.capture import RingCapture, stamp

    class Producer(RingCapture, VideoFrameProducer):  # type: ignore[misc]
        def discover_source_properties(self) -> Any:
            return SourceProperties(
                width=int(self.get(3)), height=int(self.get(4)), total_frames=-1, is_file=False, fps=15.0,
                is_reconnectable=True,
            )  # fmt: skip

        def initialize_source_properties(self, properties: Any) -> None:
            pass

    eager = BufferConsumptionStrategy.EAGER

    def source(number: int, name: str) -> Any:
        video = VideoSource.init(
            lambda: Producer(name),
            buffer_filling_strategy=BufferFillingStrategy.DROP_OLDEST,
            buffer_consumption_strategy=eager if mode == "freshest" else BufferConsumptionStrategy.LAZY,
            buffer_size=8,
            source_id=number,
        )
        video.start()
        return video

    sources = [source(number, name) for number, name in enumerate(names)]
    policy = CollectionPolicy(VideoProcessingMode.AUTO) if mode == "auto" else None
    wait = None if mode == "auto" else FRESHEST_MODE_BATCH_COLLECTION_TIMEOUT
    for frames in multiplex_videos(sources, batch_collection_timeout=wait, collection_policy=policy):
        if frames:
            images = [frame.image for frame in frames]
            yield np.stack([letterbox(image) for image in images]), [stamp(image) for image in images]


CV2 = "opencv-python-headless"
REGISTRY = {
    "va": Contender("**`batches(size=)`**", "means of areas", (), lambda names: ours(names, "area")),
    "va-linear": Contender(
        '**the same**, `resize="linear"`', "as the others", (), lambda names: ours(names, "linear")
    ),
    "va-window": Contender(
        "**the same**, `window=0.02`",
        "waits 20 ms for all",
        (),
        lambda names: ours(names, "linear", 0.02),
    ),
    "cv2": Contender("cv2, a thread for each camera", "waits 50 ms for all", (CV2,), cv2_threads),
    "ultralytics": Contender(
        "ultralytics LoadStreams, LetterBox", "waits for all", (CV2, "ultralytics"), ultralytics
    ),
    "streamvision": Contender(
        "roboflow streamvision, auto; cv2",
        "its window tunes itself",
        (CV2, "streamvision"),
        lambda names: streamvision(names, "auto"),
    ),
    "streamvision-freshest": Contender(
        "roboflow streamvision, freshest; cv2",
        "waits 20 ms for all",
        (CV2, "streamvision"),
        lambda names: streamvision(names, "freshest"),
    ),
}
