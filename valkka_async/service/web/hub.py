# SPDX-License-Identifier: MIT
"""One reader of one of a camera's rings, for all browsers that look at it."""

from __future__ import annotations

import asyncio
import json
import logging

from valkka_async.camera.mp4 import boxes
from valkka_async.camera.status import CameraState
from valkka_async.errors import ConnectError, ConnectionClosed
from valkka_async.ring.client import Client, connect
from valkka_async.ring.frame import Frame
from valkka_async.ring.policy import Policy
from valkka_async.service.web.contract import Find, Status
from valkka_async.service.web.viewer import DELTA, INIT, JPEG, KEY, Ending, Init, Media, Viewer, pack

FORMATS = {"fmp4": "live", "jpeg": "still"}  # the format of a ring: where a camera's status names that ring

_QUIET = 2.0  # s without a frame after which we look what is the matter with the camera
_SILENT = 10.0  # s without a frame after which there are none, whatever the camera's state
_AGAIN = 1.0  # s until the next attempt at a ring that refuses us or has not what it should have
_BREATH = 0.25  # s between a ring that has ended and the next look at the camera, which may be gone too
_BACKLOG_BYTES = 16 << 20
_BACKLOG_FRAMES = 1500

log = logging.getLogger("valkka_async.service.web")

NO_CAMERA = 4404


class _Other(Exception):
    """The ring has not what it should have."""


class _Elsewhere(Exception):
    """The camera has another ring now."""


class Hub:
    """Reads while it runs, and hands each frame to all viewers: copied out of the ring once.

    It keeps the frames from the last key frame on for those who join, unless they are too many. A ring that
    ends is waited for; a camera that is no more ends the viewers and the hub.
    """

    def __init__(self, camera: str, format: str, find: Find) -> None:
        self.camera = camera
        self.format = format
        self.viewers: set[Viewer] = set()
        self._find = find
        self._header = b""
        self._init: Init | None = None
        self._timeline = 0
        self._decoded_at = 0  # of the newest frame, on the stream's time axis
        self._backlog: list[Media] | None = None
        self._backlog_bytes = 0
        self._notice = ""

    # ---------------------------------------------------------------------------------- viewers

    def join(self) -> Viewer:
        """A new viewer, with what there is already."""
        viewer = Viewer(newest=self.format == "jpeg")
        if self._backlog:
            viewer.begin(self._backlog)
        elif self._notice:
            viewer.say(self._notice)
        self.viewers.add(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """It wants no more."""
        self.viewers.discard(viewer)

    def end(self, ending: Ending) -> None:
        """End all viewers."""
        for viewer in self.viewers:
            viewer.end(ending)

    # ---------------------------------------------------------------------------------- reading

    async def run(self) -> None:
        """Read until there is no such camera, which all viewers are told. To be cancelled."""
        while True:
            camera = self._find(self.camera)
            ring = camera[FORMATS[self.format]] if camera is not None else None
            if camera is None or ring is None:
                what = "no such camera" if camera is None else "no live video of this camera"
                self.end(Ending(NO_CAMERA, what))
                return
            if camera["state"] != CameraState.LIVE:
                self._say(_trouble(camera))
            # Lossless would make the camera wait for us; a JPEG needs none but the newest.
            policy: Policy = "latest" if self.format == "jpeg" else "ordered"
            try:
                async with connect(ring, policy=policy, open_timeout=_QUIET) as client:
                    await self._follow(client, ring)
            except TimeoutError:
                self._say(_trouble(camera))
            except (ConnectionClosed, _Elsewhere):
                await asyncio.sleep(_BREATH)
            except (ConnectError, _Other) as e:
                if self._say(str(e)):
                    log.warning("%s: no live video: %s", self.camera, e)
                await asyncio.sleep(_AGAIN)

    async def _follow(self, client: Client, ring: str) -> None:
        """Read one connection. Raises ConnectionClosed, ConnectError, _Elsewhere, _Other; no TimeoutError."""
        self._header = b""  # a server that was started anew has a time axis of its own
        any_yet = False
        silent = 0.0
        while True:
            try:
                async with asyncio.timeout(_QUIET):
                    frame = await client.recv()
            except TimeoutError:
                silent += _QUIET
                self._look(ring, silent)
                continue
            with frame:
                # Those before the first are none that it missed, and of JPEGs only the newest is wanted.
                missed = frame.dropped if any_yet and self.format == "fmp4" else 0
                self._take(frame, client.header, missed)
            any_yet, silent = True, 0.0

    def _look(self, ring: str, silent: float) -> None:
        """No frame has come for a while."""
        camera = self._find(self.camera)
        if camera is None or camera[FORMATS[self.format]] != ring:
            raise _Elsewhere
        if camera["state"] != CameraState.LIVE:
            self._say(_trouble(camera))
        elif silent >= _SILENT:
            self._say(f"no picture for {silent:.0f} s")

    def _say(self, reason: str) -> bool:
        """There are no frames. What there was is old: who joins must not take it for new. False: that was
        said before."""
        self._drop_backlog()
        notice = json.dumps({"type": "waiting", "reason": reason})
        if notice == self._notice:
            return False
        self._notice = notice
        for viewer in self.viewers:
            viewer.say(notice)
        return True

    def _take(self, frame: Frame, header: bytes, missed: int) -> None:
        if frame.format != self.format:
            raise _Other(f"the ring {frame.source!r} has {frame.format} and not {self.format}")
        if self.format == "jpeg":
            media = Media(None, True, pack(JPEG, frame.timestamp_ns, frame.data))
        else:
            init = self._init_for(frame, header)
            kind = KEY if frame.key else DELTA
            media = Media(init, frame.key, pack(kind, frame.timestamp_ns, frame.data))
        self._notice = ""
        self._keep(media, missed)
        for viewer in self.viewers:
            if missed:
                viewer.miss(missed)
            viewer.offer(media)

    def _init_for(self, frame: Frame, header: bytes) -> Init:
        """What the frame needs; the same object as long as the frames follow each other."""
        try:
            time = _decode_time(frame.data)
            anew = not self._header or time < self._decoded_at
            if anew:
                self._timeline += 1
            if anew or header != self._header or self._init is None:
                width, height = boxes.picture_size(header)
                self._init = Init(
                    data=pack(INIT, frame.timestamp_ns, header),
                    codec=boxes.codec_string(header),
                    width=width,
                    height=height,
                    timeline=self._timeline,
                )
                self._header = header
        except ValueError as e:
            raise _Other(f"the ring {frame.source!r} cannot be shown: {e}") from None
        self._decoded_at = time
        return self._init

    def _keep(self, media: Media, missed: int) -> None:
        if media.key:
            self._backlog, self._backlog_bytes = [], 0
        elif missed:
            self._drop_backlog()
        if self._backlog is not None:
            self._backlog.append(media)
            self._backlog_bytes += len(media.data)
            if self._backlog_bytes > _BACKLOG_BYTES or len(self._backlog) > _BACKLOG_FRAMES:
                self._drop_backlog()

    def _drop_backlog(self) -> None:
        self._backlog, self._backlog_bytes = None, 0


def _decode_time(data: memoryview) -> int:
    """Of a fragment, of which only the moof box is copied. Raises ValueError."""
    size = int.from_bytes(data[:4], "big")
    return boxes.decode_time(bytes(data[:size]))


def _trouble(camera: Status) -> str:
    state, reason = camera["state"], camera["reason"]
    if state == CameraState.LIVE:
        return "no picture yet"
    return f"{state}: {reason}" if reason else str(state)
