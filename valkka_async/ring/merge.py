# SPDX-License-Identifier: MIT
"""merge(): many servers as one stream."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal

from numpy.typing import ArrayLike

from valkka_async.ring._shm import Frame
from valkka_async.ring.batches import Batches, Filler, Limits
from valkka_async.ring.client import Client
from valkka_async.ring.connection import ReaderStats
from valkka_async.ring.fitting import Shape
from valkka_async.ring.policy import Policy
from valkka_async.ring.sourced import Sourced
from valkka_async.ring.sources import Sources
from valkka_async.ring.tensor import Tensor


def _on_gpu(shape: Shape, threads: int | None, keep: bool, device: str) -> Filler:
    """Raises ValueError, GpuError, ImportError."""
    from valkka_async.ring.gpu.open import tensor_on

    if threads is not None:
        raise ValueError("threads fill rows on the CPU; leave it out with device=")
    return tensor_on(device, shape, keep)


@dataclass(frozen=True, slots=True)
class MergeStats:
    """Sums over all sources, and each connected source's own ReaderStats (None: not connected now)."""

    received: int
    dropped: int
    leases: int
    last_received_ns: int
    sources: dict[str, ReaderStats | None]


def merge(
    *sources: str | Client, policy: Policy = "latest", max_leases: int = 4, reconnect: bool = True
) -> Merge:
    """Receive from many servers in one task::

        async with va.merge("front", "cam*") as cameras:
            async for frame in cameras:
                print(frame.source, frame.shape)

    Parameters
    ----------
    sources
        Names; patterns (with ``*``, ``?`` or ``[]``), which follow servers that come and go; Clients,
        which stay the caller's to close. A client is in one merge at a time.
    policy, max_leases
        For each source; see :func:`valkka_async.connect`.
    reconnect
        Wait for servers that are not there yet or went away; the iteration then never ends by itself.
        False: a source whose server is closed leaves, a crash raises ConnectionClosedError, and the
        iteration ends with the last source.

    Sources take turns: one that always has a frame ready cannot starve the others, and one that is
    down, slow or stuck does not hold them up. Raises InvalidNameError, ValueError.
    """
    return Merge(*sources, policy=policy, max_leases=max_leases, reconnect=reconnect)


