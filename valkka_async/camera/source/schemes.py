# SPDX-License-Identifier: MIT
"""What FFmpeg opens: the schemes of its URLs, whichever of them were compiled in. No PyAV here.

A misspelt scheme is told apart from the name of a file, and refused before anybody waits for the camera.
"""

from __future__ import annotations

import re

# "scheme://host...": network protocols (libavformat/protocols.c), and demuxers with URLs (rtsp.c, sapdec.c)
HOSTED = frozenset(
    """
    rtsp rtsps satip http https rtmp rtmps rtmpt rtmpts rtmpe rtmpte ffrtmphttp ffrtmpcrypt srt rtp srtp udp
    udplite tcp tls dtls sctp rist prompeg sap ftp sftp smb gopher gophers mms mmsh mmst icecast httpproxy
    amqp ipfs ipns
    """.split()
)
# "scheme:anything": local, or around another address
WRAPPING = frozenset(
    """
    async bluray cache concat concatf crypto data dvd fd file hls md5 pipe shared subfile tee unix zmq
    android_content
    """.split()
)
_DEVICE = re.compile(r"(?:v4l2|video4linux2):(?://)?(.*)", re.DOTALL | re.IGNORECASE)
_DEVICE_PATH = re.compile(r"/dev/(video\d+|v4l/.+)", re.DOTALL)
_NUMBER = re.compile(r"/*(?:dev/)?(?:video)?(\d{1,3})", re.ASCII)
_LOCAL = frozenset({"lavfi", "v4l2", "video4linux2"})  # what is a format for FFmpeg
_OUTER = ("crypto+", "hls+")  # crypto+http://...
_COMMON = ("rtsp", "http", "https", "rtsps", "rtmp", "srt", "udp")  # the likelier ones first

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_SLASHES = re.compile(r"([A-Za-z]+)\s*[;:.,]?\s*[/\\]{2}")  # rtsp//host, rtsp ://host, http:\\host
# What no name of a file has: an address within it; a login in a path that does not begin like one
_WITHIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[/\\]{2}|(:[/\\]|[/\\]{2}).*@", re.DOTALL)
_ANYWHERE = re.compile(
    rf"{_WITHIN.pattern}|:.*@|\b({'|'.join(sorted(HOSTED))})\s*([:;\uff1a]|[.,]?\s*[/\\])",
    re.DOTALL | re.IGNORECASE,
)
_PATHS = ("/", "./", "../", "~")
_QUOTES = tuple("\"'`\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a<([{")
_OR_PATH = " (or ./NAME for a file of that name)"
# camera.local:554/live, localhost:8554, 10.0.0.7/live
_HOST = re.compile(r"(localhost|[\w-]+(\.[\w-]+)+):\d+(/|$)|\d{1,3}(\.\d{1,3}){3}(/|$)")
_TO_FFMPEG = re.compile(r"[A-Za-z0-9+.-]+:")  # what FFmpeg takes for a scheme at the beginning of a path
_LONGEST = 20  # letters of a scheme
_LEAST = 4  # letters in a word of which a misspelling is recognised where it could be a file's name, too


def check(text: str) -> None:
    """Raises ValueError for what is meant as an address and is none that FFmpeg could open. The message
    repeats nothing of it but the names of protocols."""
    match = _SCHEME.match(text)
    if match is not None:
        scheme, slashes = match[1].lower(), match[2]
        for outer in _OUTER:
            scheme = scheme.removeprefix(outer) if slashes else scheme
        if scheme in WRAPPING | _LOCAL or (slashes and scheme in HOSTED):
            return
        if slashes:
            near = nearest(scheme)
            hint = f"did you mean {near}://?" if near else f"cameras have {', '.join(_COMMON)}"
            raise ValueError(f"there is no protocol of that name; {hint}")
        if scheme in HOSTED:
            raise ValueError(f"{_an(scheme)} address is written {scheme}://HOST/PATH{_OR_PATH}")
        if len(scheme) >= _LEAST:
            rest = text[match.end() :]
            near = nearest(scheme, 1)
            if near and rest.startswith(("/", "\\")):
                raise ValueError(f"did you mean {near}://HOST/PATH?{_OR_PATH}")
            if distance(scheme, "lavfi") == 1:
                raise ValueError(f"did you mean lavfi:GRAPH?{_OR_PATH}")
    match = _SLASHES.match(text)
    if match is not None and match[1].lower() in HOSTED:
        raise ValueError(
            f"{_an(match[1].lower())} address is written {match[1].lower()}://HOST/PATH{_OR_PATH}"
        )
    if _HOST.match(text):
        raise ValueError(f"an address begins with its protocol, as in rtsp://HOST/PATH{_OR_PATH}")


def device(text: str) -> str | None:
    """The path of a video device: of /dev/video0, v4l2:///dev/video0 or v4l2://0. None: it is none. Raises
    ValueError for one that cannot be, whose message repeats nothing of it."""
    if _DEVICE_PATH.fullmatch(text):
        return text
    match = _DEVICE.fullmatch(text)
    if match is None:
        return None
    path = match[1]
    if (number := _NUMBER.fullmatch(path)) is not None:
        return f"/dev/video{int(number[1])}"
    if not path.startswith("/") or path.startswith("//") or "?" in path or "@" in path:
        raise ValueError(
            "a video device is written /dev/video0 or v4l2:///dev/video0; its settings are options: "
            "video_size, framerate, input_format"
        )
    return path


def check_path(text: str) -> None:
    """Raises ValueError for what would be a file's path and is rather an address, with something before it or
    in it that does not belong there. As check()."""
    path = text.startswith(_PATHS)
    if text.startswith(_QUOTES) and (":" in text or "@" in text):
        raise ValueError(f"there are quotes around it, or brackets: remove them{_OR_PATH}")
    if _WITHIN.search(text) if path else _ANYWHERE.search(text):
        raise ValueError(
            f"it is no path, and as an address it would begin with its protocol, as in rtsp://HOST/PATH{_OR_PATH}"
        )


def wraps(text: str) -> bool:
    """Is it of a protocol that may have another address in it, or is local?"""
    match = _TO_FFMPEG.match(text)
    return text.startswith("subfile,") or (match is not None and match[0][:-1].lower() in WRAPPING)


def as_path(text: str) -> str:
    """The path of a file as FFmpeg has to be given it, which takes what is before a colon for a protocol."""
    return text if wraps(text) or not _TO_FFMPEG.match(text) else f"file:{text}"


def nearest(scheme: str, most: int = 2) -> str:
    """The network scheme whose spelling is nearest, with so many letters wrong at most; "": there is none."""
    if len(scheme) > _LONGEST:
        return ""
    apart = {known: distance(scheme, known) for known in HOSTED}
    best = min(apart.values())
    if best > min(most, len(scheme) // 2):
        return ""
    likely = [known for known in (*_COMMON, *sorted(HOSTED)) if apart[known] == best]
    return likely[0]


def distance(a: str, b: str) -> int:
    """How many letters are wrong, missing, too many or in the wrong order."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, start=1):
        row = [i]
        for j, y in enumerate(b, start=1):
            wrong = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and (x, a[i - 2]) == (b[j - 2], y):
                wrong = min(wrong, rows[-2][j - 2] + 1)
            row.append(wrong)
        rows.append(row)
    return rows[-1][-1]


def _an(scheme: str) -> str:
    return f"an {scheme}" if scheme[0] in "aefhimrs" else f"a {scheme}"
