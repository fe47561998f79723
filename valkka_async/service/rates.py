# SPDX-License-Identifier: MIT
"""Counts into rates. No I/O: statuses come in, figures go out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from valkka_async.camera.status import CameraStatus

_WINDOW = 3.0  # s over which a rate is measured; a worker tells its counts each second


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float  # monotonic, s
    cpu_s: float
    published: dict[str, int]


class Rates:
    """Of one camera: what its rings publish, and the processor it takes, over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._last: CameraStatus | None = None

    def take(self, status: CameraStatus, now: float) -> None:
        """Note a status; one that is noted already is no news. `now` is monotonic, in seconds."""
        if status is self._last:
            return
        self._last = status
        sample = _Sample(now, status.cpu_s, {o.name: o.published for o in status.outputs})
        if self._samples and _began_again(self._samples[-1], sample):
            self._samples.clear()
        self._samples.append(sample)

    def cpu(self, now: float) -> float:
        """Of one core, as a fraction."""
        first, last = self._ends(now)
        return (last.cpu_s - first.cpu_s) / (last.at - first.at) if first is not last else 0.0

    def fps(self, ring: str, now: float) -> float:
        """Frames per second that were published."""
        first, last = self._ends(now)
        if first is last or ring not in first.published or ring not in last.published:
            return 0.0
        return (last.published[ring] - first.published[ring]) / (last.at - first.at)

    def _ends(self, now: float) -> tuple[_Sample, _Sample]:
        samples = self._samples
        while len(samples) > 2 and samples[1].at < now - _WINDOW:
            samples.popleft()
        if not samples or samples[-1].at < now - _WINDOW:  # nothing has been heard for so long
            return _NONE, _NONE
        return samples[0], samples[-1]


_NONE = _Sample(0.0, 0.0, {})


def _began_again(before: _Sample, after: _Sample) -> bool:
    """Counts begin again with each process of a worker, and with other settings."""
    return after.cpu_s < before.cpu_s or any(
        after.published.get(name, 0) < count for name, count in before.published.items()
    )
