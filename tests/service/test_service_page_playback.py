# SPDX-License-Identifier: MIT
"""Recordings on the page, in a real browser: looked through, played, saved. The cameras are away."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import valkka_async as va
from support.browser import NAME, Browser
from support.footage import encode
from support.page import Page
from support.playback import play
from support.program import Program
from support.recordings import GOP, Writer
from support.rtsp import RtspServer
from support.stream import free_port

pytestmark = pytest.mark.timeout(150)

S = 10**9
CAMERA = "  yard: {{url: 'rtsp://127.0.0.1:{}/x', open_timeout: 100}}\n"  # at this port, and nothing happens
TOKEN = "a-made-up-token-for-tests"
PEM = Path(__file__).parents[1] / "support" / "tls-address.pem"  # with its key


@contextmanager
def service(folder: Path, cameras: str, web: str = "", **recorded: list[Writer]) -> Iterator[str]:
    """A service whose cameras have these recordings already. Its page's address. `web`: more settings."""
    for name, writers in recorded.items():
        for writer in writers:
            writer.complete()
        assert (folder / "recordings" / name).is_dir()
    port = free_port()
    config = folder / "cameras.yaml"
    pattern = "recordings: 'recordings/{name}/{n}.mp4'"
    config.write_text(f"web: {{port: {port}{web}}}\n{pattern}\ncameras:\n{cameras}")
    with Program("run", str(config)) as program:
        try:
            yield program.line()
        finally:
            status, _ = program.end()
        assert status == 0


def yesterday() -> float:
    """Ten o'clock."""
    return (
        datetime.now().replace(hour=10, minute=0, second=0, microsecond=0) - timedelta(days=1)
    ).timestamp()


def part(name: str) -> str:
    """Of what belongs to the camera that is large."""
    return f"document.querySelector(':is(.large .past, .large .over, #below) [data-part={name}]')"


def says(page: Page, name: str, text: str) -> None:
    page.until(f"{part(name)}.textContent.includes({text!r})", 40)


# The number in the picture that is shown; -1: there is none yet.
NUMBER = f"""(() => {{
    const film = {part("film")};
    if (film.seeking || film.readyState < 2) return -1;
    const copy = new OffscreenCanvas(160, 96).getContext('2d', {{willReadFrequently: true}});
    copy.drawImage(film, 0, 0, 160, 96);
    const light = (x, y) => copy.getImageData(x, y, 1, 1).data[1];
    let number = 0;
    for (let x = 5; x < 160; x += 10) number = number * 2 + (light(x, 4) > light(x, 12));
    return number;
}})()"""


def at(page: Page, seconds: float, begin: float) -> None:
    """What is shown was taken so many seconds after `begin`, as the page says."""
    when = datetime.fromtimestamp(begin + seconds).strftime("%H:%M:%S")
    page.until(f"{part('when')}.textContent.includes({when!r})", 40)


