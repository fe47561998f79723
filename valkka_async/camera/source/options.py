# SPDX-License-Identifier: MIT
"""How FFmpeg is to open an address: in which format, with which options."""

from __future__ import annotations

import re
from functools import partial
from urllib.parse import urlsplit

from valkka_async.camera.source import units
from valkka_async.camera.source.secrets import Address
from valkka_async.camera.source.tls import Trust
from valkka_async.camera.spec import Transport

LOCAL = {"file", "lavfi"}
MAYBE_FILES = {"http", "https"}
TLS = {"rtsps": 322, "https": 443, "rtmps": 443, "tls": 443}  # protocols that have it, and their ports
# Formats that are live wherever they come from: devices, and what describes a stream that comes by itself
DEVICES = {"v4l2", "video4linux2", "x11grab", "kmsgrab", "fbdev"}
DESCRIBED = {"sdp", "rtp", "sap"}
_OVER = {"tcp": "tcp", "udp": "udp", "multicast": "udp_multicast", "http": "http"}  # FFmpeg's rtsp_transport
# What an SDP may have FFmpeg open. Where it comes over HTTP, what that needs as well
_MAY_OPEN = "file,crypto,data,rtp,srtp,udp,tcp"
_MAY_OPEN_TOO = ",http,https,httpproxy,tls"
_AT_MOST = "500000"  # us of a live stream, to find out what it has: then it is open within a second
# The same, for sound that will come; and of a file
_PATIENTLY = {"analyzeduration": "5000000", "probesize": str(32 << 20)}
_FURTHER = {"analyzeduration": "600000000", "probesize": str(64 << 20)}


def kind_of(address: Address) -> str | None:
    """The format of what is at an address, where FFmpeg has to be told."""
    if address.scheme in ("lavfi", "v4l2"):
        return address.scheme
    path = address.url
    if address.scheme in MAYBE_FILES:
        path = urlsplit(path).path
    elif address.scheme != "file":
        return None
    return "sdp" if path.lower().endswith(".sdp") else None


def with_password(address: Address) -> str:
    """The URL. FFmpeg does not give a user to a camera without a colon behind it: an empty password."""
    if address.scheme not in ("rtsp", "rtsps", *MAYBE_FILES):
        return address.url
    scheme, rest = address.url.split("://", 1)
    login = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[0]
    if not login or ":" in login:
        return address.url
    return f"{scheme}://{login}:{rest[len(login) :]}"


def options_for(
    address: Address,
    kind: str | None,
    *,
    transport: Transport,
    timeout: float,
    trust: Trust,
    mine: dict[str, str],
    quick: bool,
    sound: bool,
    patient: bool = False,
) -> list[dict[str, str]]:
    """FFmpeg's options to try to open an address with, one after the other. `mine`: the user's, which win;
    `timeout`: seconds for each read; the others as for Source."""
    if patient:
        mine = (_FURTHER if address.scheme == "file" else _PATIENTLY) | mine
    micro = str(int(timeout * 1e6))
    first = partial(_quick_first, mine=mine, quick=quick, sound=sound, tls=address.scheme == "rtsps")
    match address.scheme:
        case "rtsp" | "rtsps":
            over = _OVER[transport]
            if over == "http" and address.scheme == "rtsps":
                over = "https"
            options = {"rtsp_transport": over, "timeout": micro, **trust.options()}
            return first(options)
        case "file" | "http" | "https" if kind in DESCRIBED:
            may = _MAY_OPEN + (_MAY_OPEN_TOO if address.scheme != "file" else "")
            return first({"protocol_whitelist": may})
        case "http" | "https" | "tcp" | "udp":
            options = {"timeout": micro}
        case "v4l2":
            return [mine]
        case scheme if scheme not in LOCAL:
            options = {"rw_timeout": micro}
        case _:
            return [mine]
    if address.scheme in TLS:
        options |= trust.options()
    # FFmpeg would read twenty frames to learn a rate that is not needed, and wait for sound to come.
    options["fpsprobesize"] = "0"
    if "analyzeduration" in mine:
        return [options | mine]
    return [options | {"analyzeduration": _AT_MOST} | mine, options | mine]


def _quick_first(
    options: dict[str, str], *, mine: dict[str, str], quick: bool, sound: bool, tls: bool
) -> list[dict[str, str]]:
    """For what is described by an SDP."""
    options["buffer_size"] = str(1 << 20)  # of the UDP sockets: a key frame comes at once
    # What the SDP says is enough to decode, as a rule. Looking at the stream first takes
    # 1 to 2 s, which are then a backlog of old frames.
    media = "video+audio" if sound else "video"
    little = {"probesize": "32", "allowed_media_types": media}
    if not quick or mine.keys() & {"probesize", "analyzeduration", *little}:
        return [options | mine]
    attempts = [options | little | mine, options | mine]
    # Through TLS RTP's own times are not seen, and FFmpeg's may move in the middle of a frame.
    if "fflags" not in mine and not (sound and tls):
        attempts.insert(0, options | little | mine | {"fflags": units.UNPARSED})
    return attempts
