"""Sound in fragmented MP4: boxes that say what is meant, put in and taken out again."""

from __future__ import annotations

import io

import av
import pytest
from camera_tools import Clips

from support.playback import packets
from support.rtsp_sound import clicks
from valkka_async.camera.mp4 import boxes, sound
from valkka_async.camera.mp4.boxes import codec_string
from valkka_async.camera.mp4.fragments import Muxer
from valkka_async.camera.mp4.sound import Piece, SoundFormat
from valkka_async.camera.mp4.soundqueue import SoundQueue
from valkka_async.camera.mp4.timeline import TIMESCALE, Timeline
from valkka_async.camera.sound import headers
from valkka_async.camera.sound.carry import Sample

FORMATS = {
    "aac": (SoundFormat("aac", 16000, 1, bytes.fromhex("1408")), "mp4a.40.2"),
    "he-aac": (SoundFormat("aac", 24000, 2, bytes.fromhex("2b11880000")), "mp4a.40.5"),
    "aac that says much": (SoundFormat("aac", 16000, 1, bytes.fromhex("1408") + bytes(300)), "mp4a.40.2"),
    "opus": (SoundFormat("opus", 48000, 2), "opus"),
    "opus of a file": (
        SoundFormat("opus", 48000, 1, bytes.fromhex("4f707573486561640101380180bb0000000000")),
        "opus",
    ),
}


def film(clips: Clips, format: SoundFormat | None) -> tuple[bytes, list[bytes]]:
    """A clip with a sample of sound each 20 ms."""
    muxer, queue, fragments = None, SoundQueue(), []
    for stream, packet in packets(clips()):
        muxer = muxer or Muxer(stream, Timeline(0), format)
        at = (packet.pts or 0) / 25
        queue.put([Sample(at + n / 50, 0.02, bytes([n]) * 40) for n in range(2)], format)
        fragments += [one.data for one in muxer.mux(packet, 0, None, queue)]
    assert muxer is not None
    return muxer.init_segment, fragments


@pytest.mark.parametrize("kind", FORMATS)
def test_the_init_segment_says_how_sound_is_coded(clips: Clips, kind: str) -> None:
    format, name = FORMATS[kind]
    header, _ = film(clips, format)
    bare, _ = film(clips, None)
    assert (
        codec_string(header)
        == f"{codec_string(bare)},{name}"
        == f"{codec_string(bare)},{format.codec_string}"
    )
    about = boxes.sound_about(header)
    assert about is not None and (about.rate, about.channels) == (format.rate, format.channels)
    assert boxes.frame_size(header) == boxes.frame_size(bare)
    assert boxes.timescale(header) == boxes.timescale(bare)
    with av.open(io.BytesIO(header)) as container:
        (stream,) = container.streams.audio
        context = stream.codec_context
        assert context.name in ("aac", "opus", "libopus") and context.channels == format.channels
        if format.codec == "aac":
            assert bytes(context.extradata or b"") == format.config


def test_sound_that_is_taken_out_leaves_what_was_there_without_it(clips: Clips) -> None:
    header, fragments = film(clips, FORMATS["opus"][0])
    bare, pictures = film(clips, None)
    assert [sound.fragment_without(one) for one in fragments] == pictures
    assert [sound.fragment_without(one) for one in pictures] == pictures
    assert sound.init_without(bare) == bare
    with av.open(io.BytesIO(sound.init_without(header))) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert codec_string(sound.init_without(header)) == codec_string(bare)


def test_a_fragment_with_sound_can_be_taken_apart_and_put_together(clips: Clips) -> None:
    _, fragments = film(clips, FORMATS["aac"][0])
    for number, data in enumerate(fragments):
        parts = sound.parts(data)
        assert parts is not None and parts.whole() == data
        begin = number * TIMESCALE // 25
        assert parts.pieces == [Piece(begin + n * 1800, 1800, bytes([n]) * 40) for n in range(2)]
        assert sound.span(data) == (begin, begin + 3600)
        assert parts.decode_time == boxes.decode_time(data) == begin
        moved = bytearray(data)
        boxes.move(moved, 7, begin)
        assert sound.span(moved) == (0, 3600)


def test_sound_that_is_cut_off_is_said_to_be(clips: Clips) -> None:
    _, fragments = film(clips, FORMATS["aac"][0])
    data = fragments[0]
    for end in range(len(data)):
        try:
            parts = sound.parts(data[:end])
        except boxes.CutOff:
            continue
        assert parts is None


def test_sound_waits_for_the_fragment_of_its_time() -> None:
    queue, format = SoundQueue(), FORMATS["aac"][0]
    queue.put([Sample(n / 10, 0.1, bytes([n])) for n in range(10)], format)
    queue.begin(0)
    second = TIMESCALE // 10
    assert [one.data[0] for one in queue.due(format, 3 * second, 0)] == [0, 1, 2]
    assert queue.due(format, 3 * second, 0) == []
    assert [one.at for one in queue.due(format, 5 * second, 0)] == [3 * second, 4 * second]
    other = FORMATS["opus"][0]
    assert queue.due(other, 9 * second, 0) == []  # it is not coded like this
    queue.put([], other)
    assert queue.due(format, 9 * second, 0) == []  # and that is over


def test_samples_never_overlap() -> None:
    queue, format = SoundQueue(), FORMATS["aac"][0]
    queue.put([Sample(n * 0.0199, 0.02, b"x") for n in range(1000)], format)
    pieces = queue.due(format, 30 * TIMESCALE, 0)
    assert len(pieces) == 1000
    ends = [one.at + one.duration for one in pieces]
    assert all(end <= later.at for end, later in zip(ends, pieces[1:], strict=False))
    assert abs(pieces[-1].at - 999 * 0.0199 * TIMESCALE) < TIMESCALE * 0.005


@pytest.mark.parametrize("config", ["1408", "1190", "2b11880000", "f8e62000"])
def test_configs_of_aac_are_read(config: str) -> None:
    data = bytes.fromhex(config)
    known = headers.aac_config(data)
    assert known is not None and known.rate in headers.RATES and 1 <= known.channels <= 8
    if len(data) == 2:
        assert headers.make_aac_config(known.rate, known.channels) == data


def test_headers_of_adts_are_read() -> None:
    data = bytes.fromhex("fff16c40057ffc") + b"sound"
    assert headers.adts(data) == (bytes.fromhex("1588"), 7)
    assert headers.adts(b"sound") is None


def test_packets_of_opus_say_how_long_they_last() -> None:
    for _, payload in clicks("libopus").packets[:50]:
        assert headers.opus_seconds(payload) == 0.02
    assert headers.opus_seconds(b"") == 0.0
