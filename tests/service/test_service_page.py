# SPDX-License-Identifier: MIT
"""The page in a real browser, with real cameras that are killed, stopped, changed and taken away.

The browser's own word is taken for what it shows: a video's time, its size, what its canvas has. By default a
look takes some seconds; VALKKA_STRESS_SECONDS makes it longer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest

from support.browser import NAME, Browser
from support.footage import encode
from support.page import Page
from support.program import Program, run
from support.recordings import Writer
from support.rtsp import RtspServer
from support.rtsp_camera import RtspCamera
from support.rtsp_sound import clicks, flashes
from support.stream import free_port
from support.until import wait_for
from valkka_async.service.control import ask

SECONDS = float(os.environ.get("VALKKA_STRESS_SECONDS", "4"))
SCRIPT = "<script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("page")
    return {
        "small": encode(folder / "small.h264", (320, 192), 50, gop=10),
        "large": encode(folder / "large.h264", (480, 288), 50, gop=10),
        "stills": encode(folder / "stills.mjpeg", (320, 192), 50, codec="mjpeg"),
    }


class Stand:
    """A service whose config can be changed, killed and run again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/"

    def write(self, cameras: dict[str, str], **titles: str) -> None:
        lines = [f"web: {{port: {self._port}}}", "defaults: {retry_max: 1}", "cameras:"]
        for name, url in cameras.items():
            title = titles.get(name, "")
            lines.append(f'  {name}: {{url: "{url}", title: "{title}"}}')
        (self._folder / "cameras.yaml").write_text("\n".join(lines) + "\n")

    @contextmanager
    def running(self) -> Iterator[Program]:
        with Program("run", str(self._folder / "cameras.yaml")) as program:
            assert program.line() == self.url
            try:
                yield program
            finally:  # also where a browser cannot do what the test asks for
                status, _ = program.end(signal.SIGTERM)
            assert status == 0

    def camera(self, name: str) -> dict[str, Any]:
        status = ask("service", "status", 10.0)
        return next(c for c in status["cameras"] if c["name"] == name)


def tile(name: str, part: str = "") -> str:
    inside = f' [data-part="{part}"]' if part else ""
    return f"document.querySelector('[data-camera=\"{name}\"]{inside}')"


def plays(page: Page, name: str, seconds: float = 40) -> None:
    """Its picture moves on from here."""
    page.until(f"{tile(name)}?.dataset.state === 'live' && {tile(name, 'video')}.readyState >= 2", seconds)
    at = page.value(f"{tile(name, 'video')}.currentTime")
    page.until(f"Math.abs({tile(name, 'video')}.currentTime - {at}) > 0.3", seconds)
    page.until(f"{tile(name, 'cover')}.hidden")


LOOK = """[...document.querySelectorAll('[data-camera] video')].map((v) => ({
    name: v.closest('[data-camera]').dataset.camera, time: v.currentTime, paused: v.paused,
    behind: v.buffered.length ? v.buffered.end(v.buffered.length - 1) - v.currentTime : null,
}))"""


@pytest.mark.timeout(max(120, SECONDS + 90))
def test_four_cameras_play_and_stay_near_to_now(
    rtsp: RtspServer, clips: dict[str, Path], browser: Browser, tmp_path: Path
) -> None:
    names = [f"cam{n}" for n in range(4)]
    for name in names:
        rtsp.mount(f"/{name}", clips["small"])
    stand = Stand(tmp_path)
    stand.write({name: rtsp.url(f"/{name}") for name in names})
    with stand.running(), browser.page(stand.url) as page:
        for name in names:
            plays(page, name)
        looks = []
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            looks.append({one["name"]: one for one in page.value(LOOK)})
            time.sleep(0.25)
        # The browser is not alone on this machine, and draws without a graphics card.
        spare = 1 + len(looks) // 3
        for name in names:
            times = [look[name]["time"] for look in looks]
            assert times[-1] - times[0] > 0.7 * SECONDS - 1
            assert sum(later <= earlier for earlier, later in zip(times, times[1:], strict=False)) <= spare
            behind = [look[name]["behind"] for look in looks]
            assert all(b is not None for b in behind)
            assert sum(b >= 1.0 for b in behind) <= spare, behind
        assert page.value("document.querySelector('#summary').innerText.trim()") == "4 cameras, all live"
        assert page.problems == []
        # One that has fallen behind jumps, or is hurried a little, until it is live again.
        video = tile(names[0], "video")
        behind = f"({video}.buffered.end({video}.buffered.length - 1) - {video}.currentTime)"
        for late in (3, 0.8):
            page.value(f"{video}.currentTime -= {late} - {behind}")
            page.until(f"{behind} < 0.5")
        # A tab behind others, or a laptop that slept, goes on with what is new, and not where it was.
        if NAME == "chromium":
            page.ask("Page.setWebLifecycleState", state="frozen")
            time.sleep(4)
            page.ask("Page.setWebLifecycleState", state="active")
            page.ask("Emulation.setFocusEmulationEnabled", enabled=True)  # it is in front again
        for name in names:
            plays(page, name)
        page.until(f"{LOOK}.every((v) => v.behind < 1)")
        for width in (1280, 360):
            page.size(width, 800)
            widest = max(width, page.narrowest)
            page.until(f"document.documentElement.scrollWidth <= {widest}")


