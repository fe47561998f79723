# SPDX-License-Identifier: MIT
"""What was found out about a source, as data, and what follows from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_PLACE = "***"  # where Address.shown hides a secret
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./:@?&=%$*{}+,;~()-]*")  # what YAML reads as it stands
_LONG_INTERVAL = 4.0  # s between key frames, long enough for a new viewer to notice
# Profiles that browsers decode. The others have more than 8 bits, or more colour than 4:2:0.
_BROWSERS = {"Baseline", "Constrained Baseline", "Main", "High", "Constrained High"}


@dataclass(slots=True)
class OtherWay:
    """The result of trying the other transport."""

    transport: str
    works: bool
    error: str


@dataclass(slots=True)
class Findings:
    """Times are seconds, rates per second; None, 0 and "" are for what is not known. No passwords."""

    url: str
    transport: str | None  # "tcp", "udp" ...: what was used; None: no network
    live: bool = True
    error: str = ""  # why it cannot be used
    error_type: str = ""  # the exception's name, as CameraAuthError
    other_way: OtherWay | None = None  # tried when this one failed
    opened_in: float | None = None
    container: str = ""
    codec: str = ""
    profile: str = ""
    level: str = ""
    width: int = 0
    height: int = 0
    pixel_format: str = ""
    fps: float = 0.0  # measured
    fps_promised: float = 0.0
    bit_rate: float = 0.0  # bits per second
    key_interval: float = 0.0
    key_frames: int = 0
    key_gap: float = 0.0  # the longest time without one, also before the first and after the last
    packets: int = 0
    seconds: float = 0.0  # listened
    silent: float = 0.0  # at the end, since the last frame
    decoded: int = 0  # key frames
    errors: int = 0  # key frames that could not be decoded
    audio: list[str] | None = None  # its codecs
    browser_codec: str = ""  # for Media Source Extensions; "": shown as JPEGs
    page: str = ""  # "video", "some" (browsers play it, the others get JPEGs), or "jpeg"
    times: list[str] = field(default_factory=list)  # what is wrong with the timestamps
    clock_offset: float | None = None  # of the camera's clock to ours; None: it does not tell the time
    advice: list[str] = field(default_factory=list)
    config: list[str] = field(default_factory=list)  # lines for the config file
    input_format: str | None = None  # that it was opened with

    def conclude(self) -> None:
        """Fill in what follows from the rest."""
        self.page = self._page()
        self.advice = self._advice()
        self.config = self._config()

    def _page(self) -> str:
        if self.codec == "h264" and self.browser_codec and self.profile in _BROWSERS | {""}:
            return "video"
        if self.codec == "hevc" and self.browser_codec:
            return "some"
        return "jpeg" if self.packets else ""

    def _advice(self) -> list[str]:
        said = []
        if self.other_way is not None and self.other_way.works:
            name = self.other_way.transport
            said.append(
                f"over {name.upper()} it works: --transport {name} here, `transport: {name}` in a config"
            )
        elif self.other_way is not None:
            said.append(f"over {self.other_way.transport.upper()} it does not work either")
        if not self.packets:
            return said
        if self.errors and not self.decoded:
            said.append("no frame could be decoded: check the camera's codec settings")
        elif self.errors:
            lost = " (over UDP packets get lost: try --transport tcp)" if self.transport == "udp" else ""
            said.append(f"{self.errors} of {self.key_frames} key frames could not be decoded{lost}")
        if self.live and self.key_gap > _LONG_INTERVAL:
            said.append(
                f"there was no key frame for {self.key_gap:.0f} s, so a viewer may wait that long: set the "
                " camera's key-frame interval (I-frame, GOP) to 1 or 2 s"
            )
        if self.page == "some":
            said.append("set the camera to H.264 if every browser should play it")
        if self.live and self.silent > max(2.0, 5 / self.fps if self.fps else 0.0):
            said.append(
                f"nothing has come for the last {self.silent:.1f} s: the camera or the network stalls"
            )
        if self.live and self.fps_promised and self.fps and self.fps < 0.7 * self.fps_promised:
            said.append(
                f"{self.fps:.1f} frames per second arrive, and {self.fps_promised:g} were promised: the "
                "network or the camera is too slow, or it captures fewer in the dark"
            )
        return said

    def _config(self) -> list[str]:
        url = self.url
        if "$$" in url or "${" in url:  # which mean something in a config
            url = url.replace("$", "$$")
        parts = url.split(_PLACE)
        url = parts[0]
        for number, part in enumerate(parts[1:], start=1):
            url += ("${PASSWORD}" if number == 1 else f"${{PASSWORD_{number}}}") + part
        if not _PLAIN.fullmatch(url):
            url = "'" + url.replace("'", "''") + "'"
        said = ["cameras:", "  camera1:", f"    url: {url}"]
        if self.transport not in (None, "tcp") and self.url.lower().startswith(("rtsp:", "rtsps:")):
            said.append(f"    transport: {self.transport}")
        if self.input_format:
            said.append(f"    input_format: {self.input_format}")
        return said