def test_yesterdays_gap_is_found_and_played_over_with_keys_alone(browser: Browser, tmp_path: Path) -> None:
    begin = yesterday()
    folder = tmp_path / "recordings" / "yard"
    files = [
        Writer(folder / "1.mp4", int(begin) * S).frames(1500),
        Writer(folder / "2.mp4", int(begin + 300) * S).frames(375),
        Writer(folder / "3.mp4", int(begin + 315) * S, width=320).frames(125),
    ]
    cameras = "  yard: {url: 'rtsp://127.0.0.1:9/x'}\n  bare: {url: 'rtsp://127.0.0.1:9/x'}\n"
    with service(tmp_path, cameras, yard=files) as url, browser.page(url + "#camera=yard") as page:
        page.until(f"{part('strip')}?.offsetWidth && !{part('dayBefore')}.ariaDisabled")
        page.value(f"{part('dayBefore')}.focus()")
        page.press("Enter")
        says(page, "told", "1 gap.")
        page.press("g")
        says(page, "told", "10:01:00")
        # Of a whole day it would be too narrow to see.
        page.until(f"{part('strip')}.ariaValueMax - {part('strip')}.ariaValueMin === 5 * 240")
        at(page, 57, begin)
        page.until(f"{NUMBER} === {57 * 25 % 100}")
        page.press(".")
        page.until(f"{NUMBER} === {57 * 25 % 100 + 1}")
        page.press(",")
        page.press(",")
        page.until(f"{NUMBER} === {57 * 25 % 100 - 1}")
        page.value(f"{part('strip')}.focus()")
        page.press(" ")
        page.until(f"{part('when')}.textContent.includes('10:05:')", 40)
        says(page, "told", "Nothing was recorded from 10:01:00 to 10:05:00.")
        page.press(" ")
        page.until(f"{part('film')}.paused")
        # What is shown is of the time that is said. (The first that was played is a day after 0.)
        before = page.value(f"{part('film')}.currentTime")
        page.press("ArrowRight")
        number = f"Math.floor(({part('film')}.currentTime - 86400 + 57 - 300) * 25 + 0.01) % 100"
        page.until(f"{part('film')}.currentTime > {before + 9.9} && {NUMBER} === {number}")
        assert page.value(f"{part('strip')}.ariaValueText").endswith(
            page.value(f"{part('when')}.textContent")[-8:]
        )
        # On into a picture of another size, four times as fast.
        page.press(">")
        page.press(">")
        assert page.value(f"{part('speed')}.value") == "4"
        page.press(" ")
        page.until(f"{part('film')}.videoWidth === 320 && {part('film')}.playbackRate === 4", 40)
        says(page, "told", "Nothing is recorded after this.")
        # Faster still, key frames have to do.
        for key in (">", ">", "Home"):
            page.press(key)
        at(page, 0, begin)
        assert page.value(f"{part('speed')}.value") == "16"
        page.press(" ")
        says(page, "told", "Nothing is recorded after this.")
        if NAME != "webkit":  # which decodes all of them
            page.until(f"{NUMBER} >= 0 && {NUMBER} % {GOP} === 0")
        for _ in range(4):
            page.press("<")
        # Back over the gap, which lies between.
        page.press("Home")
        at(page, 0, begin)
        page.press("ArrowUp")
        says(page, "told", "It goes on at")
        at(page, 300, begin)
        page.press("ArrowLeft")
        says(page, "told", "from")
        page.until(f"{part('when')}.textContent.includes('10:00:5')")
        page.press("l")
        page.until(f"document.querySelector('.large .past').hidden && {part('live')}.ariaPressed === 'true'")
        page.value("location.hash = '#camera=bare'")
        says(page, "none", "There are no recordings of this camera.")
        assert not [one for one in page.problems if "ECONNREFUSED" not in one]


def test_a_part_is_saved_as_a_file_or_it_is_said_why_not(browser: Browser, tmp_path: Path) -> None:
    begin = yesterday()
    folder = tmp_path / "recordings" / "yard"
    files = [
        Writer(folder / "1.mp4", int(begin) * S).frames(1000),
        Writer(folder / "2.mp4", int(begin + 40) * S, width=320).frames(500),
    ]
    with (
        service(tmp_path, "  yard: {url: 'rtsp://127.0.0.1:9/x'}\n", yard=files) as url,
        browser.page(url + "#camera=yard") as page,
    ):
        page.until(f"{part('strip')}?.offsetWidth && !{part('dayBefore')}.ariaDisabled")
        page.run(
            "const make = URL.createObjectURL; URL.createObjectURL = (it) => make((window.blob = it));"
            "HTMLAnchorElement.prototype.click = async function () {"
            " const bytes = new Uint8Array(await window.blob.arrayBuffer());"
            " const text = bytes.reduce((all, one) => all + String.fromCharCode(one), '');"
            " window.saved = [this.download, btoa(text)]; }"
        )

        def save(first: float, end: float) -> None:
            page.value("window.saved = null")
            for name, seconds in (("clipFrom", first), ("clipTo", end)):
                value = datetime.fromtimestamp(begin + seconds).isoformat()
                page.run(f"{part(name)}.value = {value!r}; {part(name)}.onchange()")
            page.value(f"{part('clipSave')}.click()")

        page.press("c")
        page.until(f"document.activeElement === {part('clipFrom')}")
        save(10, 12)
        name, data = page.until("window.saved")
        assert name.startswith("yard-") and name.endswith("_10-00-10.mp4")
        says(page, "told", "Saved 10:00:10 to 10:00:12 (")
        assert [one.number for one in play(base64.b64decode(data))] == [n % 100 for n in range(250, 300)]
        save(100, 110)
        says(page, "clipWrong", "Nothing was recorded in this time")
        save(12, 10)
        says(page, "clipWrong", "It ends before it begins")
        save(38, 42)
        says(page, "clipWrong", "save a part of it")
        page.value(f"{part('clipParts')}.children[1].click()")
        name, _ = page.until("window.saved")
        assert name.endswith("_10-00-40.mp4")
        page.press("Escape")
        page.until(f"{part('clip')}.hidden && document.activeElement === {part('strip')}")


