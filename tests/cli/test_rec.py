# SPDX-License-Identifier: MIT
"""`valkka-async rec`: files that play, whatever ends the recording, and what it says on the way."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

import valkka_async as va
from support.program import SECONDS, Program, one_line, run
from support.rtsp import RtspServer
from support.terminal import Terminal
from support.until import wait_for
from valkka_async.units import clock, in_bytes, parse_bytes, parse_seconds

pytestmark = pytest.mark.usefixtures("here")


def frames(file: Path) -> int:
    """How many frames a player gets out of it."""
    with av.open(str(file)) as container:
        return sum(1 for _ in container.decode(video=0))


def camera(name: str, clip: Path) -> va.Camera:
    """A camera that plays a file, with a ring of fragmented MP4."""
    return va.Camera(name, clip, [va.Output(f"{name}.fmp4", "fmp4")])


def test_a_recording_plays(here: Path, clip: Path) -> None:
    with camera("front", clip):
        done = run("rec", "front", "--for", "1.2s")
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = here.iterdir()
    assert re.fullmatch(r"front-\d{8}-\d{6}\.mp4", file.name)
    said = done.stdout.splitlines()
    assert re.fullmatch(rf"{file.name}: [\d.]+ kB", said[0])
    count = re.fullmatch(
        r"recorded (\d\.\d) s of front in 1 file: (\d+) frames, [\d.]+ kB, 0 dropped", said[1]
    )
    assert count and len(said) == 2
    assert frames(file) == int(count[2]) and 10 <= int(count[2]) <= 75
    assert 0.5 < float(count[1]) < 3
    assert "\x1b" not in done.stdout


def test_segments_and_patterns(here: Path, clip: Path) -> None:
    with camera("front", clip):
        done = run("rec", "front", "films/{name}-{n}.mp4", "--for", "1.3s", "--segment", "400ms")
        assert (done.returncode, done.stderr) == (0, "")
        small = run("rec", "front.fmp4", "small-{n}.mp4", "--for", "2", "--max-bytes", "1k")
        assert (small.returncode, small.stderr) == (0, "")
    files = sorted((here / "films").iterdir())
    assert len(files) >= 2 and files[0].name == "front-1.mp4"
    assert all(f"films/{file.name}: " in done.stdout and frames(file) for file in files)
    assert f"in {len(files)} files" in done.stdout
    assert frames(here / "small-1.mp4") == 10  # no file is less than a group of frames


def test_ctrl_c_completes_the_file(here: Path, clip: Path) -> None:
    with camera("front", clip), Program("rec", "front") as program:
        wait_for(lambda: any(path.stat().st_size > 5000 for path in here.iterdir()), SECONDS)
        program.signal(signal.SIGINT)
        program.until("recorded .* in 1 file")
        assert program.finish() == (0, "")
    (file,) = here.iterdir()
    assert frames(file) >= 2


@pytest.fixture
def paused(rtsp: RtspServer, clip: Path) -> Iterator[str]:
    """A camera that sends, until it is told to pause."""
    rtsp.mount("/cam", clip)
    yield rtsp.url("/cam")


def test_a_camera_that_stalls_is_told_and_waited_for(rtsp: RtspServer, paused: str) -> None:
    outputs = [va.Output("front.fmp4", "fmp4")]
    with va.Camera("front", paused, outputs, read_timeout=60), Program("rec", "front") as program:
        rtsp.wait_clients("/cam", 1, SECONDS)
        wait_for(lambda: list(Path().glob("*.mp4")), SECONDS)
        rtsp.pause("/cam")
        program.until(r"^front: no frames for \S+ s \(the camera is stalled: no frame for \d+ s\); waiting$")
        rtsp.resume("/cam")
        program.until("^front: frames again, after")
        program.signal(signal.SIGINT)
        program.until("^recorded .* 0 dropped$")
        assert program.finish() == (0, "")


def test_nothing_recorded_is_status_1_and_says_why(here: Path) -> None:
    url = "rtsp://me:s3cr3t@127.0.0.1:9/x"
    with va.Camera("gone", url, [va.Output("gone.fmp4", "fmp4")]) as camera:
        wait_for(lambda: camera.status().reason, SECONDS)
        done = run("rec", "gone", "--for", "500ms")
        with Program("rec", "gone") as program:
            program.catches(signal.SIGTERM)
            status, errors = program.end()
    for code, text in ((done.returncode, done.stderr), (status, errors)):
        assert code == 1 and "Connection refused" in one_line(text)
        assert re.search("nothing was recorded of 'gone': the camera is (waiting|connecting): ", text)
        assert "s3cr3t" not in text
    assert list(here.iterdir()) == []


def test_what_cannot_be_recorded(here: Path, clip: Path) -> None:
    with va.Camera("yard", clip), camera("front", clip):
        pixels, absent = run("rec", "yard", "--for", "1s"), run("rec", "frnt", "--for", "1s")
        (here / "file").touch()
        nowhere = run("rec", "front", "file/x.mp4", "--for", "10s")
    assert (pixels.returncode, absent.returncode, nowhere.returncode) == (1, 1, 1)
    assert "'yard' has no ring of format fmp4" in one_line(pixels.stderr)
    assert "there are: front.fmp4" in pixels.stderr
    assert "no server called 'frnt'; there are: front" in one_line(absent.stderr)
    assert "file/x.mp4" in one_line(nowhere.stderr) and "Not a directory" in nowhere.stderr


@pytest.mark.parametrize("args", [("--for", "soon"), ("--max-bytes", "-1"), ("{nmae}.mp4",)])
def test_bad_usage(args: tuple[str, ...], clip: Path) -> None:
    with va.serve("front.fmp4"):
        done = run("rec", "front", *args)
    assert done.returncode == 2
    one_line(done.stderr)


def test_on_a_terminal_a_bar_shows_how_far_it_is(here: Path, clip: Path) -> None:
    with camera("front", clip), Terminal("rec", "front", "--for", "1m") as terminal:
        terminal.until(r"front .*━.* 0:(0[1-9]|[1-5]\d) of 1:00 .*B  0 dropped")
        terminal.press("\x03")
        assert terminal.wait() == 0, terminal.shown
        assert re.search(r"recorded \d\.\d s of front in 1 file", terminal.shown)
    assert frames(next(here.iterdir()))


@pytest.mark.parametrize(
    ("text", "value"),
    [("60s", 60), ("5m", 300), ("1h30m", 5400), ("1.5", 1.5), ("250ms", 0.25), ("1D", 86400), (" 2h ", 7200)],
)
def test_durations(text: str, value: float) -> None:
    assert parse_seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "s", "5 m m", "-5s", "0", "nan", "inf", "1h30", "5min"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_seconds(text)


def test_sizes() -> None:
    assert [parse_bytes(text) for text in ("1", "500k", "1.5MB", "2GiB", "1 Mb")] == [
        1, 500_000, 1_500_000, 2 << 30, 1_000_000,
    ]  # fmt: skip
    for text in ("", "M", "-5", "0", "5x"):
        with pytest.raises(ValueError, match="not a size"):
            parse_bytes(text)
    assert [in_bytes(n) for n in (812, 3400, 99_960, 999_600, 12_000_000, 5e12)] == [
        "812 B", "3.4 kB", "100 kB", "1.0 MB", "12.0 MB", "5.0 TB",
    ]  # fmt: skip
    assert [clock(n) for n in (7.9, 65, 3900)] == ["0:07", "1:05", "1:05:00"]
