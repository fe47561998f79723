# SPDX-License-Identifier: MIT
"""What comes out of a source."""

from __future__ import annotations

from typing import TypeAlias

from av.audio.stream import AudioStream  # noqa: F401 - in the strings below
from av.packet import Packet  # noqa: F401
from av.video.stream import VideoStream  # noqa: F401

# Strings: PyAV cannot subscript it at run time.
VideoPacket: TypeAlias = "Packet[VideoStream]"
SoundPacket: TypeAlias = "Packet[AudioStream]"
AnyPacket: TypeAlias = "Packet[VideoStream] | Packet[AudioStream]"
