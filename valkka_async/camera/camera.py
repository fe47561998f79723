# SPDX-License-Identifier: MIT
"""Camera: one connection, one decoder, many rings, until it is closed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from valkka_async.camera.keeper import Keeper
from valkka_async.camera.spec import CameraSpec, Output, Transport, as_outputs
from valkka_async.camera.status import CameraStatus


class Camera:
    """One camera, read in a thread of this process and published in any number of rings::

        with va.Camera("front", "rtsp://me:secret@10.0.0.7/live", [
            va.Output("front", size=(640, 360), fps=5),
            va.Output("front.mp4", "fmp4"),
        ]):
            ...

    A frame's ``timestamp_ns`` is when its first bytes arrived here, and ``meta["sender_time_ns"]``, where an
    RTSP camera sends reports, when it was taken by the camera's own clock.

    It returns at once. Readers get frames as soon as there are any, and whatever happens to the camera
    costs them a gap. Frames are decoded and fragments made only while they have readers. A camera that is
    forgotten without close() warns (ResourceWarning) and closes.

    Parameters
    ----------
    name
        What it is called in messages; the name of its ring, if no outputs are given.
    url
        ``rtsp://``, ``rtsps://``, ``http(s)://`` and whatever else FFmpeg opens; a path or
        ``lavfi:testsrc=size=1920x1080:rate=30``, which are played at their own speed and begin again at
        their end. Percent-encode credentials that have special characters; they appear in no message,
        log, repr or status.
    outputs
        One :class:`Output` or several; by default one ring of rgb24.
    transport
        "tcp" or "udp", for RTSP.
    open_timeout, read_timeout
        Seconds until the stream must be open, and seconds without a video packet after which the connection
        is given up.
    retry_max
        The longest pause in seconds before it is tried again. Pauses grow from half a second, with
        random parts, and are short again after a minute of frames.
    retry_refused
        The same where trying again soon does not help or does harm: a wrong password (cameras lock
        accounts), a wrong path, a stream that cannot be decoded.
    thread_count
        Threads for decoding. More than 1 makes each frame later and dearer; 0 is one per core.
    hwaccel
        "auto", or a device type as "vaapi" or "cuda": decode there; None: on the CPU.
    options
        FFmpeg's, which override those made from the arguments.

    Raises ValueError for arguments that make no sense, CameraError for a `hwaccel` that does not open here
    or when no thread can be started, NameInUseError, ConnectError; then nothing is served. In asyncio it is
    made and closed in the loop's thread.
    """

    def __init__(
        self,
        name: str,
        url: str | os.PathLike[str],
        outputs: Output | Iterable[Output] | None = None,
        *,
        transport: Transport = "tcp",
        open_timeout: float = 10.0,
        read_timeout: float = 10.0,
        retry_max: float = 30.0,
        retry_refused: float = 60.0,
        thread_count: int = 1,
        hwaccel: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._keeper = Keeper(
            CameraSpec(
                name,
                os.fspath(url),
                as_outputs(outputs),
                transport,
                open_timeout,
                read_timeout,
                retry_max,
                retry_refused,
                thread_count,
                hwaccel,
                options,
            )
        )

    @classmethod
    def from_spec(cls, spec: CameraSpec) -> Self:
        """The camera that a spec describes. Raises NameInUseError, ConnectError, CameraError."""
        camera = cls.__new__(cls)
        camera._keeper = Keeper(spec)
        return camera

    def __repr__(self) -> str:
        status = self.status()
        return f"<Camera {status.name} {status.url} {status.state}>"

    @property
    def name(self) -> str:
        """What it is called."""
        return self._keeper.spec.name

    @property
    def spec(self) -> CameraSpec:
        """All its settings, with the URL's credentials."""
        return self._keeper.spec

    @property
    def closed(self) -> bool:
        """True after close() or aclose()."""
        return self._keeper.thread.stopping

    def status(self) -> CameraStatus:
        """How it is, at this moment. From any thread; never blocks."""
        return self._keeper.status()

    def stuck(self) -> bool:
        """Has its thread not come back from a library for much longer than its deadlines, or ended unasked?
        Then only the end of the process helps. For supervisors."""
        return self._keeper.stuck()

    def close(self) -> None:
        """Stop, and return when the thread has ended and the rings are closed. Idempotent.

        Takes as long as the frame in work; calls that block in a dead network are cut short. (A DNS lookup
        is not, nor are sources without a TCP connection, as udp:// or srt://: they run into the time-outs.)
        In asyncio, `aclose()` does the same without blocking the loop.
        """
        self._keeper.thread.close()

    async def aclose(self) -> None:
        """close() for asyncio. Cancelling it leaves the camera closing by itself."""
        await self._keeper.thread.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        keeper = getattr(self, "_keeper", None)  # None: it could not be made
        if keeper is not None and not keeper.thread.stopping:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            keeper.thread.abandon()
