# SPDX-License-Identifier: MIT
"""Ways to get the frames of some cameras, one class each.

A contender's library is imported in `start` and not before: one that is not installed costs itself its
place in the report and no other contender.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

REGISTRY: dict[str, Contender] = {}

RTSP = {"rtsp_transport": "tcp", "probesize": "32", "allowed_media_types": "video"}
SCALED = (640, 360)


class Contender(ABC):
    """Runs in a process of its own, whose CPU is the figure."""

    name: ClassVar[str] = ""
    family: ClassVar[str] = "peer"  # "floor", "ours" or "peer"
    note: ClassVar[str] = ""
    modules: ClassVar[tuple[str, ...]] = ()  # distributions whose version is reported
    environment: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        if cls.name:
            REGISTRY[cls.name] = cls()

    @abstractmethod
    def start(self, urls: list[str]) -> None:
        """Begin to receive from all cameras; returns soon, and goes on in threads."""

    @abstractmethod
    def frames(self) -> list[int]:
        """How many frames of each camera have been delivered until now."""

    def more(self) -> dict[str, float]:
        """Other figures that grow."""
        return {}


class Threads(Contender):
    """One thread for each camera, which counts what it gets."""

    def start(self, urls: list[str]) -> None:
        self.counts = [0] * len(urls)
        self.load()
        for index, url in enumerate(urls):
            threading.Thread(target=self.play, args=(index, url), daemon=True).start()

    def load(self) -> None:
        """Import what is needed."""

    @abstractmethod
    def play(self, index: int, url: str) -> None:
        """Count the frames of one camera."""

    def frames(self) -> list[int]:
        return list(self.counts)


# ------------------------------------------------------------------------------------------ PyAV


class Demux(Threads):
    name = "demux"
    family = "floor"
    note = "PyAV: packets over RTSP (TCP), not decoded"
    modules = ("av",)

    def load(self) -> None:
        import av

        self.av = av

    def play(self, index: int, url: str) -> None:
        with self.av.open(url, options=RTSP) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for packet in container.demux(stream):
                self.counts[index] += self.use(packet)

    def use(self, packet: Any) -> int:
        return 1


class Decode(Demux):
    name = "decode"
    note = "the bare decode: PyAV, packet.decode() with thread_count=1, frames thrown away"

    def use(self, packet: Any) -> int:
        return len(packet.decode())


class ToNdarray(Demux):
    name = "pyav-rgb24"
    family = "peer"
    note = "decode, and frame.to_ndarray(format='rgb24')"

    def use(self, packet: Any) -> int:
        count = 0
        for frame in packet.decode():
            frame.to_ndarray(format="rgb24")
            count += 1
        return count


# ------------------------------------------------------------------------------------------ ours


class Readers:
    """All rings read by one process, which says how many frames it had and what that cost it."""

    def __init__(self, names: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("reader.py")), *names],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


class Ours(Contender):
    """va.Camera with one thread each; what counts are the frames in the reading process's hands."""

    family = "ours"
    modules = ("valkka-async", "av")
    outputs: ClassVar[list[dict[str, Any]]] = []  # of one camera; frames of the first count

    def start(self, urls: list[str]) -> None:
        import valkka_async as va

        self.rings = [[f"cam{n}.{i}" for i in range(len(self.outputs))] for n in range(len(urls))]
        self.cameras = [
            va.Camera(
                f"cam{n}", url, [va.Output(ring, **o) for ring, o in zip(rings, self.outputs, strict=True)]
            )
            for n, (url, rings) in enumerate(zip(urls, self.rings, strict=True))
        ]
        self.readers = Readers([ring for rings in self.rings for ring in rings])
        self.answer: dict[str, Any] = {"frames": {}, "cpu_s": 0.0}

    def frames(self) -> list[int]:
        self.answer = self.readers.ask()
        counts = self.answer["frames"]
        return [counts.get(rings[0], 0) if counts.keys() >= set(rings) else 0 for rings in self.rings]

    def more(self) -> dict[str, float]:
        status = [camera.status() for camera in self.cameras]
        return {
            "reader_cpu_s": self.answer["cpu_s"],
            "dropped": sum(o.dropped for s in status for o in s.outputs),
            "errors": sum(s.errors for s in status),
        }


class Idle(Ours):
    name = "va-idle"
    note = "va.Camera with an rgb24 output without readers: nothing is decoded. Packets count"

    def start(self, urls: list[str]) -> None:
        import valkka_async as va

        self.cameras = [va.Camera(f"cam{n}", url) for n, url in enumerate(urls)]
        self.answer = {"cpu_s": 0.0}

    def frames(self) -> list[int]:
        return [camera.status().packets for camera in self.cameras]


class Nv12(Ours):
    name = "va-nv12"
    note = "va.Camera to one ring of nv12, full size"
    outputs = [{"format": "nv12"}]


class Rgb24(Ours):
    name = "va-rgb24"
    note = "the same of rgb24"
    outputs = [{}]


