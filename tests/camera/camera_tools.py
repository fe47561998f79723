"""What the camera tests share besides fixtures: numbered clips, and a ring to publish in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import valkka_async as va
from support import footage

SIZE = (320, 192)
FRAMES = 30
Kind = TypeVar("Kind")
Found = TypeVar("Found")


class Clips:
    """Numbered footage, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        codec: str = "h264",
        size: tuple[int, int] = SIZE,
        colorspace: str | None = None,
        range: str = "limited",
        bframes: int = 0,
        first: int = 0,
    ) -> Path:
        name = f"{size[0]}x{size[1]}-{colorspace}-{range}-{bframes}-{first}.{codec}"
        return footage.encode(
            self.folder / name,
            size,
            FRAMES,
            codec=codec,
            gop=10,
            colorspace=colorspace,
            range=range,
            bframes=bframes,
            first=first,
        )


@contextlib.contextmanager
def ring(policy: str = "ordered") -> Iterator[tuple[va.Server, va.Reader]]:
    """A server and a reader of it. Not fixtures: pytest would hold them beyond the check for leaks."""
    with va.serve("cam") as server, va.attach("cam", policy=policy) as reader:
        yield server, reader


def at_once(watch: Callable[[Kind], Found], kinds: Iterable[Kind]) -> dict[Kind, Found]:
    """What watching each of them gives, all at the same time: seconds of sound are waited for once."""
    kinds = list(kinds)
    with ThreadPoolExecutor(len(kinds)) as pool:
        return dict(zip(kinds, pool.map(watch, kinds), strict=True))
