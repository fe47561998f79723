"""Sound for browsers: none for those that do not ask, and never a hole for those that do."""

from __future__ import annotations

from pathlib import Path

import pytest
from web_tools import Browser, Stand, camera, once, served

import valkka_async as va
from support import footage
from support.playback import packets
from valkka_async.camera.mp4 import boxes, sound
from valkka_async.camera.mp4.fragments import Fragment, Muxer
from valkka_async.camera.mp4.sound import SoundFormat
from valkka_async.camera.mp4.soundqueue import SoundQueue
from valkka_async.camera.mp4.timeline import TIMESCALE, Timeline
from valkka_async.camera.sound.carry import Sample
from valkka_async.service.web.soundfill import SoundFill

AAC = SoundFormat("aac", 16000, 1, bytes.fromhex("1408"))
LASTS = 0.064


class Talk:
    """Fragments of a numbered clip, with sound at these seconds."""

    def __init__(self, folder: Path, *spans: tuple[float, float], late: float = 0.1) -> None:
        clip = footage.encode(folder / "talk.h264", (160, 96), 100, gop=10)
        muxer, queue, timeline, number = None, SoundQueue(), Timeline(0), 0
        self.fragments: list[Fragment] = []
        for stream, packet in packets(clip):
            muxer = muxer or Muxer(stream, timeline, AAC)
            now = (packet.pts or 0) / 25
            while number * LASTS + late <= now:
                at = number * LASTS
                if any(begin <= at < end for begin, end in spans):
                    queue.put([Sample(at, LASTS, b"sound")], AAC)
                number += 1
            self.fragments += muxer.mux(packet, 0, None, queue)
        assert muxer is not None
        self.header = muxer.init_segment


@pytest.mark.parametrize(
    ("spans", "late", "heard"),
    [
        ([(0.0, 9.0)], 0.1, 1.0),
        ([(0.0, 1.0)], 0.1, 0.25),  # it stops
        ([(1.0, 9.0)], 0.1, 0.7),  # it begins late
        ([(0.0, 1.0), (1.3, 9.0)], 0.1, 0.9),
        ([], 0.1, 0.0),
        ([(0.0, 9.0)], 1.0, 0.5),  # it is always late
    ],
)
def test_a_browser_always_has_sound_to_go_on_with(
    tmp_path: Path, spans: list[tuple[float, float]], late: float, heard: float
) -> None:
    talk = Talk(tmp_path, *spans, late=late)
    fill = SoundFill(talk.header)
    end, real, count = 0, 0, 0
    for fragment in talk.fragments:
        parts = sound.parts(fill.fill(fragment.data, fragment.pts))
        for piece in parts.pieces if parts is not None else []:
            assert abs(piece.at - end) <= TIMESCALE // 50, (piece.at, end)  # no hole, and nothing twice
            end = piece.at + piece.duration
            real += piece.data == b"sound"
            count += 1
        assert end > fragment.pts - 2.1 * TIMESCALE
    assert count and real / count >= heard - 0.1


def test_what_has_no_sound_stays_as_it_is(tmp_path: Path) -> None:
    talk = Talk(tmp_path)
    fill = SoundFill(sound.init_without(talk.header))
    assert all(fill.fill(one.data, one.pts) == one.data for one in talk.fragments)


@pytest.mark.parametrize("at", [TIMESCALE * 10**6, 1 << 40, (1 << 62) + 1])
def test_a_hole_of_years_is_not_filled(tmp_path: Path, at: int) -> None:
    talk = Talk(tmp_path, (0.0, 9.0))
    first, last = talk.fragments[10], talk.fragments[-1]
    apart = sound.parts(last.data) or sound.bare(last.data)
    data = apart.having([sound.Piece(at, 5760, b"sound")]).whole()
    fill = SoundFill(talk.header)
    fill.fill(first.data, first.pts)
    filled = sound.parts(fill.fill(data, last.pts))
    assert filled is not None and 2 <= len(filled.pieces) < 2000


@pytest.mark.parametrize("wrong", [-(10**6), -20, 20, 10**6])
@pytest.mark.parametrize("whose", ["sound", "picture"])
def test_one_wrong_time_mutes_nothing_after_it(tmp_path: Path, wrong: int, whose: str) -> None:
    talk = Talk(tmp_path, (0.0, 9.0))
    fill = SoundFill(talk.header)
    real = 0
    for number, fragment in enumerate(talk.fragments):
        data, shown = fragment.data, fragment.pts
        if number in (20, 21, 22):
            if whose == "picture":
                shown = max(0, shown + wrong * TIMESCALE)
            elif (apart := sound.parts(data)) is not None:
                moved = [one._replace(at=max(0, one.at + wrong * TIMESCALE)) for one in apart.pieces]
                data = apart.having(moved).whole()
        filled = sound.parts(fill.fill(data, shown))
        real += sum(one.data == b"sound" for one in filled.pieces) if filled and number > 30 else 0
    heard = [sound.parts(one.data) for one in talk.fragments[31:]]
    assert real == sum(len(one.pieces) for one in heard if one is not None)


@once
async def test_sound_is_for_those_who_ask_for_it(tmp_path: Path) -> None:
    talk = Talk(tmp_path, (0.0, 9.0))
    with va.serve("front.fmp4", slots=64, backlog="gop") as server:
        server.set_header(talk.header)
        async with served(Stand({"front": camera("front")})) as client:
            for format in ("fmp4", "sound"):
                async with client.ws_connect(f"/api/cameras/front/live?format={format}") as socket:
                    browser = Browser(socket)
                    for f in talk.fragments[:10]:
                        server.publish(
                            f.data,
                            format="fmp4",
                            key=f.key,
                            pts=f.pts,
                            dts=f.dts,
                            duration=f.duration,
                            time_base=f.time_base,
                        )
                    text, init = await browser.init()
                    frames = await browser.frames(5)
                    spans = [sound.span(frame.payload) for frame in frames]
                    if format == "sound":
                        assert init == talk.header and text["codec"].endswith(",mp4a.40.2")
                        assert any(spans)
                    else:
                        assert boxes.sound_about(init) is None and "," not in text["codec"]
                        assert not any(spans)
