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
    before the first report (1.5 to 5 s after the connection) have none. The first packet of H.264 and
    H.265 that has one has that of the frame after it, because FFmpeg hands a frame over when the next one
    begins. With B frames it is when the frame is due to be shown, as pts are.

    It is as right as the camera's clock, which is years off in a camera that was never told the time (None if
    it says it is before 1970), and jumps when the camera corrects it.
    """
    data: Any = packet.get_sidedata("prft")  # empty if there is none
    if not data.buffer_size:
        return None
    (microseconds,) = _PRFT.unpack_from(data)
    return microseconds * 1000 if microseconds > 0 else None


class Stamp(NamedTuple):
    """When a packet's frame was taken: by our clock when its first bytes came, and by its sender's."""

    arrival_ns: int
    sender_ns: int | None

    @property
    def meta(self) -> dict[str, int] | None:
        """As it goes into the frame."""
        return None if self.sender_ns is None else {"sender_time_ns": self.sender_ns}