def test_the_strip_is_pointed_at_zoomed_and_clicked(browser: Browser, tmp_path: Path) -> None:
    begin = yesterday()
    folder = tmp_path / "recordings" / "yard"
    files = [Writer(folder / "1.mp4", int(begin) * S).frames(1500)]
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        service(tmp_path, CAMERA.format(silent.getsockname()[1]), yard=files) as url,
        browser.page(url + "#camera=yard") as page,
    ):
        page.until(f"{part('strip')}?.offsetWidth && !{part('dayBefore')}.ariaDisabled")
        page.value(f"{part('dayBefore')}.click()")
        says(page, "told", "0 gaps.")
        page.size(1280, 800)
        strip = part("strip")
        # The first event moves nothing away from under a hand: its buttons are there before it.
        assert page.value("fetch('/api/recordings/yard').then((r) => r.json()).then((r) => r.events)") == []
        assert page.value(f"{part('openEvents')}.offsetWidth")

        def view() -> tuple[float, float]:
            low, high = page.value(f"[{strip}.ariaValueMin, {strip}.ariaValueMax]")
            return float(low), float(high)

        def place(seconds: float) -> tuple[float, float]:
            """Where that is now: what stands above may have come meanwhile."""
            left, top, width = page.value(
                f"(({{x, y, width}}) => [x, y, width])({strip}.getBoundingClientRect())"
            )
            low, high = view()
            return left + width * (begin + seconds - low) / (high - low), top + 40

        for _ in range(6):  # nearer, and what is pointed at stays where it is
            low, high = view()
            page.wheel(place(30), -500)
            page.until(
                f"Number({strip}.ariaValueMax) - Number({strip}.ariaValueMin) < {(high - low) / 2} + 31"
            )
        assert sum(view()) / 2 == pytest.approx(begin + 30, abs=60)
        x, y = place(20)
        where = f"{{clientX: {x}, clientY: {y}}}"
        page.run(f"{strip}.dispatchEvent(new PointerEvent('pointermove', {where}))")
        picture = f"{part('preview')}.querySelector('img')"
        page.until(f"!{part('preview')}.hidden && {picture}.naturalWidth === 160", 40)
        assert page.value(f"{part('preview')}.textContent").startswith("10:00:")
        page.click(place(20))
        page.until(f"{part('when')}.textContent.includes('10:00:2')", 40)
        page.until(f"{NUMBER} >= 0", 40)
        for width_ in (1280, max(360, page.narrowest)):
            page.size(width_, 800)
            page.until(f"document.documentElement.scrollWidth <= {width_}")
        assert not page.problems
        if NAME != "chromium":
            return
        # A day has 23 or 25 hours, and some hours are there twice.
        page.ask("Emulation.setTimezoneOverride", timezoneId="Europe/Berlin")
        days = page.value(
            """(async () => {
                const {day, scale, time} = await import('/static/moments.js');
                const one = (at) => {
                    const {from, to} = day(at);
                    const labels = scale(from, to, 1000, 30).map(({label}) => label);
                    return [(to - from) / 3600000, labels.join(' ')];
                };
                return [one(Date.UTC(2026, 2, 29, 12)), one(Date.UTC(2026, 9, 25, 12)),
                        time(Date.UTC(2026, 9, 25, 0, 30)), time(Date.UTC(2026, 9, 25, 1, 30))];
            })()"""
        )
        (short, scale), (long, other), *twice = days
        assert (short, long) == (23, 25)
        assert scale.startswith("29 Mar 01:00 03:00 04:00") and other.startswith(
            "25 Oct 01:00 02:00 02:00 03:00"
        )
        assert twice[0] != twice[1] and all(one.startswith("02:30:00 ") for one in twice)


# Without looks at what there is, but for those after something was told; and a page that is told nothing.
TOLD = """
const [Real, ask] = [EventSource, fetch];
window.EventSource = class extends Real {
    constructor(url) {
        super(url);
        this.addEventListener('open', () => (window.opened = true));
        this.addEventListener('message', () => (window.held = false));
    }
};
window.fetch = (url, ...more) => {
    const held = window.held && String(url).includes('/api/recordings/yard?');
    return held ? Promise.reject(new TypeError('held')) : ask(url, ...more);
};
"""
ABSENT = "delete window.EventSource; window.opened = true"
REFUSED = """
const Real = EventSource;
window.EventSource = class extends Real {
    constructor() {
        super('/api/nothing');
        this.addEventListener('error', () => (window.opened = true));
    }
};
"""


