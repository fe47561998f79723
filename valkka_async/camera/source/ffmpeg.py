# SPDX-License-Identifier: MIT
"""What PyAV's FFmpeg can open, which differs from one build to the next."""

from __future__ import annotations

import ctypes
import functools

import av.container.core
from av.format import ContainerFormat

from valkka_async.camera.source.schemes import HOSTED
from valkka_async.camera.source.secrets import parse
from valkka_async.camera.spec import CameraSpec

_DEMUXERS = {"rtsp": "rtsp", "satip": "rtsp", "sap": "sap"}  # protocols that are formats


def has_format(name: str) -> bool:
    """Does it read this format?"""
    try:
        ContainerFormat(name, "r")
    except ValueError:
        return False
    return True


@functools.cache
def protocols() -> frozenset[str]:
    """Those that it reads from; none: nobody knows. PyAV has no list of its own."""
    try:
        enum = ctypes.PyDLL(av.container.core.__file__).avio_enum_protocols
    except (AttributeError, OSError):  # not visible in this build
        return frozenset()
    enum.restype = ctypes.c_char_p
    names, state = set(), ctypes.c_void_p()
    while name := enum(ctypes.byref(state), 0):
        names.add(name.decode())
    return frozenset(names)


def has_protocol(scheme: str) -> bool:
    """Does it open such addresses, as far as is known?"""
    if scheme in _DEMUXERS:
        return has_format(_DEMUXERS[scheme])
    known = protocols()
    return not known or ("tls" if scheme == "rtsps" else scheme) in known


def lacks(spec: CameraSpec) -> tuple[tuple[str, ...], str] | None:
    """Where a camera's settings ask for what this FFmpeg does not have, and that in words. None: nowhere."""
    if spec.input_format is not None and not has_format(spec.input_format):
        return ("input_format",), no_format(spec.input_format)
    for stream, url in spec.urls.items():
        place = ("streams", stream) if stream else ("url",)
        scheme = parse(url).scheme
        if scheme in HOSTED and not has_protocol(scheme):
            return place, no_protocol(scheme)
        if scheme == "v4l2" and not has_format("v4l2"):
            return place, no_format("v4l2")
    return None


def no_protocol(scheme: str) -> str:
    """What to do without it."""
    return (
        f"this FFmpeg has no {scheme}://; use another address of the camera, or a PyAV built on an FFmpeg "
        "that has it"
    )


def no_format(name: str) -> str:
    """The same for a format."""
    return f"this FFmpeg reads no format of the name {name!r}"
