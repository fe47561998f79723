"""Sources of every kind: raw streams, FLV, RTMP, SDP files, devices; and what a machine lacks is said."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from camera_tools import Clips, at_once

import valkka_async as va
from support.netns import in_netns
from support.rtmp import RtmpServer
from support.rtsp_camera import access_units, h264
from support.stream import ByteServer, Gate, patient
from support.until import wait_for

FPS = 5
SOON = 6  # pieces that are enough, of a second and a bit; FFmpeg by itself wants five seconds
FLV_HEADER = 13


def muxed(format: str, codec: str = "libx264", frames: int = 100, sound: bool = False) -> list[bytes]:
    """A stream of this format, in pieces of a frame each. The first has the header, and no frame."""
    written: list[bytes] = []

    class Out:
        def write(self, data: bytes) -> int:
            written.append(bytes(data))
            return len(data)

    pieces = []
    options = {"flvflags": "no_duration_filesize", "live": "1"}
    with av.open(Out(), "w", format=format, options=options) as out:
        video = out.add_stream(codec, rate=FPS)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        video.codec_context.gop_size = FPS
        if codec != "mpeg4":
            video.codec_context.options = {"preset": "ultrafast", "tune": "zerolatency"}
        audio = out.add_stream("aac", rate=8000, layout="mono") if sound else None
        with av.open(f"testsrc=size=320x240:rate={FPS}", format="lavfi") as source:
            for number, frame in zip(range(frames), source.decode(video=0), strict=False):
                out.mux(video.encode(frame.reformat(format="yuv420p")))
                if audio is not None:
                    tone = av.AudioFrame.from_ndarray(np.zeros((1, 8000 // FPS), np.float32), "fltp", "mono")
                    tone.sample_rate, tone.pts, tone.time_base = 8000, 8000 // FPS * number, Fraction(1, 8000)
                    out.mux(audio.encode(tone))
                pieces.append(b"".join(written))
                written.clear()
    return pieces


# --------------------------------------------------------------- streams that open within a second


@pytest.mark.parametrize(
    ("format", "codec", "sound"),
    [
        ("flv", "libx264", False),
        ("flv", "libx264", True),
        ("mpegts", "libx264", False),
        ("mpegts", "libx264", True),
        ("matroska", "libx264", False),
        ("h264", "libx264", False),
        ("hevc", "libx265", False),
        ("m4v", "mpeg4", False),
    ],
)
@pytest.mark.parametrize("scheme", ["tcp", "http"])
def test_a_stream_opens_soon_and_over_one_connection(
    format: str, codec: str, sound: bool, scheme: str
) -> None:
    head = b"HTTP/1.0 200 OK\r\nContent-Type: video/x-any\r\n\r\n" if scheme == "http" else b""
    pieces = muxed(format, codec, sound=sound)
    gate = Gate(0)
    with ByteServer(pieces, FPS, head=head, http=scheme == "http", gate=gate) as server:
        with patient(server.url(scheme)) as camera, va.attach("cam") as reader:
            gate.let(SOON)
            reader.recv(timeout=30).release()
            assert camera.status().width == 320
        assert server.connections == 1


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("path", ["/live/cam", "/live"])
def test_rtmp_opens_soon(sound: bool, path: str) -> None:
    gate = Gate(0)
    with RtmpServer(muxed("flv", sound=sound), FPS, gate) as server:
        with patient(server.url(path=path)), va.attach("cam") as reader:
            gate.let(SOON)
            reader.recv(timeout=30).release()


@pytest.mark.parametrize("format", ["h264", "flv", "mpegts"])
def test_one_joins_a_stream_in_its_middle(format: str) -> None:
    pieces = muxed(format)
    head = pieces[0] if format == "flv" else b""
    with ByteServer(pieces, FPS, head=head, start=5) as server:
        with va.Camera("cam", server.url("tcp")), va.attach("cam") as reader:
            reader.recv(timeout=20).release()


@pytest.mark.parametrize("format", ["h264", "hevc", "mpegts"])
def test_the_format_may_be_said(format: str) -> None:
    codec = "libx265" if format == "hevc" else "libx264"
    with ByteServer(muxed(format, codec), FPS) as server:
        with va.serve("cam") as ring, va.play(server.url("tcp"), ring, input_format=format):
            with va.attach("cam") as reader:
                reader.recv(timeout=20).release()


@pytest.mark.parametrize("format", ["h265", "mjpg", "nonsense"])
def test_a_format_that_ffmpeg_does_not_know_is_said(format: str) -> None:
    with va.Camera("cam", "tcp://127.0.0.1:9", input_format=format) as camera:
        wait_for(lambda: camera.status().cause)
        assert (camera.status().state, camera.status().cause) == ("failed", "format")
        assert format in camera.status().reason


@pytest.mark.parametrize("format", ["MJPEG", "", "a b", 5, "../x"])
def test_a_format_that_can_be_none_is_refused(format: object) -> None:
    with pytest.raises(ValueError, match="input_format"):
        va.Camera("cam", "tcp://127.0.0.1:9", input_format=format)  # type: ignore[arg-type]


def test_a_file_of_another_name_plays_by_its_format(clips: Clips, tmp_path: Path) -> None:
    os.link(clips(codec="mjpeg"), tmp_path / "recording.dat")
    with va.serve("cam") as ring:
        with va.play(tmp_path / "recording.dat", ring, realtime=False, input_format="mjpeg") as player:
            player.join(20)
            assert player.stats().published


@pytest.mark.parametrize("frames", [10, 30, 50])
def test_sound_that_begins_late_ends_no_file_early(frames: int, tmp_path: Path) -> None:
    path = tmp_path / "late.flv"
    late = b"".join(muxed("flv", frames=20, sound=True))
    path.write_bytes(b"".join(muxed("flv", frames=frames)) + late[FLV_HEADER:])
    options = {"probesize": "2000", "analyzeduration": "1"}
    with va.serve("late") as server, va.play(path, server, realtime=False, options=options) as player:
        player.join(30)  # raises what went wrong
        assert server.stats().published >= frames


def without_sound(pieces: list[bytes], until: int) -> list[bytes]:
    """FLV whose sound begins with piece `until`. What tells how it is coded comes then, too."""
    made, told = [], b""
    for number, piece in enumerate(pieces):
        at = FLV_HEADER if piece.startswith(b"FLV") else 0
        tags = [piece[:at]]
        while at < len(piece):
            end = at + 15 + int.from_bytes(piece[at + 1 : at + 4], "big")
            sound = piece[at] == 8
            told = told or piece[at:end] * sound
            if not sound or number >= until:
                tags.append(piece[at:end])
            at = end
        made.append(b"".join([tags[0], told if number == until else b"", *tags[1:]]))
    return made


@pytest.mark.parametrize(
    "scheme", ["tcp", *(pytest.param(one, marks=pytest.mark.long) for one in ("http", "rtmp"))]
)
def test_sound_that_begins_late_is_heard(scheme: str) -> None:
    pieces = without_sound(muxed("flv", sound=True), 7)
    server: ByteServer | RtmpServer
    if scheme == "rtmp":
        server, url = (one := RtmpServer(pieces, 2 * FPS)), one.url()
    else:
        head = b"HTTP/1.0 200 OK\r\nContent-Type: video/x-flv\r\n\r\n" if scheme == "http" else b""
        server = ByteServer(pieces, 2 * FPS, head=head, http=scheme == "http")
        url = server.url(scheme)
    with server, va.Camera("cam", url, va.Output("cam", "fmp4")) as camera, va.attach("cam") as reader:
        reader.recv(timeout=20).release()
        while b"mp4a" not in reader.header:
            reader.recv(timeout=20).release()
        wait_for(lambda: camera.status().sound.packets)
        assert camera.status().attempts == 1
        assert not isinstance(server, ByteServer) or server.connections == 2


def test_sound_of_a_file_that_begins_late_is_heard_when_it_is_played_again(tmp_path: Path) -> None:
    """It begins beyond what FFmpeg looks at when it opens a file."""
    pieces = without_sound(muxed("flv", frames=10, sound=True), 6)
    place = next(n for n, piece in enumerate(pieces) if piece[:1] == b"\x09")
    tag, filler = pieces[place][:-4], 6 << 20
    unit = struct.pack(">I", filler + 1) + b"\x0c" + b"\xff" * filler
    grown = struct.pack(">I", len(tag) - 11 + len(unit))[1:]
    pieces[place] = tag[:1] + grown + tag[4:] + unit + struct.pack(">I", len(tag) + len(unit))
    path = tmp_path / "late.flv"
    path.write_bytes(b"".join(pieces))
    with va.Camera("cam", path, va.Output("cam", "fmp4")) as camera, va.attach("cam") as reader:
        reader.recv(timeout=20).release()
        assert b"mp4a" not in reader.header
        while b"mp4a" not in reader.header:
            reader.recv(timeout=20).release()
        wait_for(lambda: camera.status().sound.packets)


# ------------------------------------------------------------------------------------- SDP files


class Sender:
    """Sends a clip of H.264 over RTP, as an SDP file says that somebody does."""

    def __init__(self, units: list[bytes], port: int, marks: bool = True) -> None:
        self._units, self._port, self._marks = units, port, marks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        sequence = number = 0
        with socket.socket(type=socket.SOCK_DGRAM) as out:
            while not self._stop.wait(1 / 25):
                payloads = h264(self._units[number % len(self._units)])
                for place, payload in enumerate(payloads):
                    mark = 0x80 if self._marks and place == len(payloads) - 1 else 0
                    head = struct.pack(">BBHII", 0x80, mark | 96, sequence & 0xFFFF, number * 3600, 7)
                    out.sendto(head + payload, ("127.0.0.1", self._port))
                    sequence += 1
                number += 1


SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=cam\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video {port} RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
)


@in_netns
def test_an_sdp_file_says_what_comes(clips: Clips, tmp_path: Path) -> None:
    def watch(how: str, port: int) -> va.CameraStatus:
        path = tmp_path / (f"{how}.sdp" if how != "format" else "description")
        path.write_text(SDP.format(port=port))
        served = path.read_bytes()
        head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(served)}\r\n\r\n".encode() + served
        with Sender(units, port), ByteServer([b""], head=head, http=True, once=True) as server:
            url = server.url(path="/cam.sdp") if how == "http" else str(path)
            with va.Camera(how, url, input_format="sdp" if how == "format" else None) as camera:
                with va.attach(how, policy="ordered") as reader:
                    for _ in range(30):
                        reader.recv(timeout=30).release()
                return camera.status()

    units = access_units(clips())
    ports = {"name": 5004, "format": 5014, "http": 5024}
    for how, status in at_once(lambda how: watch(how, ports[how]), ports).items():
        assert (status.state, status.attempts, status.codec) == ("live", 1, "h264"), how
        assert status.early, how  # with its last packet


@in_netns
def test_an_sdp_file_of_which_nothing_comes_is_a_timeout(clips: Clips, tmp_path: Path) -> None:
    (tmp_path / "cam.sdp").write_text(SDP.format(port=5004))
    with va.Camera("cam", tmp_path / "cam.sdp", open_timeout=1, read_timeout=0.5) as camera:
        wait_for(lambda: camera.status().cause)
        assert camera.status().cause == "timeout"
    with Sender(access_units(clips()), 5004), va.Camera("cam", tmp_path / "cam.sdp") as camera:
        with va.attach("cam", policy="ordered") as reader:
            for _ in range(10):
                reader.recv(timeout=20).release()
        camera.close()


@in_netns
def test_a_sender_that_falls_silent_is_a_timeout(clips: Clips, tmp_path: Path) -> None:
    def watch(port: int) -> None:
        name, path = f"cam{port}", tmp_path / f"{port}.sdp"
        path.write_text(SDP.format(port=port) + sounds[port])
        with va.Camera(name, path, read_timeout=1) as camera:
            with Sender(units, port):
                wait_for(lambda: camera.status().packets > 20)
                assert camera.status().early
            wait_for(lambda: camera.status().cause)
            assert camera.status().cause == "timeout"
        with va.Camera(name, path, read_timeout=60) as camera:
            with Sender(units, port):
                wait_for(lambda: camera.status().packets > 20)
            camera.close()  # while it waits; raises where a thread does not end

    units = access_units(clips())
    sounds = {5004: "", 5015: "", 5025: "m=audio 5027 RTP/AVP 0\r\n"}
    at_once(watch, sounds)


# --------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("url", ["/dev/video97", "v4l2:///dev/video97", "v4l2://97", "v4l2:/dev/v4l/by-id/x"])
def test_a_usb_camera_that_is_not_there(url: str) -> None:
    with va.Camera("cam", url) as camera:
        wait_for(lambda: camera.status().cause)
        assert camera.status().cause == "not_found"
        assert camera.status().url.startswith("/dev/v")


@pytest.mark.parametrize("kind", ["null", "file", "folder"])
def test_what_is_no_camera_is_none(kind: str, tmp_path: Path) -> None:
    path = {"null": Path("/dev/null"), "file": tmp_path / "file", "folder": tmp_path}[kind]
    if kind == "file":
        path.write_bytes(b"x")
    for url in (f"v4l2://{path}", str(path)):
        with va.Camera("cam", url, input_format="v4l2") as camera:
            wait_for(lambda: camera.status().cause)
            assert (camera.status().cause, camera.status().state) == ("format", "failed")


@pytest.mark.parametrize(
    "url", ["v4l2://", "v4l2:///dev/video0?size=1x1", "v4l2://me:secret@host/x", "v4l2:x"]
)
def test_a_device_that_can_be_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="video device") as told:
        va.Camera("cam", url)
    assert "secret" not in str(told.value)


# ------------------------------------------------------------------------ what is not there, by --check


@pytest.mark.parametrize(
    ("camera", "key", "what"),
    [
        ("url: srt://127.0.0.1:9", "url", "srt://"),
        ("url: sctp://127.0.0.1:9/x", "url", "sctp://"),
        ("{url: 'tcp://127.0.0.1:9', input_format: h265}", "input_format", "'h265'"),
    ],
)
def test_what_this_ffmpeg_lacks_is_said_when_the_config_is_checked(
    camera: str, key: str, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(f"cameras:\n  good: {{url: 'rtsps://127.0.0.1:9/x'}}\n  bad:\n    {camera}\n")
    command = [Path(sys.executable).with_name("valkka-async"), "run", "--check", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "cameras.bad" in line]
    assert f"cameras.bad.{key}" in line and what in line and ":4:" in line
    assert "cameras.good" not in done.stderr