@pytest.mark.parametrize("how", [TOLD, ABSENT, REFUSED], ids=["told", "absent", "refused"])
def test_what_happens_is_on_the_strip_as_soon_as_it_is_told(
    browser: Browser, tmp_path: Path, how: str
) -> None:
    begin = yesterday()
    files = [Writer(tmp_path / "recordings" / "yard" / "1.mp4", int(begin) * S).frames(50)]
    cameras = "  yard: {url: 'rtsp://127.0.0.1:9/x'}\n  yard.gate: {url: 'rtsp://127.0.0.1:9/x'}\n"
    with service(tmp_path, cameras, yard=files) as url, browser.page() as page:
        page.before(how)
        page.go(url + "#camera=yard")
        page.until(f"window.opened && {part('strip')}?.offsetWidth && !{part('dayBefore')}.ariaDisabled")
        page.run(f"window.held = {str(how == TOLD).lower()}")
        with va.serve("yard.gate.people") as another, va.serve("yard.people") as analyser:
            another.emit("person", "at the gate")
            analyser.emit("person", "<i>at</i> the door")
            now = time.time()
            strip = part("strip")
            x, y = page.value(
                f"(({{x, y, width}}) => [x + width * ({now} - {strip}.ariaValueMin) / "
                f"({strip}.ariaValueMax - {strip}.ariaValueMin), y + 40])({strip}.getBoundingClientRect())"
            )
            pointed = f"new PointerEvent('pointermove', {{clientX: {x}, clientY: {y}}})"
            shown = f"{part('preview')}.textContent"
            page.until(f"{strip}.dispatchEvent({pointed}) && {shown}.endsWith('person: <i>at</i> the door')")
        if how == TOLD:
            says(page, "told", "person: <i>at</i> the door")
        assert [problem for problem in page.problems if "/api/nothing" not in problem] == []


# What was recorded, and what the list of events says.
RECORDED = "fetch('/api/recordings/door').then((one) => one.json())"
LISTED = "[...document.querySelectorAll('#happened[open] li bdi')].map((one) => one.textContent)"


def test_over_tls_one_signs_in_sees_what_is_live_and_finds_what_happened(
    rtsp: RtspServer, browser: Browser, tmp_path: Path
) -> None:
    rtsp.mount("/door", encode(tmp_path / "door.h264", (320, 192), 50, gop=10))
    cameras = f"  door: {{url: '{rtsp.url('/door')}', record: {{on: event, before: 30s, after: 1s}}}}\n"
    web = f", token: {TOKEN}, tls: {{cert: {PEM}, key: {PEM}}}"
    (tmp_path / "recordings").mkdir()  # what happens is noted from the start
    with service(tmp_path, cameras, web) as url, browser.page(url) as page:
        assert url.startswith("https:")
        page.until("document.activeElement?.id === 'token'")
        page.type(TOKEN)
        page.press("Enter")
        video = "document.querySelector('[data-camera=door] video')"
        page.until(f"{video}?.videoWidth === 320 && {video}.currentTime > 0", 40)
        if NAME == "chromium":
            cookies = page.ask("Network.getCookies")["cookies"]
            assert [(one["secure"], one["httpOnly"]) for one in cookies] == [(True, True)]
        page.press("ArrowRight")
        page.press("Enter")
        says(page, "none", "when something happens")
        record = "document.querySelector('.large [data-part=record]')"
        page.until(f"{record}?.title === 'Record an event: the last 30 s and the next 1 s (R)'", 40)
        with va.serve("door.people") as analyser:
            analyser.emit("person", "<i>at</i> the door")
            page.until(f"{RECORDED}.then(({{events}}) => events.some(({{code}}) => code === 'person'))")
        page.press("r")
        page.until(f"{part('strip')}.offsetWidth", 40)
        page.until(f"{RECORDED}.then(({{spans, events}}) => spans.at(-1)?.to_ns > events.at(-1).at_ns)")
        page.press("v")
        page.until(f"{LISTED}.length")
        assert page.value(LISTED) == ["Camera live", "person: <i>at</i> the door", "Event recorded"]
        page.press("Tab")
        page.press("Enter")
        says(page, "told", "person: <i>at</i> the door")
        page.until(f"{part('film')}.videoWidth === 320 && {part('film')}.currentTime > 0", 40)
        assert page.value(f"document.activeElement === {part('strip')}")
        page.press("e")
        says(page, "told", "Event recorded")
        assert page.problems == []