def test_a_camera_is_heard_after_a_click_and_seen_whatever_becomes_of_its_sound(
    browser: Browser, tmp_path: Path
) -> None:
    stopped = threading.Event()
    talk = clicks("aac", sent=lambda *_: not stopped.is_set())
    units = list(flashes())
    with RtspCamera(units, sound=talk) as front, RtspCamera(units) as back:
        stand = Stand(tmp_path)
        stand.write({"front": front.url(), "back": back.url()})
        with stand.running(), browser.page(stand.url) as page:
            plays(page, "front")
            plays(page, "back")
            assert page.value(f"{tile('back', 'sound')}.hidden")
            video = tile("front", "video")
            # Firefox and WebKitGTK do not say how much, but whether.
            some = f"({video}.mozHasAudio ?? {video}.audioTracks?.length > 0)"
            heard = f"({video}.webkitAudioDecodedByteCount ?? 3000 * {some})"
            # Without a sound card WebKitGTK changes `muted` itself.
            muted = (
                f"{video}.muted" if NAME != "webkit" else f"{tile('front', 'sound')}.ariaPressed !== 'true'"
            )
            assert page.value(f"[{muted}, {heard}]") == [True, 0]
            page.click(page.middle(tile("front", "sound")))
            page.until(f"!({muted}) && {heard} > 2000")
            plays(page, "front")
            stopped.set()
            time.sleep(2)
            for _ in range(3):
                plays(page, "front")
            page.until(f"{video}.buffered.end({video}.buffered.length - 1) - {video}.currentTime < 1")
            wait_for(lambda: stand.camera("front")["camera"]["streams"][0]["sound"]["state"] == "silent")
            stopped.clear()
            if NAME == "chromium":
                page.until(f"{heard} > {page.value(heard)} + 2000")
            page.click(page.middle(tile("front", "sound")))
            page.until(f"{muted} && {heard} === 0")
            plays(page, "front")
            assert page.problems == []


