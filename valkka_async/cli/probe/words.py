# SPDX-License-Identifier: MIT
"""What was found out about a source, for people."""

from __future__ import annotations

from rich.text import Text

from valkka_async.cli.probe.findings import Findings

_CODECS = {
    "h264": "H.264", "hevc": "H.265", "mjpeg": "Motion JPEG", "av1": "AV1", "libdav1d": "AV1",
    "mpeg4": "MPEG-4", "wrapped_avframe": "raw video", "rawvideo": "raw video",
}  # fmt: skip
_PAGE = {
    "video": "plays as it is",
    "some": "plays in browsers that have H.265 (Safari, others on some machines); the others get JPEGs",
    "jpeg": "as JPEGs, which are made here, since browsers do not play this",
}
_CLOCK = 1.0  # s by which a camera's clock may be off without a word


def lines(found: Findings) -> list[Text]:
    """Lines for a terminal or a pipe; rich leaves the colours out there."""
    said = [Text(found.url, style="bold")]
    if found.opened_in is not None:
        over = f", over {found.transport.upper()}" if found.transport else ""
        said.append(_row("opened", f"in {found.opened_in:.2f} s{over}"))
    if found.packets:
        said += _stream(found)
    for text in found.advice:
        said.append(Text("  ! ", style="yellow").append(text, style=""))
    if found.packets and not found.error:
        said += [Text(), Text("To paste into cameras.yaml:", style="dim"), *map(Text, ["", *found.config])]
    return said


def _stream(found: Findings) -> list[Text]:
    profile = f" {found.profile}" if found.profile else ""
    at = f" level {found.level}" if found.level else ""
    codec = _CODECS.get(found.codec, found.codec)
    size = f"{found.width}x{found.height}" if found.width else "size not known"
    pixels = f", {found.pixel_format}" if found.pixel_format else ""
    rows = [("video", f"{codec}{profile}{at}, {size}{pixels}")]

    promised = f" ({found.fps_promised:g} promised)" if found.fps_promised else ""
    rate = f"{found.fps:.1f} frames/s{promised}" if found.fps else f"{found.packets} frames"
    over = f", measured over {found.seconds:.1f} s" if found.fps else ""
    bits = f", {_bits(found.bit_rate)}" if found.bit_rate else ""
    rows.append(("rate", f"{rate}{bits}{over}"))

    if found.key_frames == found.packets and found.packets > 1:
        rows.append(("key frames", "all of them"))
    elif found.key_interval:
        rows.append(("key frames", f"each {found.key_interval:.1f} s"))
    else:
        during = f" in {found.seconds:.1f} s" if found.seconds else ""
        rows.append(("key frames", f"{found.key_frames or 'none'}{during}"))
    if found.audio is not None:
        rows.append(("sound", ", ".join(found.audio) or "none"))
    rows.append(("timestamps", "; ".join(found.times) or "good"))
    if found.clock_offset is not None and abs(found.clock_offset) > _CLOCK:
        way = "ahead of" if found.clock_offset > 0 else "behind"
        rows.append(("clock", f"the camera's is {_span(abs(found.clock_offset))} {way} this machine's"))
    exact = f" ({found.browser_codec})" if found.browser_codec else ""
    rows.append(("web page", _PAGE.get(found.page, "") + exact))
    return [_row(*row) for row in rows]


def _row(name: str, value: str) -> Text:
    return Text(f"  {name:<11} ", style="dim").append(value, style="not dim")


def _bits(rate: float) -> str:
    return f"{rate / 1e6:.1f} Mbit/s" if rate >= 1e6 else f"{rate / 1e3:.0f} kbit/s"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"
