# SPDX-License-Identifier: MIT
"""Bytes of a live source over a connection of our own, for our reader of images or for FFmpeg.

Motion JPEG is read by ours (images.py). Whether it is that, only its first bytes tell; and a camera that has
room for one viewer should not be asked twice. So these are looked at, and FFmpeg gets the connection if it is
something else that has no end. It opens files, playlists and what is no answer of HTTP by their address.
"""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from valkka_async.camera.source.http import Client
from valkka_async.camera.source.images import Images, NoImageError, image_format
from valkka_async.camera.source.secrets import Address

IMAGES = frozenset({"mjpeg", "mpjpeg"})  # formats that are read here
_BY_ADDRESS = frozenset({"hls", "dash", "sdp", "mov", "mp4", "concat"})  # formats for which FFmpeg needs more
# Files, for which it seeks, and what has other addresses in it
_FILES = re.compile(r"\.(m3u8?|mpd|sdp|mp4|m4v|mov|avi|mkv|webm|3gp|wmv|asf|ogv)$", re.IGNORECASE)
_LISTS = re.compile(rb"\s*(#EXTM3U|<|v=0)")
_PARTS = re.compile(rb"\s*--.*\bcontent-type\s*:\s*image/", re.IGNORECASE | re.DOTALL)
# Options of FFmpeg's that change what is asked for
_ASKED_OTHERWISE = frozenset(
    """
    http_proxy post_data cookies referer method offset end_offset auth_type seekable location content_type
    chunked_post multiple_requests send_expect_100 icy reconnect reconnect_streamed listen cert_file key_file
    """.split()
)
_BARE = re.compile(
    rb"\x00?\x00\x00\x01[^\xba]", re.DOTALL
)  # a start code, which is not that of a pack (MPEG-PS)
_HEAD = 12  # bytes that tell
_LOOKED_AT = 4096


class Live:
    """One connection. `images`: the reader of what it sends, if that is images; else `read` is for FFmpeg."""

    def __init__(
        self,
        read: Callable[[int], bytes],
        close: Callable[[], None],
        head: bytes,
        *,
        as_images: bool,
        still: bool,
    ) -> None:
        self._read = read
        self._close = close
        self._head = head
        # It is bare H.264, H.265 or MPEG-4: what there is to know is in its first frame.
        self.bare = bool(_BARE.match(head))
        self.images = Images(self.read) if as_images else None
        self.still = still  # it is one image, most likely

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, as soon as there are some; b"" at the end."""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._read(size)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._close()


def is_for_ours(address: Address, kind: str | None, options: Mapping[str, str]) -> bool:
    """Is it an address that is to be opened here? `kind`: its format, if that was said."""
    if kind in _BY_ADDRESS:
        return False
    if address.scheme == "tcp":
        return "?" not in address.url
    if address.scheme not in ("http", "https") or options.keys() & _ASKED_OTHERWISE:
        return False
    parts = urlsplit(address.url)
    if kind is None and _FILES.search(parts.path):
        return False
    proxied = address.scheme in getproxies() and not proxy_bypass(parts.hostname or "")
    return not proxied


def over_tcp(address: Address, timeout: float, kind: str | None) -> Live:
    """Connect. Blocks until the first bytes are here. Raises OSError."""
    parts = urlsplit(address.url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout)
    connection.settimeout(None)  # from here on whoever calls sees to that
    try:
        head = b"" if kind is not None else _begin(connection.recv)
    except BaseException:
        connection.close()
        raise
    images = kind in IMAGES or (kind is None and bool(image_format(head)))
    return Live(connection.recv, connection.close, head, as_images=images, still=False)


def over_http(client: Client, kind: str | None) -> Live | None:
    """Ask for what is there. Blocks until the first bytes are here. None: FFmpeg has to open it by its
    address. Raises what Client.get() does."""
    try:
        response = client.get()
    except http.client.HTTPException:  # no answer that is known here; FFmpeg forgives more
        client.close()
        return None
    live: Live | None = None
    try:
        live = _look(client, response, kind)
        return live
    finally:
        if live is None:
            response.close()
            client.close()


def _look(client: Client, response: http.client.HTTPResponse, kind: str | None) -> Live | None:
    length = response.length

    def close() -> None:
        response.close()
        client.close()

    def read(size: int) -> bytes:
        data = response.read1(size)
        if not data:
            if response.length:
                raise ConnectionResetError("it ended before its end")
            client.done(response)
        return data

    head = _begin(read)
    content = response.getheader("Content-Type", "").lower()
    parts = content.startswith("multipart/") or bool(_PARTS.match(head))
    if kind in IMAGES or (kind is None and (parts or image_format(head))):
        return Live(read, close, head, as_images=True, still=not parts)
    if kind is None and content.startswith("text/html"):
        raise NoImageError("it is a web page")
    endless = length is None and not _LISTS.match(head)
    return Live(read, close, head, as_images=False, still=False) if endless else None


def _begin(read: Callable[[int], bytes]) -> bytes:
    head = b""
    while len(head) < _HEAD and (data := read(_LOOKED_AT)):
        head += data
    return head