class Merge(Sourced):
    """Made by :func:`merge`. An async context manager and iterator; one task receives at a time."""

    def __init__(self, *sources: str | Client, policy: Policy, max_leases: int, reconnect: bool) -> None:
        self._sources = Sources(policy, max_leases, reconnect)
        self._ready = self._sources.ready
        self._made: weakref.WeakSet[Batches] = weakref.WeakSet()
        try:
            for source in sources:
                self.add(source)
        except BaseException:
            self._sources.close()  # its clients are free for another merge
            raise

    # ---------------------------------------------------------------------------------- sources

    def add(self, source: str | Client) -> None:
        """Receive from one more name, pattern or client. One that is there already is left as it is.

        Raises InvalidNameError; ValueError for a client whose server is merged already, and for one that
        another merge has; ConnectionClosedOK after close().
        """
        self._sources.add(source.subscription if isinstance(source, Client) else source)

    def discard(self, source: str | Client) -> None:
        """Stop receiving from a name, a client, or a pattern with all that came by it. Frames that are
        held stay valid. A name stays away, whatever pattern it matches, until it or such a pattern is
        added again. Does nothing if it is not there."""
        self._sources.discard(source.name if isinstance(source, Client) else source)

    @property
    def sources(self) -> list[str]:
        """Names of the sources there are now, connected or not."""
        return list(self._sources.members)

    # -------------------------------------------------------------------------------- receiving

    async def recv(self) -> Frame:
        """Wait for the next frame of any source.

        Cancelling loses no frame: one is claimed only when it is returned. Raises
        ConnectionClosedOK once there are no sources left (only without ``reconnect``) or after
        close(), ConnectionClosedError if a server crashed (only without ``reconnect``),
        LeaseLimitError, ConcurrencyError if another task is receiving.
        """
        return await self._ready.receive(self._sources.run())

    def recv_nowait(self) -> Frame | None:
        """The next frame of any source, or None if there is none now. Raises as recv() does."""
        self._sources.run()
        return self._ready.claim_now()

    def __aiter__(self) -> Merge:
        return self

    def __anext__(self) -> Awaitable[Frame]:
        return self._ready.receive(self._sources.run(), iterating=True)

    def batches(
        self,
        max_frames: int = 64,
        window: float | None = None,
        *,
        min_frames: int = 1,
        max_age: float | None = None,
        align: Literal["capture", "sender"] | None = None,
        tolerance: float = 0.04,
        size: tuple[int, int] | None = None,
        letterbox: bool = True,
        layout: Literal["NHWC", "NCHW"] = "NHWC",
        dtype: Literal["uint8", "float32", "float16"] = "uint8",
        normalize: tuple[ArrayLike, ArrayLike] | None = None,
        format: Literal["rgb24", "bgr24"] = "rgb24",
        resize: Literal["area", "linear"] = "area",
        pad: int = 114,
        keep: bool = False,
        threads: int | None = None,
        device: str = "cpu",
    ) -> Batches:
        """Frames for one model: an iterator of Batches, with at most one frame of each source.

        ::

            async for batch in cameras.batches(size=(640, 640), layout="NCHW", dtype="float32"):
                for row, boxes in enumerate(model(torch.from_dlpack(batch))):
                    print(batch.names[row], batch.to_frame(row, boxes))

        Parameters
        ----------
        max_frames
            A batch goes as soon as so many sources have a new frame, or every connected one. With more
            sources than this, those that were in a batch longest ago come first.
        window
            Seconds that a batch waits for the other sources, from its first frame on. None: for those whose
            frame is due before the first has another one, and 50 ms at most; where the cameras' frames come
            in clusters, batches begin with a cluster. A source that is silent for longer than it usually is,
            or has given no frame yet, is not waited for.
        min_frames
            A batch of fewer waits for longer than its window, until there are as many. (The last one may be
            smaller, if the merge was made with ``reconnect=False``.)
        max_age
            Frames captured longer ago, in seconds, are left out, and counted.
        align
            "capture" or "sender": the frames of a batch belong together in time, by their ``timestamp_ns`` or
            by ``meta["sender_time_ns"]`` (where a frame has none, its ``timestamp_ns``); all within
            ``tolerance`` seconds. Up to three frames of a source wait for those of others. Of all sets that
            can be made, one of the most sources is taken. What finds no partners is left out, and counted.

        size
            (width, height) in pixels, up to 16384 each: a batch has one contiguous ``array``, of which each
            frame is a row. Frames of rgb24, bgr24, rgba, bgra, gray8, nv12 and yuv420p can be (nv12 and
            yuv420p as BT.601, as OpenCV reads them), of up to 65536 pixels a side; others are left out,
            counted, and logged once for each source and format.
        letterbox
            Keep the proportions: what the frame leaves, on both sides, has the value ``pad``. False: stretch
            it.
        layout, dtype, format
            (N, H, W, 3) or (N, 3, H, W); the type of the elements; the order of the channels.
        normalize
            (mean, std), each one value or three: (value / 255 - mean) / std. Floats without it are value /
            255.
        resize
            "area": smaller frames are the means of what each pixel covers, so nothing flickers. "linear":
            between the nearest pixels, as OpenCV's default, with which many models were trained. Larger
            frames are linear.
        keep
            Keep the frames, to cut from them at full size; else each is released when its row is filled.
        threads
            How many fill rows, without the GIL. None: up to four, by the number of cores.
        device
            "cpu"; "cuda" or "cuda:1": the array is in the memory of that GPU, made there by one kernel, with
            the same bytes. Frames are copied from their slots without another copy on the host, and given
            back when that is done. Has not run on a GPU yet: it was tested without one, and may change.
            Needs NVIDIA's driver, and NVRTC, which PyTorch and CuPy bring. The first batch takes up to a
            second longer.

        It may be left by ``break``. Who keeps it for longer closes it, or uses ``async with
        cameras.batches() as batches``; the end of the merge closes it as well.

        Without ``align`` the frames are claimed all at once when the batch goes, so with the policy "latest"
        each is the newest of its source. Cancelling loses no frame. Ends and raises as recv() does;
        LeaseLimitError of one source comes after the batch of the others, which is not lost. ValueError for
        limits that cannot be. With a GPU also GpuError; ImportError says what to install.
        """
        limits = Limits(max_frames, min_frames, window, max_age, align, tolerance)
        tensor: Filler | None = None
        if size is not None:
            shape = Shape(size, letterbox, layout, dtype, normalize, format, resize, pad)
            tensor = (
                Tensor(shape, threads, keep) if device == "cpu" else _on_gpu(shape, threads, keep, device)
            )
        elif device != "cpu":
            raise ValueError("device is for arrays: give size=(width, height) as well")
        made = Batches(self, self._sources, limits, tensor)
        self._made.add(made)
        return made

    # -------------------------------------------------------------------------------------- end

    def close(self) -> None:
        """Leave all servers, and close the batches made here. Idempotent; a task that waits in recv() gets
        ConnectionClosedOK. Frames that were given stay valid until they are released."""
        for batches in list(self._made):
            batches.close()
        super().close()

    def stats(self) -> MergeStats:
        """Counters since merge()."""
        total = self._sources.before
        sources: dict[str, ReaderStats | None] = {}
        for name, member in self._sources.members.items():
            stats = member.subscription.stats()
            total = total.plus(stats)
            connected = member.link is not None and not member.subscription.closed
            sources[name] = stats if connected else None
        return MergeStats(total.received, total.dropped, total.leases, total.last_received_ns, sources)

    def __repr__(self) -> str:
        names = ", ".join([*self._sources.members, *sorted(self._sources.patterns)])
        return f"<Merge of {names or 'nothing'}{' [closed]' if self.closed else ''}>"