class Scaled(Ours):
    name = "va-640x360"
    note = "the same of rgb24, scaled to 640x360"
    outputs = [{"size": SCALED}]


class Gray8(Ours):
    name = "va-gray8"
    note = "the same of gray8, full size"
    outputs = [{"format": "gray8"}]


class Fmp4(Ours):
    name = "va-fmp4"
    note = "va.Camera to one ring of fragmented MP4; nothing is decoded"
    outputs = [{"format": "fmp4"}]


class Three(Ours):
    name = "va-three"
    note = "one va.Camera to three rings: rgb24 in full size, fragmented MP4, rgb24 at 640x360 and 5 fps"
    outputs = [{}, {"format": "fmp4"}, {"size": SCALED, "fps": 5}]


# ---------------------------------------------------------------------------------------- OpenCV


class Capture(Threads):
    name = "cv2"
    note = "cv2.VideoCapture.read() in a thread for each camera (BGR24); it decodes with its default threads"
    modules = ("opencv-python-headless",)
    # Left alone, it looks at each stream for a second before it begins, at one after the other.
    environment = {
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": "|".join(f"{key};{value}" for key, value in RTSP.items()),
        "OPENCV_LOG_LEVEL": "ERROR",
    }

    def load(self) -> None:
        import cv2

        self.cv2 = cv2

    def play(self, index: int, url: str) -> None:
        capture = self.cv2.VideoCapture(url, self.cv2.CAP_FFMPEG)
        while True:
            good, image = capture.read()
            if not good:
                return
            self.use(image)
            self.counts[index] += 1

    def use(self, image: Any) -> None:
        """What is done with each frame."""


class CaptureOne(Capture):
    name = "cv2-1"
    note = "the same, told to decode with one thread (OPENCV_FFMPEG_THREADS=1)"
    environment = Capture.environment | {"OPENCV_FFMPEG_THREADS": "1"}


class CaptureScaled(CaptureOne):
    name = "cv2-1-640x360"
    note = "cv2-1, and cv2.resize() to 640x360 (bilinear)"

    def use(self, image: Any) -> None:
        self.cv2.resize(image, SCALED, interpolation=self.cv2.INTER_LINEAR)


class Loader(Capture):
    name = "loader"
    note = (
        "in the style of ultralytics' LoadStreams: threads that grab() and retrieve(), a consumer that polls "
        "until every camera has a frame and takes them as a batch. Frames in batches count"
    )

    def start(self, urls: list[str]) -> None:
        self.newest: list[list[Any]] = [[] for _ in urls]
        self.rates = [0.0] * len(urls)
        super().start(urls)
        threading.Thread(target=self.consume, daemon=True).start()

    def play(self, index: int, url: str) -> None:
        capture = self.cv2.VideoCapture(url, self.cv2.CAP_FFMPEG)
        rate = capture.get(self.cv2.CAP_PROP_FPS)
        self.rates[index] = (rate % 100 if math.isfinite(rate) else 0) or 30.0
        while capture.grab():
            good, image = capture.retrieve()
            if good:
                self.newest[index] = [image]

    def consume(self) -> None:
        while not all(self.rates):
            time.sleep(0.01)
        pause = 1 / min(self.rates)
        while True:
            batch = []
            for index in range(len(self.newest)):
                while not self.newest[index]:
                    time.sleep(pause)
                batch.append(self.newest[index].pop())
            for index in range(len(batch)):
                self.counts[index] += 1


# ---------------------------------------------------------------------------------------- stages


class Stages:
    """Where a camera's thread spends its CPU: va.Camera's own steps, each in a timer of thread CPU time.

    The timers cost some microseconds a frame; hence in measurements of their own.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.lock = threading.Lock()

    def install(self) -> None:
        from valkka_async.camera import decode, outputs
        from valkka_async.camera.pixels import convert
        from valkka_async.camera.source.calls import Calls
        from valkka_async.ring.server import Server

        self.wrap(Calls, "make", "receive")
        self.wrap(decode.Decoder, "decode", "decode")
        self.wrap(convert.Converter, "write", "convert")
        self.wrap(outputs.PixelRing, "offer", "publish")  # with the conversion, which is subtracted
        self.wrap(Server, "publish", "publish")
        self.wrap(outputs.Muxer, "mux", "mux")

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)
        self.seconds.setdefault(stage, 0.0)

        def timed(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                spent = time.thread_time() - began
                with self.lock:
                    self.seconds[stage] += spent

        setattr(owner, name, timed)

    def so_far(self) -> dict[str, float]:
        with self.lock:
            seconds = dict(self.seconds)
        seconds["publish"] -= seconds["convert"]
        return {f"stage_{stage}_s": value for stage, value in seconds.items()}


def environment(name: str, folder: Path) -> dict[str, str]:
    """The environment of a contender's process."""
    here = Path(__file__).resolve().parent
    paths = [str(here.parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | REGISTRY[name].environment | {
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "VALKKA_RUNTIME_DIR": str(folder),
        "TMPDIR": str(folder),
    }  # fmt: skip
