# SPDX-License-Identifier: MIT
"""Decoding on a graphics card: which device, if any.

What PyAV 18.1 (FFmpeg 8.1) does, as far as it can be seen without a device:

- `av.open(url, hwaccel=...)` opens the device again each time, and frames come back to system memory
  by themselves (as nv12, or p010 for 10 bits), unless `is_hw_owned` was asked for.
- `allow_software_fallback` is for streams that a device cannot decode. A device that does not open makes
  `av.open` fail all the same: hence the try in here.
- A name that FFmpeg does not know is not refused but means "any device".
- `hwdevices_available()` has types that no decoder uses. PyAV's wheels have cuda, qsv, drm and amf, and
  decode with cuda only; vaapi takes a PyAV that was built on the system's FFmpeg.
"""

from __future__ import annotations

import logging

import av
from av.codec.hwaccel import HWAccel

from valkka_async.errors import CameraError

_CODECS = ("h264", "hevc", "mjpeg")  # what cameras send
_LAST_RESORTS = ("vulkan", "opencl")  # these open on a CPU as well, and decode nothing there

log = logging.getLogger("valkka_async.camera")


def hwaccel(name: str | None) -> HWAccel | None:
    """What to give to `av.open(..., hwaccel=...)`: None for decoding on the CPU.

    `name` is a device type as "cuda" or "vaapi", with the device if there are several: "cuda:1",
    "vaapi:/dev/dri/renderD129". That device has to open here, now: ValueError for one that this FFmpeg
    cannot decode with, CameraError for one that does not open. "auto": the first that opens, else None,
    and a line in the log says which. None: None.

    A stream that the device cannot decode is decoded on the CPU, without a word. The result is only
    settings: it may be given to any number of `av.open`, in any thread. Opening a device may take tenths
    of a second, here and in each `av.open`.
    """
    if name is None:
        return None
    usable = device_types()
    if name == "auto":
        return _first(usable)
    kind, _, device = name.partition(":")
    if kind not in usable:
        raise ValueError(
            f"hwaccel {name!r}: this FFmpeg decodes on {', '.join(usable) or 'no device'}; "
            'give one of these, "auto", or None'
        )
    if kind == "cuda" and device and not device.isdecimal():
        raise ValueError(f"hwaccel {name!r}: a cuda device is a number, as in cuda:0")
    wanted = HWAccel(kind, device or None, allow_software_fallback=True)
    if reason := _failure(wanted, usable[kind]):
        others = [other for other in usable if other != kind and not _failure(HWAccel(other), usable[other])]
        raise CameraError(
            f"hwaccel {name!r} does not open here ({reason}); available: {', '.join(others) or 'none'}; "
            "check its driver, and that this process (or container) may use the device, or give "
            '"auto", which decodes on the CPU where there is no device'
        )
    return wanted


def device_types() -> dict[str, av.Codec]:
    """The types of device that this FFmpeg decodes with, best first, and a decoder that uses each.
    Whether there is such a device is another question."""
    found: dict[str, av.Codec] = {}
    for name in _CODECS:
        codec = av.Codec(name, "r")
        for config in codec.hardware_configs:
            if config.is_supported:
                found.setdefault(config.device_type.name, codec)
    return dict(sorted(found.items(), key=lambda item: item[0] in _LAST_RESORTS))


def _first(usable: dict[str, av.Codec]) -> HWAccel | None:
    reasons = []
    for kind, codec in usable.items():
        wanted = HWAccel(kind, allow_software_fallback=True)
        reason = _failure(wanted, codec)
        if not reason:
            log.info("hwaccel 'auto': decoding on %s", kind)
            return wanted
        reasons.append(f"{kind}: {reason}")
    log.info("hwaccel 'auto': decoding on the CPU (%s)", "; ".join(reasons) or "no type of device")
    return None


def _failure(wanted: HWAccel, codec: av.Codec) -> str:
    """Why the device does not open; "" if it does."""
    try:
        wanted.create(codec)  # and closed again, with the result
    except av.error.FFmpegError as e:
        # Not str(e): that has FFmpeg's last log line, of whichever thread, and perhaps with a password.
        return e.strerror or type(e).__name__
    return ""