@pytest.mark.timeout(180)
def test_a_picture_comes_back_by_itself(
    rtsp: RtspServer, clips: dict[str, Path], browser: Browser, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        rtsp.mount(f"/{name}", clips["small"])
    stand = Stand(tmp_path)
    stand.write({"a": rtsp.url("/a"), "b": rtsp.url("/b")}, a=SCRIPT)
    with stand.running(), browser.page(stand.url) as page:
        for name in ("a", "b"):
            plays(page, name)
        # A title is text.
        assert page.value(f"{tile('a', 'title')}.textContent") == SCRIPT
        assert "owned" not in page.value("document.title")

        os.kill(stand.camera("a")["worker"]["pid"], signal.SIGKILL)
        wait_for(lambda: stand.camera("a")["worker"]["restarts"] == 1)
        plays(page, "a")

        rtsp.switch("/a", clips["large"])
        page.until(f"{tile('a', 'video')}.videoWidth === 480")
        plays(page, "a")

        # One that hangs says so over its last picture, and goes on.
        rtsp.pause("/b")
        page.until(f"{tile('b')}.dataset.state === 'stalled' && !{tile('b', 'cover')}.hidden")
        assert page.value(f"{tile('b', 'coverReason')}.textContent")
        rtsp.resume("/b")
        plays(page, "b")

        # Cameras come and go without a reload of the page; those that stay go on.
        page.value("window.stayed = true")
        stand.write({"a": rtsp.url("/a"), "c": rtsp.url("/c")})
        assert run("reload").returncode == 0
        page.until(f"{tile('b')} === null")
        plays(page, "c")
        plays(page, "a")
        assert page.value("window.stayed")
        assert page.problems == []


@pytest.mark.timeout(180)
def test_a_service_that_was_restarted_is_found_again(
    rtsp: RtspServer, clips: dict[str, Path], browser: Browser, tmp_path: Path
) -> None:
    rtsp.mount("/a", clips["small"])
    stand = Stand(tmp_path)
    stand.write({"a": rtsp.url("/a")})
    with browser.page() as page:
        with stand.running():
            page.go(stand.url)
            plays(page, "a")
        page.until("!document.querySelector('#banner').hidden")
        with stand.running():
            page.until("document.querySelector('#banner').hidden")
            plays(page, "a")
            expected = ("WebSocket", "CONNECTION_REFUSED", "can\u2019t establish a connection")
            assert not [p for p in page.problems if not any(text in p for text in expected)]


@pytest.mark.timeout(120)
def test_a_browser_plays_any_time_of_the_recordings(browser: Browser, tmp_path: Path) -> None:
    """As a file of which it asks for parts, and through Media Source Extensions."""
    begin = 1_700_000_000
    for number in range(3):
        path = tmp_path / "recordings" / "a" / f"{number}.mp4"
        Writer(path, (begin + 10 * number) * 10**9).frames(250).complete()
    stand = Stand(tmp_path)
    stand.write({"a": "rtsp://127.0.0.1:9/x"})
    with (tmp_path / "cameras.yaml").open("a") as config:
        config.write("recordings: 'recordings/{name}/{n}.mp4'\n")
    with stand.running(), browser.page(stand.url) as page:
        wait_for(lambda: stand.camera("a")["stored"])
        page.until(f"{tile('a')} !== null")
        address = f"/api/recordings/a/clip.mp4?from={begin + 4}&to={begin + 24}"
        page.run(
            "window.film = Object.assign(document.createElement('video'), "
            f"{{src: '{address}', muted: true}}); document.body.append(film); film.play();"
        )
        page.until("film.currentTime > 0.3 && film.duration > 19.5 && film.duration < 20.5")
        page.value("film.currentTime = 15")
        page.until("!film.seeking && film.currentTime > 15.1")
        page.run(
            f"""(async () => {{
                const line = await (await fetch('/api/recordings/a?from={begin}&to={begin + 40}')).json();
                const clip = await (await fetch('{address}')).arrayBuffer();
                const source = new MediaSource();
                window.live = document.createElement('video');
                live.src = URL.createObjectURL(source);
                await new Promise((done) => source.addEventListener('sourceopen', done, {{once: true}}));
                const buffer = source.addSourceBuffer(`video/mp4; codecs="${{line.spans[0].codec}}"`);
                buffer.appendBuffer(clip);
                await new Promise((done) => buffer.addEventListener('updateend', done, {{once: true}}));
                window.appended = [buffer.buffered.length, buffer.buffered.end(0)];
            }})();"""
        )
        assert page.until("window.appended") == [1, pytest.approx(20, abs=0.1)]


@pytest.mark.timeout(120)
def test_why_nothing_is_recorded_stands_on_the_page(
    rtsp: RtspServer, clips: dict[str, Path], browser: Browser, tmp_path: Path
) -> None:
    """For whoever opens it later, too; and as long as it lasts."""
    rtsp.mount("/a", clips["small"])
    stand = Stand(tmp_path)
    stand.write({"a": rtsp.url("/a")})
    config = tmp_path / "cameras.yaml"
    config.write_text(config.read_text().replace("retry_max: 1", "retry_max: 1, record: true"))
    (tmp_path / "recordings").write_text("a file where the folder should be")
    with stand.running():
        wait_for(lambda: (stand.camera("a")["recording"] or {}).get("error"))
        with browser.page(stand.url) as page:
            page.until(f"{tile('a', 'recTime')}?.textContent === 'Not recorded: disk error'")
            page.value(f"{tile('a', 'open')}.click()")
            page.until("document.body.dataset.view === 'single'")
            page.until("document.body.innerText.includes('Nothing is written, for ')")
            assert page.value("document.body.innerText.includes('recordings')")


@pytest.mark.timeout(180)
def test_buttons_keys_and_what_the_browser_cannot_play(
    rtsp: RtspServer, clips: dict[str, Path], browser: Browser, tmp_path: Path
) -> None:
    rtsp.mount("/a", clips["small"])
    rtsp.mount("/j", clips["stills"], codec="mjpeg")
    stand = Stand(tmp_path)
    stand.write({"a": rtsp.url("/a"), "old": rtsp.url("/j")})
    with stand.running(), browser.page(stand.url) as page:
        plays(page, "a")
        page.until(f"{tile('old')}.dataset.mode === 'jpeg' && {tile('old', 'still')}.width === 320")
        page.until(f"{tile('old', 'cover')}.hidden")
        drawn = f"{tile('old', 'still')}.toDataURL()"
        first = page.value(drawn)
        page.until(f"{drawn} !== {first!r}")  # the pictures move

        page.value(f"{tile('a', 'record')}.click()")
        page.until(f"!{tile('a', 'rec')}.hidden")
        wait_for(lambda: (stand.camera("a")["recording"] or {}).get("duration", 0) > 0.5)
        path = stand.camera("a")["recording"]["path"]
        page.value(f"{tile('a', 'record')}.click()")
        page.until(f"{tile('a', 'rec')}.hidden")
        with av.open(path) as film:
            assert sum(1 for _ in film.decode(video=0)) >= 10
        # What the browser cannot play is recorded all the same.
        page.value(f"{tile('old', 'record')}.click()")
        wait_for(lambda: (stand.camera("old")["recording"] or {}).get("duration", 0) > 0.5)
        page.value(f"{tile('old', 'record')}.click()")
        page.until(f"{tile('old', 'rec')}.hidden")

        # A snapshot is a file; it is caught here on its way.
        page.run(
            "HTMLAnchorElement.prototype.click = function () {"
            " const [image, name] = [new Image(), this.download];"
            " image.onload = () => (window.snap = [name, image.naturalWidth]); image.src = this.href; }"
        )
        page.value(f"{tile('a', 'snapshot')}.click()")
        name, width = page.until("window.snap")
        assert name.startswith("a-") and name.endswith(".jpg") and width == 320

        page.value(f"{tile('a', 'open')}.click()")
        page.until("document.body.dataset.view === 'single' && location.hash === '#camera=a'")
        page.press("ArrowRight")
        page.until("location.hash === '#camera=old'")
        page.press("Escape")
        page.until("document.body.dataset.view === 'grid'")
        # What is out of view is not sent: on the first tile's page nobody sees the second.
        page.size(360, 120)
        page.until("fetch('/api/status').then((r) => r.json()).then((s) => s.page.viewers === 1)")
        # The one that is refused is an answer of 409, which the browser's log has too.
        assert [p for p in page.problems if "409" not in p] == []


SPOIL = """
const append = SourceBuffer.prototype.appendBuffer;
let appended = 0;
SourceBuffer.prototype.appendBuffer = function (data) {
  appended += 1;
  if (appended === 20) {
    window.full = true;
    throw new DOMException("", "QuotaExceededError");
  }
  append.call(this, window.spoiled ? data.map((byte, n) => (n < 112 ? byte : 7)) : data);
};
"""

LATE = """
HTMLVideoElement.prototype.getVideoPlaybackQuality = () => ({droppedVideoFrames: window.late ?? 0});
"""


def test_a_browser_that_fails_goes_on_with_video_or_with_pictures(
    rtsp: RtspServer, clips: dict[str, Path], browser: Browser, tmp_path: Path
) -> None:
    rtsp.mount("/a", clips["small"])
    stand = Stand(tmp_path)
    stand.write({"a": rtsp.url("/a")})
    drawn = f"{tile('a', 'still')}.toDataURL()"
    with stand.running():
        with browser.page() as page:
            page.before(SPOIL)
            page.go(stand.url)
            page.until("window.full")  # no more room: it makes some
            plays(page, "a")
            # What cannot be decoded again and again is given up for a while.
            page.value("window.spoiled = true")
            page.until(f"{tile('a')}.dataset.mode === 'jpeg'")
            first = page.value(drawn)
            page.until(f"{drawn} !== {first!r} && {tile('a', 'cover')}.hidden")
            assert page.problems == []
        with browser.page() as page:
            # What the browser itself does not draw in time is told, once that is seen.
            page.before(LATE)
            page.go(stand.url)
            plays(page, "a")
            page.value("window.late = 500")
            page.until(f"parseInt({tile('a', 'drops')}.textContent) >= 500")
        with browser.page() as page:
            source = "MediaSource.isTypeSupported = () => false"
            page.before(source)
            page.go(stand.url + "#camera=a")  # a link to one camera
            page.until(f"document.body.dataset.view === 'single' && {tile('a')}.dataset.mode === 'jpeg'")
            first = page.until(f"{tile('a', 'cover')}.hidden && {drawn}")
            page.until(f"{drawn} !== {first!r}")
            page.value("location.hash = '#camera=elsewhere'")
            page.until("!document.querySelector('#absent').hidden")
            assert page.problems == []
