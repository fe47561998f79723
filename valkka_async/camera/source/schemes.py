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
    async bluray cache concat concatf crypto data dvd fd file hls md5 pipe subfile tee unix zmq
    android_content
    """.split()
)
_OUTER = ("crypto+", "hls+")  # crypto+http://...
_COMMON = ("rtsp", "http", "https", "rtsps", "rtmp", "srt", "udp")  # the likelier ones first

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_SLASHES = re.compile(r"([A-Za-z]+)\s*[;:.,]?\s*[/\\]{2}")  # rtsp//host, rtsp ://host, http:\\host
_LOGIN = re.compile(r"[^/\s:@]+:.*@", re.DOTALL)  # me:secret@camera/live
# camera.local:554/live, localhost:8554, 10.0.0.7/live
_HOST = re.compile(r"(localhost|[\w-]+(\.[\w-]+)+):\d+(/|$)|\d{1,3}(\.\d{1,3}){3}(/|$)")
_TO_FFMPEG = re.compile(r"[A-Za-z0-9+.-]+:")  # what FFmpeg takes for a scheme at the beginning of a path
_LONGEST = 20  # letters of a scheme
_LEAST = 4  # letters in a word of which a misspelling is recognised where it could be a file's name, too


def check(text: str) -> None:
    """Raises ValueError for what is meant as an address and is none that FFmpeg could open. The message
    contains no credentials."""
    match = _SCHEME.match(text)
    if match is not None:
        scheme, slashes = match[1].lower(), match[2]
        for outer in _OUTER:
            scheme = scheme.removeprefix(outer) if slashes else scheme
        if scheme in WRAPPING or scheme == "lavfi" or (slashes and scheme in HOSTED):
            return
        if slashes:
            near = nearest(scheme)
            hint = f"did you mean {near}://?" if near else f"cameras have {', '.join(_COMMON)}"
            raise ValueError(f"there is no protocol {scheme}://; {hint}")
        if scheme in HOSTED:
            raise ValueError(f"{_an(scheme)} address is written {scheme}://HOST/PATH{_or_path(scheme + ':')}")
        if len(scheme) >= _LEAST:
            rest = text[match.end() :]
            near = nearest(scheme, 1)
            if near and rest.startswith(("/", "\\")):
                raise ValueError(f"did you mean {near}://HOST/PATH?{_or_path(scheme + ':')}")
            if distance(scheme, "lavfi") == 1:
                raise ValueError(f"did you mean lavfi:GRAPH?{_or_path(scheme + ':')}")
    match = _SLASHES.match(text)
    if match is not None and match[1].lower() in HOSTED:
        raise ValueError(
            f"{_an(match[1].lower())} address is written {match[1].lower()}://HOST/PATH{_or_path(match[1])}"
        )
    if _LOGIN.match(text) or _HOST.match(text):
        raise ValueError(f"an address begins with its protocol, as in rtsp://HOST/PATH{_or_path('')}")


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


def _or_path(begin: str) -> str:
    return f" (or ./{begin}... for a file of that name)"
