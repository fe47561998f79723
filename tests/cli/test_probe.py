# SPDX-License-Identifier: MIT
"""`valkka-async probe`: what it finds out about real cameras, and what it says of those that do not work."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import pytest
import yaml

import valkka_async as va
from support.footage import encode
from support.netns import in_netns
from support.program import SECONDS, Program, one_line, run
from support.rtsp import RtspServer
from support.rtsp_camera import RtspCamera
from support.terminal import Terminal
from support.until import wait_for
from valkka_async.camera.source.secrets import parse
from valkka_async.cli.probe import Probe
from valkka_async.cli.probe.findings import Findings
from valkka_async.cli.probe.session import level
from valkka_async.cli.probe.times import Times
from valkka_async.service.config.file import load

SECRET = "p@ss/w:rd#1"  # every character that a URL gives a meaning


def probed(*args: str) -> dict[str, Any]:
    """What `probe --json` found; the exit status has to fit."""
    done = run("probe", "--json", *args)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1), done.stderr
    assert found["ok"] == (done.stderr == "")
    return found


def test_a_camera_that_is_good(
    rtsp: RtspServer, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtsp.mount("/cam", clip, audio=True, auth=("me", SECRET, "digest"))
    url = rtsp.url("/cam", "me", SECRET)
    for _ in range(5):  # on a busy machine the camera itself does not always keep its pace
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "valkka_async", "probe", "-", "--seconds", "2", "--json"],
            input=url + "\n",
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert SECRET not in done.stdout and "p%40ss" not in done.stdout
        found = json.loads(done.stdout)
        if abs(found["fps"] - 25) < 1:
            break
    assert found["ok"] and found["url"] == f"rtsp://me:***@127.0.0.1:{rtsp.port}/cam"
    assert (found["transport"], found["container"]) == ("tcp", "rtsp") and 0 < found["opened_in"] < SECONDS
    assert (found["codec"], found["profile"], found["level"]) == ("h264", "High", "1.2")
    assert (found["width"], found["height"], found["pixel_format"]) == (320, 192, "yuv420p")
    assert found["fps"] == pytest.approx(25, abs=1) and found["fps_promised"] == 25
    assert found["key_interval"] == pytest.approx(0.4, abs=0.01)
    assert found["key_frames"] >= 4 and found["decoded"] >= 2 and found["errors"] == 0
    assert 10_000 < found["bit_rate"] < 10_000_000
    assert found["audio"] == ["pcm_alaw"]
    assert (found["page"], found["browser_codec"]) == ("video", "avc1.64000c")
    assert (found["times"], found["advice"]) == ([], [])
    file = tmp_path / "cameras.yaml"
    file.write_text("\n".join(found["config"]))
    monkeypatch.setenv("PASSWORD", SECRET)
    assert load(file).specs()["camera1"].url == url  # what was pasted is this camera
    rtsp.wait_clients("/cam", 0)


def test_what_people_read(rtsp: RtspServer, tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.h265", (320, 192), 50, codec="h265", gop=10, bframes=2)
    rtsp.mount("/h265", clip, codec="h265")
    for _ in range(5):  # on a busy machine the camera itself does not always keep its pace
        done = run("probe", rtsp.url("/h265"), "--seconds", "1.5")
        assert (done.returncode, done.stderr) == (0, "")
        rows = dict(re.findall(r"^  (\w+(?: \w+)?) +(.*)$", done.stdout, re.M))
        if rows["rate"].startswith("25.0 "):
            break
    assert re.fullmatch(r"in \d+\.\d\d s, over TCP", rows["opened"])
    assert re.fullmatch(r"H\.265 Main level \S+, 320x192, yuv420p", rows["video"])
    assert rows["rate"].startswith("25.0 frames/s (25 promised), ")
    assert (rows["key frames"], rows["sound"], rows["timestamps"]) == ("each 0.4 s", "none", "good")
    assert "hvc1." in rows["web page"] and "H.264" in done.stdout
    config = done.stdout.partition("To paste into cameras.yaml:\n\n")[2]
    assert yaml.safe_load(config)["cameras"]["camera1"]["url"] == rtsp.url("/h265")
    assert "\x1b" not in done.stdout


def test_a_file_takes_no_longer_than_it_takes_to_read_it(clip: Path) -> None:
    began = time.monotonic()
    found = probed(str(clip), "--seconds", "600")
    assert time.monotonic() - began < SECONDS
    assert (found["live"], found["transport"], found["packets"]) == (False, None, 50)
    assert found["times"] == ["49 of 50 frames have no timestamp"]  # an elementary stream has none
    assert (found["fps"], found["page"]) == (0, "video")


# ------------------------------------------------------------------------------------- what goes wrong


def test_why_a_camera_cannot_be_opened(rtsp: RtspServer, clip: Path) -> None:
    rtsp.mount("/cam", clip, auth=("me", SECRET, "basic"))
    wrong = probed(rtsp.url("/cam", "me", "wr0ng"))
    assert (wrong["error_type"], wrong["other_way"]) == ("CameraAuthError", None)  # it was asked once
    assert "wr0ng" not in json.dumps(wrong) and "me:***@" in wrong["error"]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = run("probe", f"rtsp://me:{quote(SECRET, safe='')}@127.0.0.1:{port}/x")
    assert done.returncode == 1
    assert "Connection refused" in one_line(done.stderr) and "check the host name" in done.stderr
    assert "over UDP it does not work either" in done.stdout
    assert SECRET not in done.stdout + done.stderr and quote(SECRET) not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("DESCRIBE", "401 Unauthorized"),
        pytest.param("DESCRIBE", "404 Not Found", marks=pytest.mark.long),
        ("SETUP", "453 Not Enough Bandwidth"),
    ],
)
def test_a_camera_is_said_to_refuse_in_the_same_words_everywhere(method: str, status: str) -> None:
    with RtspCamera([], refuse={method: (status, [])}) as source:
        said = probed(source.url())["error"]
        with va.Camera("cam", source.url(), transport="tcp") as camera:
            wait_for(lambda: camera.status().cause)
            assert camera.status().reason == said


@pytest.mark.parametrize("url", ["rtsp://me:s3cr3t@", "-"])
def test_a_url_that_is_none_is_bad_usage(url: str) -> None:
    done = run("probe", url)
    assert done.returncode == 2
    assert "s3cr3t" not in one_line(done.stderr)


class NoUdp:
    """A proxy before an RTSP server that makes it refuse UDP: one connection after the other."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            for source, sink in ((client, server), (server, client)):
                self._threads.append(threading.Thread(target=self._pass, args=(source, sink)))
                self._threads[-1].start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data.replace(b"RTP/AVP/UDP", b"RAW/RAW/UDP"))
        except OSError:
            pass
        finally:
            for sock in (source, sink):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            sink.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(SECONDS)


