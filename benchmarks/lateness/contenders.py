# SPDX-License-Identifier: MIT
"""Ways to get the newest frame of a camera, one class each: frames() yields a channel of each as it comes."""

from __future__ import annotations

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

REGISTRY: dict[str, Contender] = {}
HERE = Path(__file__).resolve().parent
RTSP = {"rtsp_transport": "tcp", "probesize": "32", "allowed_media_types": "video"}

Luma = NDArray[np.uint8]


class Contender(ABC):
    """Runs in a process of its own."""

    name: ClassVar[str] = ""
    note: ClassVar[str] = ""
    modules: ClassVar[tuple[str, ...]] = ()  # distributions whose version is reported
    environment: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        if cls.name:
            REGISTRY[cls.name] = cls()

    @abstractmethod
    def frames(self, url: str, size: tuple[int, int]) -> Iterator[Luma]:
        """As they come, for ever."""


class Ours(Contender):
    name = "va"
    note = "va.Camera in another process, Output('cam', 'bgr24'); va.attach() and recv()"
    modules = ("valkka-async", "av")
    format: ClassVar[str] = "bgr24"

    def frames(self, url: str, size: tuple[int, int]) -> Iterator[Luma]:
        import valkka_async as va

        code = (
            "import sys, threading, valkka_async as va\n"
            f"with va.Camera('cam', sys.argv[1], va.Output('cam', {self.format!r})): threading.Event().wait()"
        )
        camera = subprocess.Popen([sys.executable, "-c", code, url])
        try:
            with va.attach("cam", open_timeout=20) as reader:
                while True:
                    with reader.recv(timeout=20) as frame:
                        yield frame.array[..., 1] if frame.array.ndim == 3 else frame.array[: size[1]]
        finally:
            camera.kill()
            camera.wait()


class OursPlanar(Ours):
    name = "va-yuv420p"
    note = "the same with 'yuv420p'"
    format = "yuv420p"


class PyAv(Contender):
    name = "pyav"
    note = "PyAV: its own demuxing, decode with thread_count=1, frame.to_ndarray(format='bgr24')"
    modules = ("av",)

    def frames(self, url: str, size: tuple[int, int]) -> Iterator[Luma]:
        import av

        with av.open(url, options=RTSP) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                yield frame.to_ndarray(format="bgr24")[..., 1]


class OpenCv(Contender):
    name = "cv2"
    note = "cv2.VideoCapture.read() (BGR), with its default threads"
    modules = ("opencv-python-headless",)
    environment: ClassVar[dict[str, str]] = {
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": "|".join(f"{key};{value}" for key, value in RTSP.items()),
        "OPENCV_LOG_LEVEL": "ERROR",
    }

    def frames(self, url: str, size: tuple[int, int]) -> Iterator[Luma]:
        import cv2

        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
        while True:
            good, image = capture.read()
            if not good:
                return
            yield image[..., 1]


class OpenCvOne(OpenCv):
    name = "cv2-1"
    note = "the same with one thread (OPENCV_FFMPEG_THREADS=1)"
    environment = OpenCv.environment | {"OPENCV_FFMPEG_THREADS": "1"}


class Pipe(Contender):
    """A program that writes frames to its stdout: planes of yuv420p, one frame behind the other."""

    @abstractmethod
    def command(self, url: str) -> list[str]:
        """The program and its arguments."""

    def frames(self, url: str, size: tuple[int, int]) -> Iterator[Luma]:
        width, height = size
        program = subprocess.Popen(self.command(url), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert program.stdout is not None
        try:
            while len(data := program.stdout.read(width * height * 3 // 2)) == width * height * 3 // 2:
                yield np.frombuffer(data, np.uint8, width * height).reshape(height, width)
        finally:
            program.kill()
            program.wait()


class Ffmpeg(Pipe):
    name = "ffmpeg"
    note = "the ffmpeg of the system, writing yuv420p to a pipe, with Frigate's preset-rtsp-generic"

    def command(self, url: str) -> list[str]:
        return [
            "ffmpeg", "-hide_banner", "-loglevel", "error", "-threads", "2",
            "-avoid_negative_ts", "make_zero", "-fflags", "+genpts+discardcorrupt",
            "-rtsp_transport", "tcp", "-timeout", "10000000", "-use_wallclock_as_timestamps", "1",
            "-i", url, "-threads", "2", "-f", "rawvideo",
            "-pix_fmt", "yuv420p", "pipe:",
        ]  # fmt: skip


class GStreamer(Contender):
    name = "gst"
    note = (
        "GStreamer's rtspsrc latency=0 ! rtph264depay ! decoder ! appsink (I420), the decoder with one thread"
    )

    def frames(self, url: str, size: tuple[int, int]) -> Iterator[Luma]:
        raise AssertionError("it runs in gst.py, under the system's Python")


def command(name: str, *arguments: str) -> list[str]:
    """The process of a contender."""
    if name == "gst":
        return ["/usr/bin/python3", str(HERE / "gst.py"), *arguments[1:]]
    return [sys.executable, str(HERE / "worker.py"), *arguments]


def environment(name: str, folder: Path) -> dict[str, str]:
    """The environment of a contender's process."""
    return os.environ | REGISTRY[name].environment | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "VALKKA_RUNTIME_DIR": str(folder),
        "TMPDIR": str(folder),
    }  # fmt: skip
