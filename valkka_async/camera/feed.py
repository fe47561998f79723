# SPDX-License-Identifier: MIT
"""One connection's packets on their way into rings: only what readers need is decoded."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from av.video.frame import VideoFrame

from valkka_async.camera.decode import Decoder, another_context
from valkka_async.camera.follow import Follower
from valkka_async.camera.gop import Gop
from valkka_async.camera.lag import Lag
from valkka_async.camera.meter import Meter
from valkka_async.camera.outputs import FragmentRing, PacketRing, PixelRing
from valkka_async.camera.pace import FileClock, LiveClock
from valkka_async.camera.sound.sound import Sound, SoundMeter
from valkka_async.camera.source.geometry import Geometry
from valkka_async.camera.source.packet import SoundPacket, VideoPacket
from valkka_async.camera.source.rational import fraction
from valkka_async.camera.source.sendertime import Stamp, sender_time_ns
from valkka_async.camera.source.sets import ParameterSets
from valkka_async.camera.source.source import Source
from valkka_async.errors import CameraFormatError

_UNDECODABLE = 30.0  # s of packets in the decoder without a frame
_AT_LEAST = 3  # so many packets: one that was damaged on its way is no sign of anything
_KEYLESS = 30.0  # s without a key frame after which the decoder has to do without one
_FEW = 2  # packets, which are decoded at once
_WAIT = 0.1  # s, and half a frame's time, that are waited for a decoder that catches up
_NO_KEY = 2.0  # s that readers wait for a key frame, before the status says so
# Codecs that need no more than extradata to be decoded, so that there may be several decoders
_OWN_CONTEXT = frozenset("h264 hevc av1 vp8 vp9 mpeg4 mpeg1video mpeg2video".split())


class Feed:
    """Made for each connection, whose packets and frames have their times from `clock`.

    There are three decoders at most: one goes on from frame to frame, where readers need that; one takes key
    frames by themselves; and one comes up from the last key frame to now, beside all this (follow.py), to be
    the first of the three.

    Where packets lie unread for too long (lag.py), as decoding is slower than the camera, the decoder steps
    aside: it goes on like the third one, and its frames are shown meanwhile, until it has come up to now or
    there is a key frame. `paced`: packets have waited for their turn here, so that says nothing.
    """

    def __init__(
        self,
        source: Source,
        rings: Sequence[PixelRing | PacketRing | FragmentRing],
        meter: Meter,
        clock: LiveClock | FileClock,
        thread_count: int,
        sound: SoundMeter,
        *,
        paced: bool = False,
    ) -> None:
        self._address = source.address
        self._pixels = [ring for ring in rings if isinstance(ring, PixelRing)]
        self._streams = [ring for ring in rings if not isinstance(ring, PixelRing)]
        self._meter = meter
        self._errors_before = meter.errors
        self._packets_before = meter.packets
        self._base = fraction(source.stream.time_base)  # of every packet and frame
        aspect = fraction(source.stream.sample_aspect_ratio)
        self._aspect = aspect.as_integer_ratio() if aspect and aspect != 1 else None
        codec = source.stream.codec_context.codec
        self._intra = codec.intra_only or codec.name == "wrapped_avframe"  # of lavfi: not even encoded
        self._source, self._thread_count = source, thread_count
        self._shares = codec.canonical_name not in _OWN_CONTEXT  # all decoders are one
        self._decoder: Decoder[Stamp] = Decoder(source.stream.codec_context, thread_count, prompt=source.live)
        self._other: Decoder[Stamp] | None = None  # for key frames by themselves
        self._follower: Follower | None = None
        self._left: list[Follower] = []  # that end by themselves
        self._errors = 0  # of decoders that are gone
        self._clock = clock
        self._lag = Lag() if source.live and not paced else None
        self._unread_ns = 0  # so long the newest packet lay
        # They want a key frame by itself that came meanwhile, or (False) came themselves
        self._missed: dict[PixelRing, bool] = {}
        self._resumes = False  # frames were left out, and those that come need them
        # So many frames they saw late, each in place of one that is or will be left out
        self._late: Counter[PixelRing] = Counter()
        self._caught_up: list[tuple[VideoFrame, Stamp]] = []  # what came last of who has done so
        self._geometry = Geometry(source.stream)
        self._sets = ParameterSets(source.stream)
        eager = any(ring.eager for ring in self._pixels)
        self._going = eager  # the decoder has had all since it was begun with
        self._blind = False  # that was no key frame
        self._gradual = False  # key frames only begin to be some: the encoder refreshes frames bit by bit
        self._newest_key: tuple[VideoPacket, Stamp] | None = None
        self._key_known = False  # there was a key frame
        self._wanted_since: float | None = None  # frames for which there is no key frame
        self._remembers = not self._intra and (source.live or not eager)
        self._gop = Gop(source.stream, self._sets)
        self._key = time.monotonic()  # when there was a key frame
        self._in_vain = 0  # packets in the decoder since it gave a frame
        self._tried = 0.0  # when the first of these was
        self._decoded = False  # it has given one
        self._sound: Sound | None = None
        if (heard := source.sound) is not None:
            # RTP's clocks are each stream's own. When a burst came says nothing of what is in it.
            live = source.live and not source.bursts
            self._sound = Sound(heard, sound, source.address, live=live, shared=not source.is_rtp)
        for ring in self._streams:
            ring.begin(source.stream)
            if isinstance(ring, FragmentRing) and self._sound is not None:
                ring.hear((), self._sound.format)

    def _hear(self, packet: SoundPacket, arrival_ns: int) -> None:
        assert self._sound is not None
        takers = [ring for ring in self._streams if isinstance(ring, FragmentRing) and ring.listens]
        if not takers:
            self._sound.skip(packet)
            return
        samples = self._sound.take(packet, arrival_ns)
        for ring in takers:
            ring.hear(samples, self._sound.format)

    def take(
        self, packet: VideoPacket, arrival_ns: int, heard: Sequence[tuple[SoundPacket, int]] = ()
    ) -> None:
        """Take a packet, or one without data: the end of the stream; and those of sound that came before it.
        Raises CameraFormatError when packets go into the decoder for long and no frame comes out."""
        ticks = packet.dts if packet.dts is not None else packet.pts
        packet = self._sets.complete(packet)
        behind = self._note_lag(packet, ticks)
        arrival_ns -= self._unread_ns
        for one, at in heard:  # they came before it, also those that lay there with it
            self._hear(one, min(at, arrival_ns) if self._unread_ns else at)
        stamp = Stamp(arrival_ns, sender_time_ns(packet) if packet.size else None)
        stamp = stamp.as_key(arrival_ns) if packet.is_keyframe else stamp
        seconds = self._clock.seconds(ticks, self._base, arrival_ns)
        self._caught_up = []
        if packet.size:
            exact = self._source.waited is not False
            seconds = self._clock.tick(ticks, self._base, arrival_ns, exact=exact)
            known = self._gop.packets
            if self._clock.disagrees and not self._meter.clock_disagrees and known:  # wrong before, too
                known[:] = [(p, at.at(self._clock.seconds(None, None, at.arrival_ns))) for p, at in known]
            self._meter.clock_disagrees = self._clock.disagrees
            self._meter.take(packet, seconds)
            if packet.is_keyframe and (said := self._geometry.look(packet)) is not None:
                self._meter.size = said.size
            # Over RTSP the first packet has no time, and the second one tells it.
            untimed = ticks is None and self._meter.packets - self._packets_before > 1
            if self._clock.disagrees or untimed:
                stamp = stamp.at(seconds)
            if self._sound is not None:
                self._show_sound(packet, stamp)
            for ring in self._streams:
                ring.take(packet, stamp, self._gop.packets or (), self._address)
            follower = self._follower
            if follower is not None and not (behind or follower.idle) and follower.caught_up():
                newest = self._take_over()
                self._caught_up = newest if self._resumes else []
            elif self._follower is not None:
                self._follower.feed(packet, stamp)
            if self._remembers:
                self._remember(packet, stamp)
        came = [ring for ring in self._pixels if ring.asleep]
        wanting = [ring for ring in self._pixels if ring.wanted()]
        self._note_keyless(bool(wanting) and not self._intra)
        if behind:
            self._leave_out(packet, stamp, wanting, came)
            return
        if self._intra:
            takers = [ring for ring in wanting if ring.admit(seconds)] if packet.size else wanting
            if takers:
                self._offer(self._decode(packet, stamp), takers)
        elif not self._gradual and all(map(self._by_keys, wanting)):
            self._take_keys(packet, stamp, seconds, wanting, came)
            self._take_all(packet, stamp, seconds, [])
        else:
            keys = [ring for ring in wanting if ring.output.key_frames and not self._gradual]
            if keys:
                self._take_keys(packet, stamp, seconds, keys, came)
            self._take_all(packet, stamp, seconds, [ring for ring in wanting if ring not in keys])
        self._missed.clear()
        if self._resumes and packet.size:
            self._resume(packet, wanting)
        if (
            self._in_vain >= _AT_LEAST
            and not self._blind
            and time.monotonic() - self._tried > _UNDECODABLE
            and self._in_vain > self._decoder.holds_back + self._gop.refresh
        ):
            raise self._undecodable()

    def _note_lag(self, packet: VideoPacket, ticks: int | None) -> bool:
        """Are too many packets unread?"""
        waited = self._source.waited
        if self._lag is None or self._shares:
            return False
        if waited is None or self._clock.disagrees:
            self._lag.forget()
            self._unread_ns = 0
        elif packet.size and ticks is not None and self._base is not None:
            seconds = ticks * self._base.numerator / self._base.denominator
            self._unread_ns = round(self._lag.note(seconds, time.monotonic(), waited) * 1e9)
        return self._lag.behind

    def _leave_out(
        self, packet: VideoPacket, stamp: Stamp, wanting: list[PixelRing], came: list[PixelRing]
    ) -> None:
        """Show nothing of this one, for there are more behind it."""
        self._pass_over(packet, wanting)
        for ring in wanting:
            if packet.is_keyframe or ring in came:
                self._missed[ring] = packet.is_keyframe or self._missed.get(ring, False)
        self._resumes = True
        if all(map(self._by_keys, wanting)):
            self._pause(packet, stamp)
        elif self._going:
            for ring in self._every(wanting):
                self._count_out(ring, self._decoder.holding)
            self._step_aside(packet, stamp, idle=False)

    def _resume(self, packet: VideoPacket, wanting: list[PixelRing]) -> None:
        """Frames are decoded again, or will be with the next key frame."""
        every = [ring for ring in wanting if not self._by_keys(ring)]
        self._resumes = bool(every) and not (self._going or self._intra)
        if self._resumes:
            self._meter.left_out = time.monotonic()
            self._pass_over(packet, every)

    def _pass_over(self, packet: VideoPacket, rings: list[PixelRing]) -> None:
        """They do not see this frame in its time. It counts, but for those that see another one for it."""
        for ring in rings:
            if not packet.is_keyframe and (ring.output.key_frames or self._by_keys(ring)):
                continue
            self._count_out(ring, 1)

    def _count_out(self, ring: PixelRing, frames: int) -> None:
        seen = min(frames, self._late[ring])
        self._late[ring] -= seen
        if frames > seen:
            ring.leave_out(frames - seen)
            self._meter.left_out = time.monotonic()

    def _by_keys(self, ring: PixelRing) -> bool:
        """Does it need nothing but key frames, each by itself?"""
        return not self._gradual and ring.key_frames_do(self._meter.key_interval)

    def _every(self, rings: list[PixelRing]) -> list[PixelRing]:
        """Those of them that want frame by frame."""
        return [ring for ring in rings if not (ring.output.key_frames or self._by_keys(ring))]

    def _show_sound(self, packet: VideoPacket, stamp: Stamp) -> None:
        """Tell the sound where the picture is."""
        assert self._sound is not None
        at = stamp.seconds
        if at is None and self._base is not None:
            ticks = packet.pts if packet.pts is not None else packet.dts
            at = None if ticks is None else ticks * self._base.numerator / self._base.denominator
        if at is not None:
            by_arrival = stamp.seconds is not None
            self._sound.picture(at, stamp.arrival_ns, stamp.sender_ns, by_arrival=by_arrival)

    def finish(self) -> None:
        """The stream has ended by itself. Raises CameraFormatError if packets were decoded in vain."""
        if self._in_vain and not self._decoded and not self._blind:
            raise self._undecodable()

    def end(self) -> None:
        """The connection is over."""
        self._end_follower()
        for follower in self._left:
            follower.join()
        for ring in self._streams:
            ring.end()
        for any_ring in (*self._pixels, *self._streams):
            any_ring.pause()

    def _undecodable(self) -> CameraFormatError:
        return CameraFormatError(
            f"{self._address}: no frame could be decoded from {self._meter.packets - self._packets_before} "
            f"packets ({self._meter.codec}); check that the camera sends what it says it does"
        )

    # ---------------------------------------------------------------------------------- decoding

    def _take_keys(
        self,
        packet: VideoPacket,
        stamp: Stamp,
        seconds: float,
        wanting: list[PixelRing],
        came: list[PixelRing],
    ) -> None:
        """Key frames, each by itself, for those who want them. `came`: who had no reader before."""
        newest = self._newest_key
        if packet.size and packet.is_keyframe:
            takers, newest = [ring for ring in wanting if ring.admit(seconds)], (packet, stamp)
        else:  # what there is to see until the next one comes
            takers = [ring for ring in wanting if ring in came or ring in self._missed]
            takers = [ring for ring in takers if newest and ring.takes(newest[1]) and ring.admit(seconds)]
            self._late.update(ring for ring in takers if self._missed.get(ring))
        if takers and newest is not None:
            if self._other is None:
                self._other = self._another()
            decoded = self._other.decode_alone(*newest)
            self._count(newest[0], decoded)
            self._offer(decoded[-1:], takers)
            self._going = self._going and self._other is not self._decoder

    def _take_all(self, packet: VideoPacket, stamp: Stamp, seconds: float, wanting: list[PixelRing]) -> None:
        """Frame by frame, for those who want more than key frames."""
        if not wanting:
            self._pause(packet, stamp)
            return
        if self._going:
            if self._resumes:
                self._show_caught_up(packet, self._caught_up, wanting)
            for frame, at in self._decode(packet, stamp):
                self._show(frame, at, self._clock.seconds(frame.pts, self._base, at.arrival_ns), wanting)
            return
        if not packet.size:
            return
        arrived = self._follower is None or self._follower.idle
        if self._follower is None:
            self._begin(packet, stamp, seconds, wanting)
        if (follower := self._follower) is None:
            return
        follower.idle = False
        if follower.lost:  # it could not keep up: the next key frame is waited for
            self._end_follower()
        elif arrived and follower.caught_up(min(_WAIT, 0.5 / (self._meter.fps or 25.0))):
            newest = self._take_over()
            if self._resumes:
                self._show_caught_up(packet, newest, wanting)
                return
            for frame, at in newest:
                self._count(packet, [(frame, at)])
                self._show(frame, at, seconds, wanting)
        elif self._resumes:
            self._show_late(packet, follower.newest(), wanting)

    def _take_over(self) -> list[tuple[VideoFrame, Stamp]]:
        """Go on with the decoder that has caught up. Returns the newest frame."""
        assert self._follower is not None
        self._retired()
        self._decoder, newest = self._follower.take()
        self._follower, self._going, self._blind = None, True, False
        return newest

    def _begin(self, packet: VideoPacket, stamp: Stamp, seconds: float, wanting: list[PixelRing]) -> None:
        """Find where to begin to decode, and do so, if there is something to begin at."""
        gop = self._gop.packets
        if gop and (len(gop) <= _FEW or self._shares):
            self._decoder.reset()
            self._going, self._blind = True, False
            newest: list[tuple[VideoFrame, Stamp]] = []
            for remembered, at in gop:
                newest = self._decode(remembered, at)[-1:] or newest
            for frame, at in newest:
                self._show(frame, at, seconds, wanting)
        elif gop:
            self._follower = Follower(self._another(), gop, idle=False)
        elif time.monotonic() - self._key > _KEYLESS:
            self._decoder.reset()
            self._going = self._blind = True
            self._offer(self._decode(packet, stamp), [ring for ring in wanting if ring.admit(seconds)])

    def _pause(self, packet: VideoPacket, stamp: Stamp) -> None:
        """Nobody wants all frames, from this packet on."""
        if self._going and not (self._gop.leads or self._shares):
            self._step_aside(packet, stamp, idle=True)  # it is not remembered how this has come about
        elif self._follower is not None and (self._gop.leads or self._follower.lost):
            self._end_follower()
        elif self._follower is not None:
            self._follower.idle = True
        self._going = self._blind = False
        self._in_vain = 0

    def _step_aside(self, packet: VideoPacket, stamp: Stamp, *, idle: bool) -> None:
        """Let the decoder go on beside, with this packet, which has gone into no decoder yet."""
        if not self._blind:
            packets = [(packet, stamp)] if packet.size else []
            self._follower = Follower(self._retired(), packets, idle=idle, instead=not idle)
            self._decoder = self._another()
        self._going = self._blind = False
        self._in_vain = 0

    def _end_follower(self) -> None:
        if self._follower is not None:
            self._follower.leave()
            self._left = [one for one in (*self._left, self._follower) if one.alive]
            self._follower = None

    def _another(self) -> Decoder[Stamp]:
        """A decoder of its own for the same stream, if there can be one."""
        if self._shares:
            return self._decoder
        context = another_context(self._source.stream, self._source.hwaccel)
        return Decoder(context, self._thread_count, prompt=self._source.live)

    def _retired(self) -> Decoder[Stamp]:
        """The decoder, whose errors have been counted."""
        self._errors += self._decoder.errors
        self._decoder.errors = 0
        return self._decoder

    def _note_keyless(self, wanted: bool) -> None:
        """Is there nothing that readers could be shown, and has been so for long?"""
        if not wanted or self._key_known or self._decoded:
            self._wanted_since, self._meter.keyless = None, False
            return
        now = time.monotonic()
        self._wanted_since = self._wanted_since or now
        self._meter.keyless = now - self._wanted_since > _NO_KEY

    def _decode(self, packet: VideoPacket, stamp: Stamp) -> list[tuple[VideoFrame, Stamp]]:
        decoded = self._decoder.decode(packet, stamp)
        self._count(packet, decoded)
        return decoded

    def _count(self, packet: VideoPacket, decoded: list[tuple[VideoFrame, Stamp]]) -> None:
        for frame, _ in decoded:
            self._meter.show(frame)
        there = self._decoder.errors
        if self._other is not None and self._other is not self._decoder:
            there += self._other.errors
        self._meter.errors = self._errors_before + self._errors + there
        if decoded:
            self._in_vain, self._decoded = 0, True
        elif packet.size and (not self._gop.refresh or self._gop.is_needed(packet)):
            if not self._in_vain:
                self._tried = time.monotonic()
            self._in_vain += 1

    def _show(
        self, frame: VideoFrame, at: Stamp, seconds: float, wanting: list[PixelRing]
    ) -> list[PixelRing]:
        """Offer a frame of this time to those who are due for one. Returns those who want such frames."""
        takers = [ring for ring in wanting if ring.takes(at)]
        self._offer([(frame, at)], [ring for ring in takers if ring.admit(seconds)])
        return takers

    def _show_late(
        self, packet: VideoPacket, newest: list[tuple[VideoFrame, Stamp]], wanting: list[PixelRing]
    ) -> None:
        """The same for what is older than can be wished, but newer than what was shown."""
        for frame, at in newest:
            self._count(packet, [(frame, at)])
            seconds = self._clock.seconds(frame.pts, self._base, at.arrival_ns)
            self._late.update(self._show(frame, at, seconds, wanting))

    def _show_caught_up(
        self, packet: VideoPacket, newest: list[tuple[VideoFrame, Stamp]], wanting: list[PixelRing]
    ) -> None:
        """The same for what the decoder gave last that caught up. What it has yet to give was left out."""
        self._late.update({ring: self._decoder.holding for ring in self._every(wanting)})
        self._show_late(packet, newest, wanting)

    def _offer(self, decoded: list[tuple[VideoFrame, Stamp]], takers: list[PixelRing]) -> None:
        for frame, stamp in decoded:
            if frame.rotation or self._aspect is not None:
                stamp = stamp.to_be_shown(frame.rotation, self._aspect)
            for ring in takers:
                ring.offer(frame, self._base, stamp, self._address)

    def _remember(self, packet: VideoPacket, stamp: Stamp) -> None:
        if packet.is_keyframe:
            self._key, self._key_known = time.monotonic(), True
            if self._blind:  # now it has something to begin at
                self._blind, self._in_vain = False, 0
            count = self._gop.begin(packet)
            self._gradual = count > 0
            if count:
                self._overtake(packet, stamp)
            else:
                self._newest_key = packet, stamp
                self._end_follower()  # there is a nearer way now
        if self._gop.add(packet, stamp) and self._follower is not None and self._follower.idle:
            self._end_follower()  # the same
        if self._gop.outgrown:
            assert self._gop.packets is not None
            if self._pixels and not (self._going or self._shares) and self._follower is None:
                self._follower = Follower(self._another(), self._gop.packets, idle=True)
            self._gop.packets = None

    def _overtake(self, packet: VideoPacket, stamp: Stamp) -> None:
        """Go on at this point, where the follower is later than the frames that then cannot be shown; but
        let it show as many before, or there would be none where these take longer than the next point."""
        follower = self._follower
        if follower is None or follower.idle or follower.waiting <= self._gop.refresh:
            return
        self._resumes = self._resumes or follower.falls_back
        if follower.given >= self._gop.refresh:
            self._end_follower()
            self._follower = Follower(
                self._another(), [(packet, stamp)], idle=False, instead=True, key_ns=stamp.key_ns
            )
