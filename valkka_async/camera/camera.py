# SPDX-License-Identifier: MIT
"""Camera: one connection and one decoder for each of its streams, many rings, until it is closed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from valkka_async.camera.spec import CameraSpec, ConnectMode, Output, Transport, as_outputs
from valkka_async.camera.status import CameraStatus
from valkka_async.camera.streams import Streams
from valkka_async.ring import fork
from valkka_async.ring.events import Event


class Camera:
    """One camera, read in a thread of this process and published in any number of rings::

        with va.Camera("front", "rtsp://me:secret@10.0.0.7/live", [
            va.Output("front", size=(640, 360), fps=5),
            va.Output("front.mp4", "fmp4"),
        ]):
            ...

    Cameras have a large and a small stream, as a rule. Both are one camera, with one status::

        va.Camera("front", streams={"main": "rtsp://10.0.0.7/1", "sub": "rtsp://10.0.0.7/2"}, outputs=[
            va.Output("front"),               # pixels, of "sub"
            va.Output("front.mp4", "fmp4"),   # to be recorded, of "main"
        ])

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
        ``rtsp://``, ``rtsps://``, ``http(s)://`` and whatever else FFmpeg opens; ``/dev/video0`` or
        ``v4l2:///dev/video0``, a USB camera; an ``.sdp`` file; a path or
        ``lavfi:testsrc=size=1920x1080:rate=30``, which are played at their own speed and begin again at
        their end. Percent-encode credentials that have special characters; they appear in no message,
        log, repr or status.
    outputs
        One :class:`Output` or several; by default one ring of rgb24.
    streams
        In place of `url`: the camera's streams, each by a name (32 of ``A-Z a-z 0-9 _ -``) with its address.
        Each has a connection of its own, and one that fails stops no other. An output says of which it is,
        or gets "sub", if there is one, for pixels and "jpeg", and "main" for "fmp4" and "packets". (Without
        a "main", that is the first one which is not "sub".) Each stream must have an output.
    connect
        "always", or "on_demand": a stream is connected only while an output of it has readers, and for 3 s
        after the last one. Without any it is "idle". The first frame is then late by what connecting takes.
    transport
        For RTSP: "tcp", "udp", "multicast" (the camera sends to a group of addresses, for all who listen), or
        "http" (through a tunnel, over the port that the address has).
    open_timeout, read_timeout
        Seconds until the stream must be open, and seconds without a video packet after which the connection
        is given up.
    retry_max
        The longest pause in seconds before it is tried again. Pauses grow from half a second, with
        random parts, and are short again after a minute of frames.
    retry_refused
        The same where trying again soon does not help or does harm: a wrong password (cameras lock
        accounts), a wrong path, a stream that cannot be decoded.
    poll
        Seconds from one snapshot to the next, for an address of HTTP that answers with a single image, and
        for a file that has only one. A camera that knows ETag or Last-Modified is asked for what is new.
    thread_count
        Threads for decoding. More than 1 makes each frame later and dearer; 0 is one per core.
    hwaccel
        "auto", or a device type as "vaapi" or "cuda": decode there; None: on the CPU.
    options
        FFmpeg's, which override those made from the arguments.
    input_format
        FFmpeg's name of what comes, such as "mjpeg", "h264", "v4l2" or "sdp", where neither the address nor
        the first bytes tell.
    tls_verify
        Over rtsps, https and rtmps: believe only a certificate that is valid, of the address's host, and
        signed by an authority. Without it any will do, since cameras sign theirs themselves.
    tls_ca_file
        For tls_verify: a file of certificates (PEM), the camera's own or its authority's, instead of those of
        this system.
    audio
        Carry the camera's sound, if it has any, in outputs of "fmp4": AAC and Opus as they come, all else as
        AAC. False: do not ask for it.

    Raises ValueError for arguments that make no sense, CameraError for a `hwaccel` that does not open here
    or when no thread can be started, NameInUseError, ConnectError; then nothing is served. In asyncio it is
    made and closed in the loop's thread.
    """

    def __init__(
        self,
        name: str,
        url: str | os.PathLike[str] | None = None,
        outputs: Output | Iterable[Output] | None = None,
        *,
        transport: Transport = "tcp",
        open_timeout: float = 10.0,
        read_timeout: float = 10.0,
        retry_max: float = 30.0,
        retry_refused: float = 60.0,
        poll: float = 1.0,
        thread_count: int = 1,
        hwaccel: str | None = None,
        options: Mapping[str, str] | None = None,
        input_format: str | None = None,
        tls_verify: bool = False,
        tls_ca_file: str | os.PathLike[str] | None = None,
        audio: bool = True,
        streams: Mapping[str, str] | None = None,
        connect: ConnectMode = "always",
    ) -> None:
        self._streams = Streams(
            CameraSpec(
                name,
                "" if url is None else os.fspath(url),
                as_outputs(outputs),
                transport,
                open_timeout,
                read_timeout,
                retry_max,
                retry_refused,
                poll,
                thread_count,
                hwaccel,
                options,
                input_format,
                tls_verify,
                None if tls_ca_file is None else os.fspath(tls_ca_file),
                audio=audio,
                streams=streams,
                connect=connect,
            )
        )

    @classmethod
    def from_spec(cls, spec: CameraSpec) -> Self:
        """The camera that a spec describes. Raises NameInUseError, ConnectError, CameraError."""
        camera = cls.__new__(cls)
        camera._streams = Streams(spec)
        return camera

    def __repr__(self) -> str:
        status = self.status()
        return f"<Camera {status.name} {status.url} {status.state}>"

    @property
    def name(self) -> str:
        """What it is called."""
        return self._streams.spec.name

    @property
    def spec(self) -> CameraSpec:
        """All its settings, with the URL's credentials."""
        return self._streams.spec

    @property
    def closed(self) -> bool:
        """True after close() or aclose()."""
        return self._streams.closing

    def status(self) -> CameraStatus:
        """How it is, at this moment. From any thread; never blocks."""
        return self._streams.status()

    def reader_events(self) -> list[Event]:
        """What has become of the readers of its rings since the last call: who has come, gone or fallen
        behind. For supervisors."""
        return self._streams.reader_events()

    def stuck(self) -> bool:
        """Has one of its threads not come back from a library for much longer than its deadlines, or ended
        unasked? Then only the end of the process helps. For supervisors."""
        return self._streams.stuck()

    async def achange(self, spec: CameraSpec) -> None:
        """Other settings, with the same name. A stream whose own settings and outputs do not differ goes on
        as it is; others are closed, and opened by the new ones.

        Raises ValueError for another name, ConcurrencyError while another change is under way; and as
        `from_spec()` does, and then the camera is closed. So it is if this is cancelled.
        """
        await self._streams.change(spec)

    def close(self) -> None:
        """Stop, and return when its threads have ended and the rings are closed. Idempotent.

        Takes as long as the frame in work; calls that block in a dead network are cut short. (A DNS lookup
        is not, nor are sources without a TCP connection, as udp:// or srt://: they run into the time-outs.)
        In asyncio, `aclose()` does the same without blocking the loop.
        """
        self._streams.close()

    async def aclose(self) -> None:
        """close() for asyncio. Cancelling it leaves the camera closing by itself."""
        await self._streams.aclose()

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

    @fork.quiet_at_end
    def __del__(self) -> None:
        streams = getattr(self, "_streams", None)  # None: it could not be made
        if streams is not None and not streams.closing:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            streams.abandon()
