"""H.264 whose frames are two fields (PAFF): each frame is whole, and there with its second field."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from test_camera_early import BASE, frames, opened, watched

import valkka_async as va
from support.fields import Field, field_coded
from support.netns import in_netns
from support.rtsp_camera import RtspCamera, h264, h264_together, nals
from valkka_async.camera.source import fields

SEI, DELIMITER = b"\0\0\0\1\x06\x05\x04abcd\x80", b"\0\0\0\1\x09\xf0"
KINDS = {  # of frames, and how they are sent
    "fields": ("ffffffff", {}),
    "one slice": ("ffffffff", {"slices": 1}),
    "fields of one time": ("ffffffff", {"apart": 0}),
    "frames between": ("FffFFfFf", {}),
    "frames between, of one time": ("fFfFfffF", {"apart": 0}),
    "delimiters": ("ffFfffff", {"before": DELIMITER}),
    "messages": ("fffffFff", {"before": DELIMITER + SEI}),
    "all in a packet": ("ffFfffFf", {"payloads": h264_together, "before": SEI, "slices": 4}),
    "whole frames are marked": ("ffFfffff", {"marked": False}),
}


def pictures(made: list[Field]) -> list[NDArray[Any]]:
    """As decoded in the usual way."""
    with opened("h264", [one.unit for one in made]) as container:
        return [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]


def whole(made: list[Field]) -> list[bytes]:
    """Access units of frames."""
    count = made[-1].frame + 1
    return [b"".join(one.unit for one in made if one.frame == number) for number in range(count)]


def camera(made: list[Field], *, apart: int = 900, marked: bool = True, **differing: Any) -> RtspCamera:
    """Sends each field by itself. `apart`: the times of the two; `marked`: first fields are, too."""

    def clock(number: int, _: float) -> int:
        loops, place = divmod(number, len(made))
        field = made[place]
        return BASE + 1800 * (loops * (made[-1].frame + 1) + field.frame) + apart * field.second

    def marks(place: int, count: int, payload: bytes) -> bool:
        return place == count - 1 and (marked or payload not in firsts)

    units = [one.unit for one in made]
    ends = zip(made, [*made[1:], made[0]], strict=True)
    firsts = {h264(one.unit)[-1] for one, following in ends if following.second}
    return RtspCamera(units, **{"fps": 100, "once": True, "clock": clock, "marks": marks} | differing)


@pytest.mark.parametrize("kind", KINDS)
def test_fields_are_whole_frames_for_all_readers(kind: str) -> None:
    letters, how = KINDS[kind]
    how = {"slices": 2} | how
    made = field_coded(letters, slices=how.pop("slices"), before=how.pop("before", b""))
    wanted = pictures(made)
    with watched(camera(made, **how), "yuv420p", "packets", "fmp4") as (own, (pixels, packets, fragments)):
        shown, sent, muxed = (frames(one, len(wanted)) for one in (pixels, packets, fragments))
        assert own.status().early and not own.status().errors
        film = bytes(fragments.header) + b"".join(bytes(one.data) for one in muxed)
    assert [frame.pts for frame in shown] == [1800 * number for number in range(len(wanted))]
    assert all(np.array_equal(frame.array, image) for frame, image in zip(shown, wanted, strict=True))
    assert [nals(bytes(one.data)) for one in sent] == [nals(unit) for unit in whole(made)]
    assert [one.key for one in sent] == [one.key for one in muxed] == [n % 5 == 0 for n in range(len(wanted))]
    with av.open(io.BytesIO(film)) as container:
        played = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
    assert all(np.array_equal(*pair) for pair in zip(played, wanted, strict=True))


@pytest.mark.parametrize("letters", ["fffffffffff", "FffffFffffF", "fFFFFfFFFFf"])
def test_a_key_frame_is_both_its_fields(letters: str) -> None:
    made = field_coded(letters)
    wanted = pictures(made)[::5]
    with camera(made, fps=20, once=False) as source:
        output = va.Output("cam", "yuv420p", key_frames=True)
        with va.Camera("cam", source.url(), output), va.attach("cam", policy="ordered") as reader:
            shown = frames(reader, 2)
    assert any(np.array_equal(shown[0].array, image) for image in wanted)
    assert any(np.array_equal(shown[1].array, image) for image in wanted)


@pytest.mark.parametrize("kind", ["h264", "mpegts", "parsed by FFmpeg", "mp4"])
def test_fields_of_other_sources_are_whole_frames(kind: str, tmp_path: Path) -> None:
    made = field_coded("fFffffFf")
    wanted = whole(made)
    if kind == "parsed by FFmpeg":
        options: Any = {"options": {"fflags": "nobuffer"}}
        with watched(camera(made, once=False), "packets", **options) as (own, (reader,)):
            sent = frames(reader, 2 * len(wanted))
            assert not own.status().early
    else:
        file = tmp_path / f"film.{kind}"
        write(file, kind, made)
        output = va.Output("cam", "packets", slots=64)
        with va.Camera("cam", file, output), va.attach("cam", policy="ordered") as reader:
            sent = frames(reader, len(wanted))
    first = 5 if bytes(sent[0].data)[-200:] == wanted[5][-200:] else 0  # the newest key frame at that time
    for number, one in enumerate(sent, first):
        unit, data = wanted[number % len(wanted)], bytes(one.data)
        if kind == "mp4":
            assert data == in_mp4(unit)
        else:  # FFmpeg writes delimiters into MPEG-TS
            assert [nal for nal in nals(data) if nal[0] != DELIMITER[4]] == nals(unit), number
        assert one.key == (number % len(wanted) % 5 == 0)


def in_mp4(unit: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(one)) + one for one in nals(unit))


def write(file: Path, kind: str, made: list[Field]) -> None:
    """As cameras and FFmpeg do it: a packet for each field; in MP4, for each frame."""
    if kind == "h264":
        file.write_bytes(b"".join(one.unit for one in made))
        return
    if kind == "mp4":
        units = [(2 * number, unit) for number, unit in enumerate(whole(made))]
    else:
        units = [(2 * one.frame + one.second, one.unit) for one in made]
    with opened("h264", [made[0].unit]) as source, av.open(str(file), "w", format=kind) as sink:
        track = sink.add_stream_from_template(source.streams.video[0])
        for at, unit in units:
            packet: Any = av.Packet(unit)
            packet.stream, packet.pts, packet.dts, packet.time_base = track, at, at, Fraction(1, 50)
            packet.is_keyframe = at % 10 == 0
            sink.mux(packet)


@in_netns
def test_a_lost_field_costs_its_own_frame_and_no_other() -> None:
    made = field_coded("f" * 40, gop=1)
    wanted = pictures(made)

    def sending(number: int, packets: list[bytes]) -> list[bytes]:
        return [] if number in (13, 20, 34) else packets  # a second field, a first, a first

    with watched(camera(made, sending=sending), "yuv420p", transport="udp") as (own, (reader,)):
        seen = {}
        while 39 not in seen:
            (frame,) = frames(reader, 1)
            seen[(frame.pts or 0) // 1800] = frame
        assert own.status().early
    lost = {6, 10, 17}
    assert {*range(40)} - lost <= {*seen}
    for number in {*seen} - lost:
        assert np.array_equal(seen[number].array, wanted[number]), number


def test_fields_that_have_no_other_are_shown_as_ever() -> None:
    """FFmpeg makes a frame of each; when the next one begins, nothing is missing of it."""
    made = [one for one in field_coded("f" * 12, gop=1) if not one.second]
    wanted = pictures(made)
    with watched(camera(made), "yuv420p") as (own, (reader,)):
        shown = frames(reader, len(wanted) - 1)
        assert not own.status().early and not own.status().errors
    assert all(np.array_equal(frame.array, image) for frame, image in zip(shown, wanted, strict=False))


TOP, BOTTOM = fields.Field(3, False), fields.Field(3, True)


@pytest.mark.parametrize(
    ("slices", "half"),
    [
        ([TOP], TOP),
        ([TOP, TOP], TOP),  # two slices
        ([TOP, BOTTOM], None),
        ([BOTTOM, BOTTOM, TOP, TOP], None),
        ([BOTTOM, TOP._replace(idr=True)], TOP._replace(idr=True)),
        ([TOP, fields.Field(4, True)], fields.Field(4, True)),  # the other one of each was lost
        ([TOP, None], None),  # a frame
        ([TOP, BOTTOM, TOP], TOP),  # frames that no other refers to have one number
    ],
)
def test_two_fields_are_one_frame(slices: list[fields.Field | None], half: fields.Field | None) -> None:
    pairing = fields.Pairing()
    for one in slices:
        pairing.take(one)
    assert pairing.half == half


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_what_is_damaged_is_of_no_field(cut: int) -> None:
    made = field_coded("f")
    sets, slice_ = nals(made[0].unit)[:2], nals(made[1].unit)[0]
    with opened("h264", [one.unit for one in made]) as container:
        stream: Any = container.streams.video[0]
        whole_sets, cut_sets = fields.Slices(stream), fields.Slices(stream)
    for unit in sets:
        whole_sets.note(unit)
        cut_sets.note(unit[:cut])
    assert whole_sets.field(slice_) == BOTTOM._replace(number=0)
    assert whole_sets.field(slice_[: min(cut, 2)]) is None
    assert cut_sets.field(slice_) in (BOTTOM._replace(number=0), None)
