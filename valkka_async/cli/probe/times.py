# SPDX-License-Identifier: MIT
"""Whether a stream's timestamps can be trusted."""

from __future__ import annotations

from fractions import Fraction

from valkka_async.camera.source.packet import VideoPacket

_JUMP = 2.0  # s by which a step differs from what passed here, from which on it is a jump
_LONG_ENOUGH = 3.0  # s after which the two clocks can be compared
_FAST, _SLOW = 2.0, 0.5  # the camera's clock against ours; what it sends at first may be some seconds old


class Times:
    """Fed with the packets in their order."""

    def __init__(self, live: bool) -> None:
        self._live = live
        self._count = 0
        self._missing = 0
        self._back = 0
        self._jumps = 0
        self._last: float | None = None  # decode time, s
        self._arrivals = (0.0, 0.0)  # of the first and last with a decode time, s
        self._steps = 0
        self._advanced = 0.0
        self._between = 0  # packets since the last with a decode time
        self._shown: list[float] = []  # the first and last times of being shown, where that is all there is

    @property
    def span(self) -> float:
        """Seconds from the first packet to the last, by the stream's clock."""
        if self._last is None and self._shown:
            return self._shown[1] - self._shown[0]
        return self._advanced

    @property
    def rate(self) -> float:
        """Packets per second, by the stream's clock."""
        steps = self._steps if self._last is not None else self._between - 1
        return steps / self.span if self.span > 0 else 0.0

    def take(self, packet: VideoPacket, base: Fraction | None, arrival_ns: int) -> None:
        self._count += 1
        if packet.dts is None or base is None:
            # With B frames the first ones only have the time at which they are shown, in another order.
            self._between += 1
            if packet.pts is not None and base is not None:
                shown = float(packet.pts * base)
                first, last = self._shown or (shown, shown)
                self._shown = [min(first, shown), max(last, shown)]
            else:
                # The first one over RTSP never has a time: FFmpeg counts from there.
                self._missing += self._count > 1
            return
        now, arrival = float(packet.dts * base), arrival_ns / 1e9
        if self._last is None:
            self._arrivals = (arrival, arrival)
        else:
            step = now - self._last
            passed = arrival - self._arrivals[1]
            if step <= 0:
                self._back += 1
            elif self._live and step - passed > _JUMP:
                self._jumps += 1
            else:
                self._steps += 1 + self._between
                self._advanced += step
            self._arrivals = (self._arrivals[0], arrival)
        self._last, self._between = now, 0

    def problems(self) -> list[str]:
        """In words. []: all is well."""
        said = []
        if self._missing:
            said.append(f"{self._missing} of {self._count} frames have no timestamp")
        if self._back:
            said.append(f"{self._back} of {self._count} do not come after the one before")
        if self._jumps:
            said.append(f"{self._jumps} jumps ahead")
        begin, end = self._arrivals
        passed = end - begin
        if self._live and not said and passed > _LONG_ENOUGH:
            ratio = self._advanced / passed
            if not _SLOW < ratio < _FAST:
                said.append(f"they advance {ratio:.2f} s in each second")
        return said
