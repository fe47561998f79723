# SPDX-License-Identifier: MIT
"""`valkka-async play`: one camera or file, served under a name."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import typer

import valkka_async as va
from valkka_async.camera.play import play as start
from valkka_async.camera.source.secrets import parse
from valkka_async.camera.spec import PixelFormat, Transport
from valkka_async.cli.shape import describe

_MEASURING_SECONDS = 1.0  # how long the frame rate is measured before we say what is served


async def play(
    url: str,
    name: str,
    *,
    fps: float | None,
    size: tuple[int, int] | None,
    format: PixelFormat,
    transport: Transport,
    input_format: str | None,
    loop: bool,
) -> None:
    """Until the file ends. Raises CameraError, NameInUseError, typer.BadParameter, ..."""
    with _bad_usage():
        shown = str(parse(url))
    # A player logs what it ends with as a warning, and raises it. Once is enough for a command line.
    logging.getLogger("valkka_async.camera").setLevel(logging.ERROR)
    async with va.serve(name) as server:
        with _bad_usage():
            player = start(
                url,
                server,
                fps=fps,
                size=size,
                format=format,
                transport=transport,
                input_format=input_format,
                loop=loop,
            )
        async with player:
            announcement = asyncio.create_task(_announce(name, shown))
            try:
                await player
            finally:
                announcement.cancel()
                await asyncio.gather(announcement, return_exceptions=True)
        stats = server.stats()
        print(f"{name}: the source has ended; {stats.published} frames, {stats.dropped} dropped", flush=True)


@contextlib.contextmanager
def _bad_usage() -> Iterator[None]:
    """For arguments that make no sense: exit status 2 instead of a traceback."""
    try:
        yield
    except ValueError as e:
        raise typer.BadParameter(str(e)) from None


async def _announce(name: str, shown: str) -> None:
    """Print what is served once it is live: only its frames tell."""
    async with va.connect(name) as client:
        with await client.recv() as frame:
            what = describe(frame.shape, frame.format)
            first = frame.seq, frame.published_ns
        rate = ""
        try:
            await asyncio.sleep(_MEASURING_SECONDS)
            newest = client.recv_nowait()
            if newest is not None:
                with newest:
                    rate = f", {(newest.seq - first[0]) / (newest.published_ns - first[1]) * 1e9:.1f} fps"
        finally:  # also when the source has ended meanwhile
            print(f"{name} is live: {what}{rate}, from {shown}", flush=True)