@in_netns
def test_udp_and_what_to_do_where_it_does_not_work(
    rtsp: RtspServer, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rtsp.mount("/cam", clip)
    found = probed(rtsp.url("/cam"), "--transport", "udp", "--seconds", "1")
    assert (found["transport"], found["codec"], found["audio"]) == ("udp", "h264", [])
    assert found["config"][-1] == "    transport: udp"

    proxy = NoUdp(rtsp.port)
    view = Probe(parse(f"rtsp://127.0.0.1:{proxy.port}/cam"), "udp", 0.5, patience=2.0)
    log = logging.getLogger("valkka_async.camera")
    level_before = log.level  # a command sets it for its process
    try:
        asyncio.run(view.run())
    finally:
        proxy.close()
        log.setLevel(level_before)
    assert view.tell(as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"] and found["other_way"] == {"transport": "tcp", "works": True, "error": ""}
    assert "--transport tcp" in found["advice"][0]


def test_a_camera_that_falls_silent_does_not_keep_it(rtsp: RtspServer, clip: Path) -> None:
    rtsp.mount("/cam", clip)
    with Program("probe", rtsp.url("/cam"), "--seconds", "6") as program:
        rtsp.wait_clients("/cam", 1, SECONDS)
        time.sleep(0.3)
        rtsp.pause("/cam")  # 2 s before it ends, on a busy machine too
        program.until("nothing has come for the last")
        assert program.finish() == (0, "")


def test_ctrl_c_ends_it_with_what_there_is(rtsp: RtspServer, clip: Path) -> None:
    rtsp.mount("/cam", clip)
    for patience in (1, 5, 20):  # until it has seen a frame
        with Program("probe", rtsp.url("/cam"), "--seconds", "600") as program:
            rtsp.wait_clients("/cam", 1, SECONDS)
            time.sleep(patience)
            status, _ = program.end()
        if status == 0:
            break
    assert status == 0 and "H.264" in program.seen
    rtsp.wait_clients("/cam", 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never says a word
        with Program("probe", f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x") as program:
            silent.settimeout(SECONDS)
            with silent.accept()[0]:
                status, errors = program.end()
    assert status == 1 and "stopped before anything was found" in one_line(errors)


def test_on_a_terminal_the_password_is_asked_for_and_not_shown(rtsp: RtspServer, clip: Path) -> None:
    rtsp.mount("/cam", clip, auth=("me", SECRET, "digest"))
    with Terminal("probe", rtsp.url("/cam", "me"), "--seconds", "1") as terminal:
        terminal.until(rf"Password of me at 127\.0\.0\.1:{rtsp.port}/cam: ")
        terminal.press(SECRET + "\n")
        terminal.until(r"listening to rtsp://me:\*\*\*@.* of 1 s, \d+ frames")
        assert terminal.wait() == 0, terminal.shown
        assert "H.264" in terminal.shown and "\x1b[1m" in terminal.shown
        assert SECRET not in terminal.shown


# ----------------------------------------------------------------------------------------- conclusions


def timed(dts: list[int | None], *, rate: float = 25.0) -> Times:
    """Packets with these decode times, in frames of 25/s, that arrive `rate` in a second."""
    times = Times(live=True)
    for n, value in enumerate(dts):
        packet = av.Packet(b"x")
        packet.pts = packet.dts = value
        times.take(packet, Fraction(1, 25), int(n * 1e9 / rate))  # type: ignore[arg-type]
    return times


def test_timestamps_that_are_wrong_are_told() -> None:
    assert timed([None, *range(1, 200)]).problems() == []  # as FFmpeg gives them over RTSP
    assert timed(list(range(100))).rate == pytest.approx(25)
    assert timed([0, 1, None, None, 4]).problems() == ["2 of 5 frames have no timestamp"]
    assert timed([0, 1, 2, 2, 1, 3]).problems() == ["2 of 6 do not come after the one before"]
    assert timed([0, 1, 2, 1000, 1001]).problems() == ["1 jumps ahead"]
    assert timed(list(range(0, 2500, 5))).problems() == ["they advance 5.00 s in each second"]


def test_a_pause_of_the_stream_is_no_fault_of_its_timestamps() -> None:
    times = Times(live=True)
    for n in [*range(50), *range(300, 350)]:
        packet = av.Packet(b"x")
        packet.pts = packet.dts = n
        times.take(packet, Fraction(1, 25), n * 40_000_000)  # type: ignore[arg-type]
    assert times.problems() == []


def test_levels_are_written_as_in_the_standards() -> None:
    h264 = {"avc1.640009": "1b", "avc1.42d00b": "1b", "avc1.42c00b": "1.1", "avc3.64000c": "1.2"}
    hevc = {"hvc1.1.6.L63.90": "2.1", "hev1.2.4.H150.B0": "5.0"}
    others = {"avc1.4D401F": "3.1", "av01.0.08M.08": "4.0", "vp09.00.10.08": "", "": ""}
    for name, written in (h264 | hevc | others).items():
        assert level(name) == written, name
        assert level(f"{name},mp4a.40.2") == written, name


@pytest.mark.parametrize(
    ("url", "pasted"),
    [
        ("rtsp://me:***@h/live", "rtsp://me:${PASSWORD}@h/live"),
        ("rtsp://h/live?user=me&password=***", "rtsp://h/live?user=me&password=${PASSWORD}"),
        ("rtsp://me:***@h/?token=***", "rtsp://me:${PASSWORD}@h/?token=${PASSWORD_2}"),
        ("/tmp/it's: #1.mp4", "/tmp/it's: #1.mp4"),
        ("/tmp/$5 ${x}", "/tmp/$$5 $${x}"),
        ("lavfi:testsrc=size=320x180:rate=25", "lavfi:testsrc=size=320x180:rate=25"),
    ],
)
def test_the_lines_to_paste_are_yaml_with_the_same_url(url: str, pasted: str) -> None:
    found = Findings(url, "tcp", packets=1)
    found.conclude()
    assert yaml.safe_load("\n".join(found.config)) == {"cameras": {"camera1": {"url": pasted}}}


def test_which_streams_the_page_plays() -> None:
    def page(codec: str, profile: str, browser_codec: str) -> str:
        found = Findings("x", "tcp", codec=codec, profile=profile, browser_codec=browser_codec, packets=1)
        found.conclude()
        return found.page

    assert page("h264", "High", "avc1.64001f") == "video"
    assert page("h264", "High 10", "avc1.6e001f") == "jpeg"  # no browser decodes 10 bits
    assert page("hevc", "Main", "hvc1.1.6.L93.B0") == "some"
    assert page("mjpeg", "Baseline", "") == "jpeg"
