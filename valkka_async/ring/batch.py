# SPDX-License-Identifier: MIT
"""A batch of frames, one of each camera, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valkka_async.ring._shm import Frame
from valkka_async.ring.fitting import Placement
from valkka_async.ring.sets import Clock

if TYPE_CHECKING:
    from valkka_async.ring.gpu.memory import DeviceArray


@dataclass(frozen=True, slots=True)
class BatchStats:
    """Counters of one ``batches()``: ``batches`` handed out and the ``frames`` in them; and, for each source
    that had some, frames left out: ``too_old`` for ``max_age``, ``unmatched`` with ``align`` (no frame of the
    others was near enough). ``waiting`` ones were received and are in no batch yet; close() gives them back.

    ``unusable``: no image that can be a row of the array.

    ``frames``, ``waiting`` and all that was left out add up to what the merge received meanwhile; with what
    it dropped, to what was published.
    """

    batches: int
    frames: int
    waiting: int
    too_old: dict[str, int]
    unmatched: dict[str, int]
    unusable: dict[str, int]


class Batch(Sequence[Frame]):
    """Frames for one model, at most one of each source: a sequence of them.

    ``spread`` is the time in seconds between the first and the last of them by ``clock``: "capture"
    (``timestamp_ns``), "sender" (``meta["sender_time_ns"]``), or "mixed", where some cameras do not send
    theirs. ``waited`` is how long in seconds the first frame that was there waited for the others.

    With ``size`` there is an ``array``, also for ``torch.from_dlpack(batch)`` and the like. Its memory is
    used again when no array, view or tensor of it is alive, so it is yours for as long as you hold it. The
    frames are released then (their fields can still be read), unless ``keep`` was asked for. ``placements``
    say where each of them lies.

    ``release()``, or the end of a ``with`` block, gives all slots back.
    """

    __slots__ = ("_array", "clock", "frames", "placements", "spread", "waited")

    def __init__(self, frames: list[Frame], clock: Clock, spread: float, waited: float) -> None:
        #: The frames, in the order of the array's rows.
        self.frames = frames
        self.clock = clock
        self.spread = spread
        self.waited = waited
        self._array: NDArray[Any] | DeviceArray | None = None
        #: Of each row of the array, how it maps to its frame; [] without ``size``.
        self.placements: list[Placement] = []

    def fill(self, array: NDArray[Any] | DeviceArray, placements: list[Placement]) -> None:
        """Used by Batches: the array is whole."""
        self._array, self.placements = array, placements

    @property
    def array(self) -> NDArray[Any]:
        """(N, H, W, 3) or (N, 3, H, W), a row for each frame. Raises ValueError without ``size``, and on a
        GPU."""
        array = self._filled()
        if not isinstance(array, np.ndarray):
            raise ValueError(
                f"this batch is in the memory of {array.device}: take it with your library's from_dlpack(), "
                'or a copy with np.from_dlpack(batch, device="cpu")'
            )
        return array

    @property
    def device(self) -> str:
        """Where the array is: "cpu", or "cuda:0". Raises ValueError without ``size``."""
        array = self._filled()
        return "cpu" if isinstance(array, np.ndarray) else array.device

    def _filled(self) -> NDArray[Any] | DeviceArray:
        if self._array is None:
            raise ValueError("there is an array if batches() is given size=(width, height)")
        return self._array

    def to_frame(self, row: int, points: ArrayLike) -> NDArray[np.float64]:
        """Points or boxes (x, y pairs in the last axis) that a model found in a row, in the pixels of its
        frame. Raises ValueError without ``size``."""
        if self._array is None:
            raise ValueError("there are rows if batches() is given size=(width, height)")
        return self.placements[row].to_frame(points)

    def __dlpack__(self, **options: Any) -> Any:
        """The array for another library's ``from_dlpack()``. On a GPU it is whole, whatever the library's
        stream; memory is used again when the stream that the library named has done what it was asked for.
        Raises BufferError, GpuError."""
        return self._filled().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the array is: (1, 0), the CPU; (2, 1), the second GPU."""
        device: tuple[int, int] = self._filled().__dlpack_device__()
        return device

    @property
    def names(self) -> list[str]:
        """The frames' sources, in the same order."""
        return [frame.source for frame in self.frames]

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        return self.frames[index]

    def release(self) -> None:
        """Release all frames. Never raises; may be called again."""
        for frame in self.frames:
            frame.release()

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Batch of {len(self.frames)} frames, {self.spread * 1e3:.1f} ms apart ({self.clock})>"
