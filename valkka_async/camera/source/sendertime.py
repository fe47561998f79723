# SPDX-License-Identifier: MIT
"""When a camera took a frame, by the camera's own clock."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from av.packet import Packet

_PRFT = struct.Struct("=q")  # AVProducerReferenceTime begins with it: microseconds since 1970, UTC


def sender_time_ns(packet: Packet[Any]) -> int | None:
    """When this packet's frame was taken by its sender's clock, in Unix nanoseconds (whole microseconds);
    None where that is not known.

    Over RTP it comes from the sender reports of RTCP, which a camera sends every few seconds: packets
    before the first report (1.5 to 5 s after the connection) have none. With B frames it is when the frame is
    due to be shown, as pts are.

    It is as right as the camera's clock, which is years off in a camera that was never told the time (None if
    it says it is before 1970), and jumps when the camera corrects it.
    """
    data: Any = packet.get_sidedata("prft")  # empty if there is none
    if not data.buffer_size:
        return None
    (microseconds,) = _PRFT.unpack_from(data)
    return microseconds * 1000 if microseconds > 0 else None


class Stamp(NamedTuple):
    """When a packet's frame was taken, by our clock when its first bytes came, and by its sender's; and how
    it is to be shown, once it is decoded."""

    arrival_ns: int
    sender_ns: int | None
    rotation: int = 0  # degrees by which the frame has to be turned counterclockwise to be upright
    aspect: tuple[int, int] | None = None  # width : height of a pixel; None: square, or not known
    seconds: float | None = None  # when it is, where the packet's own times are not to be trusted
    key_ns: int = 0  # when the key frame came that it is, or stands for; 0: of none

    def to_be_shown(self, rotation: int, aspect: tuple[int, int] | None) -> Stamp:
        """The same for a frame that is to be shown like this."""
        return self._replace(rotation=rotation, aspect=aspect)

    def at(self, seconds: float) -> Stamp:
        """The same for a packet that is then, whatever its own times say."""
        return self._replace(seconds=seconds)

    def as_key(self, arrival_ns: int) -> Stamp:
        """The same for a frame that stands for the key frame that came then."""
        return self._replace(key_ns=arrival_ns)

    @property
    def meta(self) -> dict[str, Any] | None:
        """As it goes into the frame."""
        meta: dict[str, Any] = {}
        if self.sender_ns is not None:
            meta["sender_time_ns"] = self.sender_ns
        if self.rotation:
            meta["rotation"] = self.rotation
        if self.aspect is not None:
            meta["pixel_aspect"] = list(self.aspect)
        return meta or None
