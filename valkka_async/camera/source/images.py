# SPDX-License-Identifier: MIT
"""Images from a stream of bytes: Motion JPEG as cameras send it over HTTP, and as files have it.

What is between them is for browsers, and servers write it as they like: boundaries that are not those which
they have announced, lengths that are wrong or missing, any words. An image says by itself where it begins and
where it ends. So that is believed, and an image is here with its last byte and not with the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LARGEST = 64 << 20  # bytes of an image
_CHUNK = 1 << 16
_MOST_BETWEEN = 1 << 20  # bytes between two of them
_BEGINS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP", re.DOTALL)
_LONGEST_BEGIN = 12
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # in what is encoded: none of those within it
_BARE = frozenset([0x01, *range(0xD0, 0xDA)])  # markers without a length
_SCAN, _BEGIN, _END = 0xDA, 0xD8, 0xD9
_RIFF = 12
_HEADER = re.compile(rb"\ncontent-type\s*:", re.IGNORECASE)
# What servers put before an image, and is at the end of one that has no end
_BETWEEN = re.compile(rb"(\r?\n)?[^\r\n\xff]{0,200}+\r?\n(?:[A-Za-z-]++[ \t]*+:[^\r\n\xff]*+\r?\n)++\r?\n\Z")
_BLANK = b"\n\n", b"\n\r\n"  # the line that they end with
_TAIL = 4096  # bytes that such words may have
_FORMATS = ((b"\xff\xd8\xff", "jpeg_pipe"), (b"\x89PNG", "png_pipe"), (b"RIFF", "webp_pipe"))


class NoImageError(ValueError):
    """These are no images, or one is larger than any camera's."""


def image_format(data: bytes) -> str:
    """FFmpeg's name for a format of these images; "": this does not begin with one that is known here."""
    begins = _BEGINS.match(data) is not None
    return next((name for begin, name in _FORMATS if begins and data.startswith(begin)), "")


class Images:
    """Reads the images one after the other. `read(n)` gives up to n bytes, as soon as there are some, and b""
    at the end."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = bytearray()
        self._ended = False
        self._ends = False  # images of this stream have an end of their own

    def next(self) -> bytes | None:
        """The next image, or None at the end. Raises what `read` does, and NoImageError."""
        while self._find():
            size = self._size()
            if size is None:
                return None
            image = bytes(self._buffer[:size])
            del self._buffer[:size]
            if not image.startswith(b"\xff\xd8") or image.endswith(b"\xff\xd9"):
                self._ends = True
                return image
            # One without an end. Some cameras never send it; of the others it is torn.
            if not self._ends and b"\xff\xda" in image:
                tail = image[-_TAIL:]
                if tail.endswith(_BLANK):
                    tail = _BETWEEN.sub(b"", tail)
                return image[:-_TAIL] + tail + b"\xff\xd9"
        return None

    def _more(self) -> bool:
        if self._ended:
            return False
        data = self._read(_CHUNK)
        self._ended = not data
        self._buffer += data
        return not self._ended

    def _find(self) -> bool:
        """Go to where the next image begins. False: there is none."""
        passed = 0
        while (match := _BEGINS.search(self._buffer)) is None:
            passed += (useless := max(0, len(self._buffer) - _LONGEST_BEGIN + 1))
            del self._buffer[:useless]
            if passed > _MOST_BETWEEN:
                raise NoImageError("there is no image in it")
            if not self._more():
                return False
        del self._buffer[: match.start()]
        return True

    def _has(self, size: int) -> bool:
        """Are there so many bytes? Waits for them."""
        if size > LARGEST:
            raise NoImageError("one image is too large")
        while len(self._buffer) < size:
            if not self._more():
                return False
        return True

    def _size(self) -> int | None:
        """How large the image at the beginning is. None: it has not come to its end."""
        if self._buffer.startswith(b"\xff\xd8"):
            return self._jpeg()
        if self._buffer.startswith(b"RIFF"):
            size = 8 + int.from_bytes(self._buffer[4:8], "little")
            return size if self._has(size + (size & 1)) else None
        return self._png()

    def _png(self) -> int | None:
        at = 8
        while self._has(at + 12):
            size, kind = int.from_bytes(self._buffer[at : at + 4], "big"), self._buffer[at + 4 : at + 8]
            at += 12 + size
            if kind == b"IEND":
                return at if self._has(at) else None
        return None

    def _jpeg(self) -> int | None:
        at, scan = 2, False
        while True:
            if scan:
                found = self._marker(at)
                if found is None:
                    return None if self._ends or len(self._buffer) < at else len(self._buffer)
                at, scan = found, False
            if not self._has(at + 2):
                return None
            if self._buffer[at] != 0xFF:  # this is no JPEG, or it is damaged: what follows tells
                scan = True
                continue
            kind = self._buffer[at + 1]
            if kind == 0xFF:  # filling
                at += 1
            elif kind == _END:
                return at + 2
            elif kind == _BEGIN:  # the next one
                return at
            elif kind in _BARE:
                at += 2
            elif not self._has(at + 4):
                return None
            else:
                scan = kind == _SCAN
                end = at + 2 + max(2, int.from_bytes(self._buffer[at + 2 : at + 4], "big"))
                self._has(end)
                if (match := _HEADER.search(self._buffer, at, end)) is not None:  # it is torn
                    return match.start()
                at = end

    def _marker(self, at: int) -> int | None:
        """Where the next marker is, from `at` on, in what is encoded."""
        while True:
            if (match := _MARKER.search(self._buffer, at)) is not None:
                return match.end() - 2
            at = max(at, len(self._buffer) - 1)
            if not self._has(len(self._buffer) + 1):
                return None
