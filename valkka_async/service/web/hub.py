# SPDX-License-Identifier: MIT
"""One reader of one of a camera's rings, for all browsers that look at it."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum

from valkka_async.camera.mp4 import boxes, sound
from valkka_async.camera.status import CameraState
from valkka_async.errors import ConnectError, ConnectionClosed
from valkka_async.ring.client import Client, connect
from valkka_async.ring.frame import Frame
from valkka_async.ring.policy import Policy
from valkka_async.service.status import CameraReport
from valkka_async.service.web.contract import Find
from valkka_async.service.web.soundfill import SoundFill
from valkka_async.service.web.viewer import DELTA, INIT, JPEG, KEY, Ending, Init, Media, Notice, Viewer, pack
from valkka_async.timeouts import timeout

# The picture of fragmented MP4, the same with its sound, and JPEGs
FORMATS = ("fmp4", "sound", "jpeg")

_QUIET = 2.0  # s without a frame after which we look what is the matter with the camera
_SILENT = 10.0  # s without a frame after which there are none, whatever the camera's state
_AGAIN = 1.0  # s until the next attempt at a ring that refuses us or has not what it should have
_BREATH = 0.25  # s between a ring that has ended and the next look at the camera, which may be gone too
_OLD = 1.0  # s since it was captured, after which a frame is one that came before its first reader,
_CATCH_UP = 2.0  # if the ring gave us its first one less than so many s ago
_BACKLOG_BYTES = 16 << 20
_BACKLOG_FRAMES = 1500

log = logging.getLogger("valkka_async.service.web")

NO_CAMERA = 4404


class Trouble(StrEnum):
    """Why a viewer gets no frames. The page decides by this."""

    CAMERA = "camera"  # the camera is not live: its status says more
    NO_FRAMES = "no_frames"  # the camera is live, and no frame comes
    RING = "ring"  # the ring refuses its readers, or has something that cannot be shown


class _Other(Exception):
    """The ring has not what it should have."""


class _Elsewhere(Exception):
    """The camera has another ring now."""


class Hub:
    """Reads while it runs, and hands each frame to all viewers: copied out of the ring once.

    It has the frames from the last key frame on for viewers that join later, unless they are too many. A ring
    that ends is waited for; a camera that is removed ends the viewers and the hub.
    """

    def __init__(self, camera: str, format: str, find: Find) -> None:
        self.camera = camera
        self.format = format
        self.viewers: set[Viewer] = set()
        self._find = find
        self._segment = b""
        self._fill: SoundFill | None = None
        self._init: Init | None = None
        self._timeline = 0
        self._sounds = False  # there is a track of sound
        self._dts = 0  # of the newest frame
        self._caught_up = 0.0  # when old frames are no longer the camera's backlog
        self._backlog: list[Media] | None = None
        self._backlog_bytes = 0
        self._notice: Notice | None = None

    # ---------------------------------------------------------------------------------- viewers

    def join(self) -> Viewer:
        """A new viewer, with what there is already."""
        viewer = Viewer(newest=self.format == "jpeg")
        if self._backlog:
            viewer.begin(self._backlog)
        elif self._notice is not None:
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
            ring = self._ring(camera)
            if camera is None or ring is None:
                what = "no such camera" if camera is None else "no live video of this camera"
                self.end(Ending(NO_CAMERA, what))
                return
            if camera.feeding(ring).state != CameraState.LIVE:
                self._tell(camera, ring)
            # Lossless would make the camera wait for us; a JPEG needs none but the newest.
            policy: Policy = "latest" if self.format == "jpeg" else "ordered"
            try:
                async with connect(ring, policy=policy, open_timeout=_QUIET) as client:
                    await self._follow(client, ring)
            except TimeoutError:
                self._tell(camera, ring)
            except (ConnectionClosed, _Elsewhere):
                await asyncio.sleep(_BREATH)
            except (ConnectError, _Other) as e:
                if self._say(Trouble.RING, str(e)):
                    log.warning("%s: no live video: %s", self.camera, e, extra={"camera": self.camera})
                await asyncio.sleep(_AGAIN)

    async def _follow(self, client: Client, ring: str) -> None:
        """Read one connection. Raises ConnectionClosed, ConnectError, _Elsewhere, _Other; no TimeoutError."""
        self._segment = b""  # a server that was restarted has a time axis of its own
        any_yet = False
        silent = 0.0
        while True:
            try:
                async with timeout(_QUIET):
                    frame = await client.recv()
            except TimeoutError:
                silent += _QUIET
                self._look(ring, silent)
                continue
            with frame:
                # Those before the first are none that it missed, and of JPEGs only the newest is wanted.
                missed = frame.dropped if any_yet and self.format != "jpeg" else 0
                if not any_yet:
                    self._caught_up = asyncio.get_running_loop().time() + _CATCH_UP
                self._take(frame, client.header, missed)
            any_yet, silent = True, 0.0

    def _look(self, ring: str, silent: float) -> None:
        """No frame has come for a while."""
        camera = self._find(self.camera)
        if camera is None or self._ring(camera) != ring:
            raise _Elsewhere
        if camera.feeding(ring).state != CameraState.LIVE:
            self._tell(camera, ring)
        elif silent >= _SILENT:
            self._say(Trouble.NO_FRAMES, f"no frame for {silent:.0f} s")

    def _ring(self, camera: CameraReport | None) -> str | None:
        if camera is None:
            return None
        return camera.still if self.format == "jpeg" else camera.live

    def _tell(self, camera: CameraReport, ring: str) -> None:
        """Say why there are no frames, as far as the camera's status says it."""
        source = camera.feeding(ring)
        if source.state == CameraState.LIVE:
            self._say(Trouble.NO_FRAMES, "no frame yet")
        else:
            text = f"{source.state}: {source.reason}" if source.reason else source.state
            self._say(Trouble.CAMERA, text)

    def _say(self, code: Trouble, reason: str) -> bool:
        """There are no frames. The backlog is old: viewers that join must not take it for new. False: that
        was said before."""
        self._drop_backlog()
        notice = Notice(code, reason)
        if notice == self._notice:
            return False
        self._notice = notice
        for viewer in self.viewers:
            viewer.say(notice)
        return True

    def _take(self, frame: Frame, init_segment: bytes, missed: int) -> None:
        wanted = "jpeg" if self.format == "jpeg" else "fmp4"
        if frame.format != wanted:
            raise _Other(f"the ring {frame.source!r} has {frame.format} and not {wanted}")
        if self.format == "jpeg":
            media = Media(None, True, pack(JPEG, frame.timestamp_ns, frame.data))
        else:
            init = self._init_for(frame, init_segment)
            kind = KEY if frame.key else DELTA
            data = self._fragment(frame)
            media = Media(init, frame.key, pack(kind, frame.timestamp_ns, data, _shown(frame)))
        self._notice = None
        self._remember(media, missed)
        old = frame.age > _OLD and asyncio.get_running_loop().time() < self._caught_up
        for viewer in self.viewers:
            if missed:
                viewer.miss(missed)
            viewer.offer(media, old=old)

    def _fragment(self, frame: Frame) -> bytes | memoryview:
        """What is to be sent of it."""
        try:
            if self.format != "sound":
                return frame.data if sound.span(frame.data) is None else sound.fragment_without(frame.data)
            return (
                bytes(frame.data) if self._fill is None else self._fill.fill(bytes(frame.data), _pts(frame))
            )
        except ValueError as e:
            raise _Other(f"the ring {frame.source!r} cannot be shown: {e}") from None

    def _init_for(self, frame: Frame, init_segment: bytes) -> Init:
        """What the frame needs; the same object as long as the frames follow each other."""
        dts = frame.dts
        if dts is None:
            raise _Other(f"the ring {frame.source!r} cannot be shown: its frames have no dts")
        begins = not self._segment or dts < self._dts
        if begins:
            self._timeline += 1
        if begins or init_segment != self._segment or self._init is None:
            try:
                width, height = boxes.frame_size(init_segment)
                whole = self.format == "sound"
                shown = init_segment if whole else sound.init_without(init_segment)
                codec = boxes.codec_string(shown)
                about = boxes.sound_about(shown)
                self._fill = None if about is None else SoundFill(shown)
            except ValueError as e:
                raise _Other(f"the ring {frame.source!r} cannot be shown: {e}") from None
            # A browser cannot go on with more tracks, or fewer.
            if (about is not None) != self._sounds:
                self._sounds = about is not None
                self._timeline += not begins
            data = pack(INIT, frame.timestamp_ns, shown)
            self._init = Init(data, codec, width, height, self._timeline)
            self._segment = init_segment
        self._dts = dts
        return self._init

    def _remember(self, media: Media, missed: int) -> None:
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


def _shown(frame: Frame) -> float:
    """When a fragment is shown, in seconds on the stream's time axis."""
    return float(_pts(frame) * (frame.time_base or 0))


def _pts(frame: Frame) -> int:
    pts = frame.pts if frame.pts is not None else frame.dts
    return pts or 0
