# SPDX-License-Identifier: MIT
"""What a contender has to offer.

The modules of this folder import their library in ``Contender.load`` and not before, so that one which is
not installed costs itself its place in the report and nobody else.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import bench  # made by build.py
import numpy as np

REGISTRY: dict[str, Contender] = {}

DEPTH = 8  # frames in every ring and queue


@dataclass(frozen=True)
class Spec:
    """One measurement."""

    token: str  # unique; part of every name that is made
    folder: str  # a private directory, removed afterwards
    height: int
    width: int
    readers: int = 1
    channels: int = 0  # 0: one stream, to `readers` processes; else many, to one process

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, 3)

    @property
    def nbytes(self) -> int:
        return self.height * self.width * 3


class Writer(ABC):
    """One process that publishes. Made after the fork, in that process."""

    @abstractmethod
    def send(self, image: np.ndarray, kind: int) -> bool | None:
        """Stamp and publish one frame; False: dropped."""

    def pace(self, image: np.ndarray, kind: int, fps: float, count: int) -> None:
        """``count`` frames at ``fps``."""
        due = time.monotonic()
        for _ in range(count):
            due += 1 / fps
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)
            self.send(image, kind)

    def flood(self, image: np.ndarray, seconds: float) -> tuple[int, int]:
        """As many frames as possible: how many were published, how many dropped."""
        published = dropped = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.send(image, bench.FLOOD) is False:
                dropped += 1
            else:
                published += 1
        return published, dropped

    def close(self) -> None:  # noqa: B027 - a hook
        pass


class Publisher(Writer):
    """Stamps its image, and publishes that. Who writes into lent memory stamps there instead."""

    @abstractmethod
    def publish(self, image: np.ndarray) -> bool | None:
        """One frame; False: dropped."""

    def send(self, image: np.ndarray, kind: int) -> bool | None:
        bench.stamp(image, kind)
        return self.publish(image)


class Reader(ABC):
    """One process that receives. Made after the fork, in that process."""

    @abstractmethod
    def read(self, touch: Callable[[Any], bool]) -> None:
        """Give ``touch`` each frame, as what a user would hold in his hand (a numpy array where the
        library is for Python), until it returns True."""

    def close(self) -> None:  # noqa: B027 - a hook
        pass


class FrameReader(Reader):
    """One that has its frames one after the other."""

    @abstractmethod
    def frames(self) -> Iterator[Any]:
        """As they come, for ever."""

    def read(self, touch: Callable[[Any], bool]) -> None:
        for frame in self.frames():
            if touch(frame):
                return


class Contender(ABC):
    name: ClassVar[str]
    family: ClassVar[str]  # "floor", "ours" or "peer"
    modules: ClassVar[tuple[str, ...]] = ()  # packages whose versions the report names
    lossy: ClassVar[bool] = True  # a slow reader loses frames; False: it stops the writer
    streams: ClassVar[bool] = True  # takes part in one writer to some readers
    copies: ClassVar[bool] = True  # False: a published frame is not copied
    note: ClassVar[str] = ""  # what exactly is measured

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            REGISTRY[cls.name] = cls()

    def load(self) -> None:  # noqa: B027 - a hook
        """Import what is needed. Runs before the fork."""

    def prepare(self, spec: Spec) -> Any:  # noqa: B027 - a hook
        """What writer and readers inherit by the fork."""

    channels: ClassVar[bool] = False  # takes part in many channels into one process; is Channels then

    @abstractmethod
    def writer(self, spec: Spec, shared: Any) -> Writer: ...

    @abstractmethod
    def reader(self, spec: Spec, shared: Any, index: int) -> Reader: ...


class Channels(Contender):
    """One that can serve many channels, and read them in one process."""

    @abstractmethod
    def channel_writer(self, spec: Spec, shared: Any, first: int, count: int) -> Callable[..., None]:
        """Serve channels first .. first + count; returns pace(image, kind, fps of all together, frames)."""

    @abstractmethod
    def channel_reader(self, spec: Spec, shared: Any) -> Reader: ...


def take_turns(writers: list[Writer]) -> Callable[..., None]:
    """A channel writer's pace() over one Writer per channel."""

    def pace(image: np.ndarray, kind: int, fps: float, count: int) -> None:
        due = time.monotonic()
        for i in range(count):
            due += 1 / fps
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)
            writers[i % len(writers)].send(image, kind)

    return pace


def as_image(data: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array over any buffer."""
    return np.frombuffer(data, np.uint8, count=int(np.prod(shape))).reshape(shape)
