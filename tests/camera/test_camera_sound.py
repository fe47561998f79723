"""Sound: as the camera sends it, in step with its picture, and never at the picture's expense."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from camera_tools import Clips, at_once

import valkka_async as va
from support.http import Answer, HttpServer, Request
from support.instep import apart, flashes_and_clicks
from support.netns import in_netns
from support.playback import ffmpeg_finds_no_fault
from support.rtsp import RtspServer
from support.rtsp_camera import RtspCamera
from support.rtsp_sound import clicks, flashes, pcm
from support.until import measured, wait_for

NEAR = 0.04  # s
FPS = 25


def camera(sound: Any = None, **differing: Any) -> RtspCamera:
    def clock(number: int, _: float) -> int:
        return 900_000 + number * 90000 // FPS

    return RtspCamera(list(flashes(FPS)), fps=FPS, sound=sound, **{"clock": clock} | differing)


@contextlib.contextmanager
def watched(source: RtspCamera, name: str = "cam", **options: Any) -> Iterator[tuple[va.Camera, va.Reader]]:
    """Its ring of fragments, with a reader who is there before the first frame."""
    source.go.clear()
    with source, va.Camera(name, source.url(), va.Output(name, "fmp4"), **options) as own:
        with va.attach(name, policy="ordered") as reader:
            wait_for(lambda: own.status().outputs[0].readers)
            source.go.set()
            yield own, reader


def recorded(reader: va.Reader, seconds: float) -> bytes:
    """A file of so many seconds."""
    parts = []
    for _ in range(round(seconds * FPS)):
        with reader.recv(timeout=10) as frame:
            parts.append(bytes(frame.data))
    return bytes(reader.header) + b"".join(parts)


CARRIED = {
    "pcm_alaw": ("mp4a.40.2", 8000),
    "pcm_mulaw": ("mp4a.40.2", 8000),
    "aac": ("mp4a.40.2", 16000),
    "aac in pairs": ("mp4a.40.2", 16000),
    "libopus": ("opus", 48000),
}


def test_sound_is_in_step_with_the_picture(tmp_path: Path) -> None:
    def watch(codec: str) -> tuple[bytes, va.CameraStatus]:
        with watched(camera(clicks(codec)), codec.replace(" ", "-")) as (own, reader):
            return recorded(reader, 4), own.status()

    for codec, (film, status) in at_once(watch, CARRIED).items():
        assert va.codec_string(film).split(",")[1] == CARRIED[codec][0]
        sound = status.sound
        assert (sound.state, sound.carried, sound.rate) == (va.SoundState.LIVE, *CARRIED[codec])
        assert sound.packets and not sound.errors and status.early
        found = apart(film)
        assert len(found) >= 3 and all(abs(one) < NEAR for one in found), (codec, found)
        file = tmp_path / f"{codec}.mp4"
        file.write_bytes(film)
        ffmpeg_finds_no_fault(file)


@in_netns
def test_sound_over_udp_is_in_step() -> None:
    def watch(codec: str) -> bytes:
        with watched(camera(clicks(codec)), codec, transport="udp") as (own, reader):
            film = recorded(reader, 6)
            assert own.status().early
        return film

    for codec, film in at_once(watch, ["pcm_alaw", "aac"]).items():
        found = apart(film)
        assert len(found) >= 4 and all(abs(one) < NEAR for one in found), (codec, found)


def test_sound_that_begins_late_is_where_it_belongs() -> None:
    def watch(report: bool) -> bytes:
        late = clicks(report=report, sent=lambda _, seconds: seconds > 1.5)
        with watched(camera(late), f"cam-{report}") as (_, reader):
            return recorded(reader, 4.5)

    for report, film in at_once(watch, [True, False]).items():
        shown, heard = flashes_and_clicks(film)
        found = apart(film)
        assert len(shown) - len(heard) == 2 and len(found) == len(heard) >= 2, (report, found)
        assert all(abs(one) < NEAR for one in found), (report, found)


def test_sound_that_stops_stops_nothing_else() -> None:
    with watched(camera(clicks(sent=lambda _, seconds: seconds < 1.5))) as (own, reader):
        film = recorded(reader, 2.5)
        wait_for(lambda: own.status().sound.state is va.SoundState.SILENT)
        began = own.status().packets
        recorded(reader, 2)
        status = own.status()
    assert status.state is va.CameraState.LIVE and status.packets > began and status.early
    shown, heard = flashes_and_clicks(film)
    assert len(shown) == 3 and heard and max(heard) < shown[-1] - 0.5


@pytest.mark.parametrize("gap", [0.1, 1.3])
def test_a_gap_in_sound_is_a_gap_and_not_a_shift(gap: float) -> None:
    def watch(codec: str) -> bytes:
        sound = clicks(codec, sent=lambda _, at: not 1.2 < at < 1.2 + gap)
        with watched(camera(sound), codec.replace(" ", "-")) as (_, reader):
            return recorded(reader, 4.5)

    for codec, film in at_once(watch, CARRIED).items():
        found = apart(film)
        assert len(found) >= (4 if gap < 1 else 3), (codec, found)
        assert all(abs(one) < NEAR for one in found), (codec, found)


def test_a_clock_of_sound_that_is_set_shifts_nothing() -> None:
    def watch(report: bool) -> bytes:
        jumps = clicks(report=report, stamp=lambda number, samples: samples + (number > 100) * 8000 * 3600)
        with watched(camera(jumps), f"cam-{report}") as (_, reader):
            return recorded(reader, 8.5)

    def measure() -> None:
        for report, film in at_once(watch, [True, False]).items():
            shown, heard = flashes_and_clicks(film)
            found = apart(film)
            assert len(found) >= 4 and all(abs(one) < NEAR for one in found), (report, found)
            assert max(heard) > max(shown) - 1.5, report  # it has come back

    measured(measure)  # the one without reports is placed by its arrival


def test_times_of_sound_at_another_speed_are_not_believed() -> None:
    def measure() -> None:
        with watched(camera(clicks(report=False, stamp=lambda _, samples: samples * 6))) as (_, reader):
            film = recorded(reader, 5.5)
        found = apart(film)
        assert len(found) >= 3 and all(abs(one) < 0.3 for one in found), found  # by arrival

    measured(measure)


def test_a_new_connection_is_in_step_as_well() -> None:
    source = camera(clicks())
    with watched(source, retry_max=0.5) as (own, reader):
        film = recorded(reader, 2.2)
        header = reader.header
        source.drop()
        wait_for(lambda: own.status().reconnects == 1)
        film += recorded(reader, 3.5).removeprefix(bytes(header))
        assert reader.header == header
    found = apart(film)
    assert len(found) >= 4 and all(abs(one) < NEAR for one in found), found


def test_sound_may_change_from_one_connection_to_the_next() -> None:
    source = camera(clicks())
    with watched(source, retry_max=0.5) as (own, reader):
        films = [recorded(reader, 2.2)]
        for other in (clicks("libopus"), None, clicks("aac")):
            source.sound = other
            header, before = reader.header, own.status().reconnects
            source.drop()
            wait_for(lambda before=before: own.status().reconnects > before)
            while reader.header == header:
                reader.recv(timeout=10).release()
            films.append(recorded(reader, 2.2))
    strings = [va.codec_string(film).partition(",")[2] for film in films]
    assert strings == ["mp4a.40.2", "opus", "", "mp4a.40.2"]
    for film, carried in zip(films, strings, strict=True):
        found = apart(film)
        assert bool(found) == bool(carried) and all(abs(one) < NEAR for one in found), found


def test_a_camera_that_refuses_its_sound_is_asked_for_its_picture_alone() -> None:
    refuse = {"SETUP track2": ("453 Not Enough Bandwidth", [])}
    with watched(camera(clicks(), refuse=refuse), retry_max=0.5) as (own, reader):
        recorded(reader, 1)
        assert own.status().sound.state is va.SoundState.REFUSED
        assert own.status().attempts == 2


def test_sound_that_nobody_knows_costs_the_picture_nothing() -> None:
    unknown = clicks()
    unknown.sdp, unknown.type = "a=rtpmap:99 X-UNHEARD-OF/8000\r\n", 99
    with watched(camera(unknown)) as (own, reader):
        film = recorded(reader, 2)
        status = own.status()
    assert status.sound.state in (va.SoundState.UNSUPPORTED, va.SoundState.NONE)
    assert status.early and "," not in va.codec_string(film)


def test_sound_that_is_damaged_costs_the_picture_nothing() -> None:
    damaged = clicks("aac")
    damaged.packets = [(at, b"\0\x10\xff\xff" + bytes(20)) for at, _ in damaged.packets]
    with watched(camera(damaged)) as (own, reader):
        recorded(reader, 3)
        assert own.status().early and own.status().state is va.CameraState.LIVE


def test_sound_is_not_asked_for_where_it_is_not_wanted() -> None:
    for outputs, audio in ((va.Output("cam", "fmp4"), False), (va.Output("cam", "gray8"), True)):
        with camera(clicks()) as source, va.Camera("cam", source.url(), outputs, audio=audio) as own:
            with va.attach("cam") as reader, reader.recv(timeout=10):
                assert len(source.asked("SETUP")) == 1
                assert own.status().sound.state is va.SoundState.OFF


def test_sound_without_readers_is_counted_and_left_alone() -> None:
    with camera(clicks()) as source, va.Camera("cam", source.url(), va.Output("cam", "fmp4")) as own:
        wait_for(lambda: own.status().sound.packets > 20)
        sound = own.status().sound
        assert (sound.state, sound.codec, sound.channels) == (va.SoundState.IDLE, "pcm_alaw", 1)
        with va.attach("cam", policy="ordered") as reader:
            film = recorded(reader, 3)
        assert apart(film)
        wait_for(lambda: own.status().sound.state is va.SoundState.IDLE)


def test_sound_is_in_step_in_each_file_and_none_is_lost_between_them(tmp_path: Path) -> None:
    async def record(url: str) -> list[Path]:
        async with (
            va.Camera("cam", url, va.Output("cam", "fmp4")),
            va.Recorder("cam", tmp_path / "{n}.mp4", seconds=2) as recorder,
            asyncio.timeout(60),
        ):
            return [await anext(recorder) for _ in range(3)]

    with camera(clicks()) as source:
        files = asyncio.run(record(source.url()))
    total = 0
    for file in files:
        ffmpeg_finds_no_fault(file)
        found = apart(file)
        assert found and all(abs(one) < NEAR for one in found), found
        shown, heard = flashes_and_clicks(file)
        assert shown[0] < 0.5 and len(shown) == 2
        with av.open(str(file)) as container:  # of which players show the length
            begins = cast(int, container.streams.video[0].start_time) / 90000
            assert cast(int, container.duration) / 1e6 == pytest.approx(begins + 2, abs=0.1)
        total += len(heard)
    assert total >= 5  # the very first begins with the sound's own beginning


CONTAINERS = {  # of what, as what
    "mpegts": ("aac", "mp4a.40.2"),
    "flv": ("aac", "mp4a.40.2"),
    "mp4": ("aac", "mp4a.40.2"),
    "matroska": ("libopus", "opus"),
    "matroska of another kind": ("mp2", "mp4a.40.2"),
    "mov": ("pcm_s16le", "mp4a.40.2"),
}
PIECES = 2  # s, of HLS


def film_of(kind: str, folder: Path, seconds: int = 4) -> Path:
    """A file of flashes and clicks."""
    file, codec = folder / f"{kind.replace(' ', '-')}.film", CONTAINERS.get(kind, ("aac", ""))[0]
    rate = 48000
    options = {"hls_time": str(PIECES), "hls_list_size": "0"} if kind == "hls" else {}
    with av.open(str(file), "w", format=kind.split()[0], options=options) as sink:
        picture = sink.add_stream("libx264", rate=FPS)
        picture.width, picture.height, picture.pix_fmt, picture.gop_size = 160, 96, "yuv420p", FPS
        picture.options = {"bf": "0", "x264-params": "scenecut=0"}
        sound = sink.add_stream(codec, rate=rate, layout="mono")
        made: list[Any] = []
        for number in range(seconds * FPS):
            image = np.full((144, 160), 128, np.uint8)
            image[:96] = 235 if number % FPS == 0 else 16
            frame: Any = av.VideoFrame.from_ndarray(image, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            made += picture.encode(frame)
        made += picture.encode(None)
        sound.codec_context.open(strict=False)
        size = sound.codec_context.frame_size or 1024
        wave = np.tile(pcm(rate), 3)[: seconds * rate]
        format = sound.codec_context.format.name
        for at in range(0, len(wave) - size + 1, size):
            piece = wave[None, at : at + size]
            if not format.startswith("flt"):
                piece = (piece * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(piece, format, "mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
            made += sound.encode(frame)
        made += sound.encode(None)
        for packet in sorted(made, key=lambda one: one.dts * one.time_base):
            sink.mux(packet)
    return file


def test_sound_of_a_file_is_in_step_each_time_it_is_played(tmp_path: Path) -> None:
    def watch(kind: str) -> tuple[bytes, str]:
        name = kind.replace(" ", "-")
        with (
            va.Camera(name, films[kind], va.Output(name, "fmp4")) as own,
            va.attach(name, policy="ordered") as reader,
        ):
            return recorded(reader, 6), own.status().sound.carried

    films = {kind: film_of(kind, tmp_path, seconds=3) for kind in CONTAINERS}
    for kind, (film, carried) in at_once(watch, CONTAINERS).items():
        assert carried == CONTAINERS[kind][1]
        found = apart(film)
        assert len(found) >= 4 and all(abs(one) < NEAR for one in found), (kind, found)


@pytest.mark.parametrize("options", [None, {"fflags": "nobuffer"}])  # put together here, and by FFmpeg
def test_a_report_does_not_move_the_picture(options: dict[str, str] | None) -> None:
    """FFmpeg relates the times of both when the first one comes."""
    late = clicks(sent=lambda _, seconds: seconds > 0.4)
    with watched(camera(late), options=options) as (_, reader):
        shown = []
        for _ in range(3 * FPS):
            with reader.recv(timeout=10) as frame:
                shown.append(frame.pts or 0)
    assert {later - one for one, later in itertools.pairwise(shown)} == {90000 // FPS}


def test_sound_of_another_server_is_whole(rtsp: RtspServer, clips: Clips, tmp_path: Path) -> None:
    def watch(audio: str) -> va.CameraStatus:
        with va.Camera(audio, rtsp.url(f"/{audio}"), va.Output(audio, "fmp4")) as own:
            with va.attach(audio, policy="ordered") as reader:
                (tmp_path / f"{audio}.mp4").write_bytes(recorded(reader, 5))
                return own.status()

    carried = {"alaw": "mp4a.40.2", "mulaw": "mp4a.40.2", "aac": "mp4a.40.2", "opus": "opus"}
    for audio in carried:
        rtsp.mount(f"/{audio}", clips(), audio=audio)
    for audio, status in at_once(watch, carried).items():
        assert (status.sound.carried, status.sound.errors) == (carried[audio], 0)
        film = tmp_path / f"{audio}.mp4"
        ffmpeg_finds_no_fault(film)
        with av.open(str(film)) as container:
            frames = list(container.decode(audio=0))
            ends = [cast(float, one.time) + one.samples / one.sample_rate for one in frames]
        # After the first moments, when the two have found each other.
        late = [cast(float, one.time) - end for end, one in zip(ends[50:], frames[51:], strict=False)]
        assert ends[-1] - cast(float, frames[0].time) > 3.5, audio
        gaps = [one for one in late if abs(one) >= 0.005]  # where the server itself came too late
        assert len(gaps) <= 3 < len(late), (audio, late)
        loud = [float(np.abs(one.to_ndarray()).max()) for one in frames[10:]]
        assert min(loud) > 0, audio


def test_sound_of_live_hls_is_in_step_although_it_comes_in_bursts(tmp_path: Path) -> None:
    film_of("hls", tmp_path, 24)
    pieces = [path.read_bytes() for path in sorted(tmp_path.glob("*.ts"), key=lambda p: int(p.stem[3:]))]
    began = time.monotonic()

    def serve(request: Request) -> Answer:
        if request.path.endswith(".ts"):
            return 200, {}, pieces[int(request.path[1:-3])]
        first = int((time.monotonic() - began) / PIECES)
        text = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{PIECES}\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
        for number in range(first, min(first + 3, len(pieces))):
            text += f"#EXTINF:{PIECES}.0,\n/{number}.ts\n"
        return 200, {"Content-Type": "application/vnd.apple.mpegurl"}, text.encode()

    with HttpServer(serve) as server, va.Camera("cam", server.url("/x.m3u8"), va.Output("cam", "fmp4")):
        with va.attach("cam", policy="ordered") as reader:
            film = recorded(reader, 6)
    found = apart(film)
    assert len(found) >= 4 and all(abs(one) < NEAR for one in found), found
