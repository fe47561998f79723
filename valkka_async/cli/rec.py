# SPDX-License-Identifier: MIT
"""`valkka-async rec`: records a ring of fragmented MP4 into files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

import valkka_async as va
from valkka_async.camera.status import CameraState
from valkka_async.cli.names import Ring, absent, ask_why, pick, rings
from valkka_async.cli.shape import seconds as in_words
from valkka_async.errors import RecorderError
from valkka_async.timeouts import timeout
from valkka_async.units import clock, in_bytes

PATTERN = "{name}-%Y%m%d-%H%M%S.mp4"
_TICK = 0.25
_STALLED = 3.0  # s without a frame, after which it is said why
_ASK_AGAIN = 5.0  # s between questions why, while it lasts
_TELL_SECONDS = 2.0  # to name the last files, when the disk does not answer any more
_BAR = 30  # columns


def find(name: str) -> Ring:
    """The ring to record. Raises RecorderError, ConnectError."""
    known = rings()
    ring = pick(name, known, ("fmp4",))
    if ring is None:
        raise RecorderError(absent(name, known))
    if ring.format not in ("", "fmp4"):
        others = sorted(other.name for other in known if other.format == "fmp4")
        hint = f" (there are: {', '.join(others)})" if others else ""
        raise RecorderError(
            f"{name!r} has no ring of format fmp4 to record{hint}: give the camera such an output, or set "
            "`live: true` in the config"
        )
    return ring


class Rec:
    """A recording of a ring: `run()` it, then `tell()`.

    `seconds` counts from the first frame, or without one from the beginning. None: until cancelled.
    Raises ValueError for a pattern that makes no sense.
    """

    def __init__(
        self,
        name: str,
        ring: str,
        pattern: str | None,
        *,
        seconds: float | None,
        segment: float | None,
        max_bytes: int | None,
    ) -> None:
        self._name = name
        self._ring = ring
        self._seconds = seconds
        # A recorder's own {name} is its ring's.
        path = (pattern or PATTERN).replace("{name}", name.replace("/", "-"))
        self._recorder = va.Recorder(ring, path, seconds=segment, max_bytes=max_bytes)
        self._console = Console(highlight=False, soft_wrap=True)
        self._terminal = sys.stdout.isatty() and not self._console.is_dumb_terminal
        self._files = 0
        self._first: float | None = None  # monotonic: when there was a frame
        self._last = 0.0
        self._frames = 0

    async def run(self) -> None:
        """Record. Cancelling it completes the file. Raises RecorderError, ConnectError."""
        handler = _Say(self)
        logger = logging.getLogger("valkka_async")
        logger.addHandler(handler)
        logger.propagate = False
        try:
            async with self._recorder as recorder:
                files = asyncio.create_task(self._tell_files(recorder))
                try:
                    await self._watch(files)
                finally:
                    await recorder.aclose()
                    self._count()
                    await asyncio.wait([files], timeout=_TELL_SECONDS)  # it ends with the recorder
                    files.cancel()
                    await asyncio.wait([files])
                if not files.cancelled():
                    files.result()  # raises what the recording ended with
        finally:
            logger.removeHandler(handler)
            logger.propagate = True

    async def _watch(self, files: asyncio.Task[None]) -> None:
        """Until the time is over, or the recording is."""
        why = asyncio.create_task(self._tell_stalls())
        began = self._last = time.monotonic()
        try:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                while not files.done():
                    self._count()
                    now = time.monotonic()
                    left = None if self._seconds is None else (self._first or began) + self._seconds - now
                    if left is not None and left <= 0:
                        return
                    if self._terminal:
                        live.update(self._bar(now), refresh=True)
                    await asyncio.wait([files], timeout=_TICK if left is None else min(_TICK, left))
        finally:
            why.cancel()
            await asyncio.gather(why, return_exceptions=True)

    def _count(self) -> None:
        frames = self._recorder.stats().frames
        if frames > self._frames:
            self._frames, self._last = frames, time.monotonic()
            self._first = self._first or self._last

    async def _tell_files(self, recorder: va.Recorder) -> None:
        async for path in recorder:
            self._files += 1
            size = await asyncio.to_thread(_size, path)
            self.say(f"{path}: {size}")

    async def _tell_stalls(self) -> None:
        """For ever: print when frames stop coming, why, and when they come again."""
        said = ""
        since = 0.0
        while True:
            await asyncio.sleep(_TICK)
            quiet = time.monotonic() - self._last
            if quiet < _STALLED:
                if said:
                    self.say(f"{self._name}: frames again, after {in_words(self._last - since)}")
                    said = ""
                continue
            since = self._last
            word = await asyncio.to_thread(ask_why, self._ring)
            if self._last != since:
                continue
            why = word.text or "its server does not say why"
            if word.state is CameraState.LIVE:
                why += "; a recording begins with a key frame"
            if why != said:
                said = why
                self.say(f"{self._name}: no frames for {in_words(quiet)} ({said}); waiting")
            with contextlib.suppress(TimeoutError):
                async with timeout(_ASK_AGAIN):
                    while self._last == since:  # noqa: ASYNC110 - another task counts
                        await asyncio.sleep(_TICK)

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._terminal:
            self._console.print(Text(line))
        else:
            print(line, flush=True)

    def _bar(self, now: float) -> Text:
        stats = self._recorder.stats()
        text = Text().append(f"{self._name}  ", "bold")
        if self._first is None:
            return text.append(
                "waiting for a key frame" if now - self._last < _STALLED else "waiting", "yellow"
            )
        took = now - self._first
        if self._seconds is not None:
            full = min(_BAR, int(_BAR * took / self._seconds))
            text.append("━" * full, "green").append("━" * (_BAR - full), "dim")
            text.append(f"  {clock(took)} of {clock(self._seconds)}")
        else:
            text.append("● ", "red").append(clock(took))
        text.append(f"  {in_bytes(stats.bytes)}  {stats.dropped} dropped")
        if now - self._last > _STALLED:
            text.append(f"  no frames for {in_words(now - self._last)}", "red")
        return text

    def tell(self) -> str:
        """Print the sum. "" if something was recorded, else why not, in a line."""
        stats = self._recorder.stats()
        if not stats.frames or self._first is None:
            why = ask_why(self._ring).text
            return f"nothing was recorded of {self._name!r}" + (f": {why}" if why else "")
        files = f"{self._files} file" + ("" if self._files == 1 else "s")
        took = max(0.0, self._last - self._first)
        self.say(
            f"recorded {took:.1f} s of {self._name} in {files}: {stats.frames} frames, "
            f"{in_bytes(stats.bytes)}, {stats.dropped} dropped"
        )
        return ""


class _Say(logging.Handler):
    """The library's warnings, as lines. Errors end the recording, and are told then."""

    def __init__(self, rec: Rec) -> None:
        super().__init__(logging.WARNING)
        self._rec = rec

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            self._rec.say(record.getMessage())


def _size(path: Path) -> str:
    try:
        return in_bytes(os.stat(path).st_size)
    except OSError as e:  # moved away already
        return e.strerror or "gone"
