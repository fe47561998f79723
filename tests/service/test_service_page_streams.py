# SPDX-License-Identifier: MIT
"""The page, in a real browser, with cameras of two streams."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.browser import Browser
from support.footage import encode
from support.page import Page
from support.program import Program
from support.rtsp import RtspServer
from support.stream import free_port
from support.until import wait_for

LARGE, SMALL = (1280, 720), (320, 192)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        name: encode(folder / f"{name}.h264", size, 50, gop=10)
        for name, size in (("main", LARGE), ("sub", SMALL))
    }


def part(name: str, part: str = "") -> str:
    inside = f' [data-part="{part}"]' if part else ""
    return f"document.querySelector('[data-camera=\"{name}\"]{inside}')"


def plays(page: Page, name: str) -> None:
    """It shows the small stream, which moves on from here."""
    video = part(name, "video")
    page.until(f"{part(name)}?.dataset.state === 'live' && {video}.videoWidth === {SMALL[0]}", 40)
    at = page.value(f"{video}.currentTime")
    page.until(f"Math.abs({video}.currentTime - {at}) > 0.3 && {part(name, 'cover')}.hidden", 40)


def test_the_small_stream_goes_on_whatever_becomes_of_the_main_one(
    rtsp: RtspServer, clips: dict[str, Path], browser: Browser, tmp_path: Path
) -> None:
    port = free_port()
    streams = []
    for name in ("both", "asleep"):
        for stream, clip in clips.items():
            rtsp.mount(f"/{name}/{stream}", clip)
        urls = ", ".join(f"{stream}: '{rtsp.url(f'/{name}/{stream}')}'" for stream in clips)
        streams.append(f"  {name}: {{streams: {{{urls}}}, retry_max: 1, retry_refused: 1")
    config = tmp_path / "cameras.yaml"
    cameras = f"{streams[0]}, record: true}}\n{streams[1]}, connect: on_demand}}\n"
    config.write_text(
        f"web: {{port: {port}}}\nrecordings: {tmp_path}/{{name}}/%H-%M-%S.mp4\ncameras:\n{cameras}"
    )
    with Program("run", str(config)) as program:
        url = program.line()
        with browser.page(url) as page:
            page.size(800, 500)  # in which the details are not shown at first
            for name in ("both", "asleep"):
                plays(page, name)
            assert page.value(f"{part('both', 'others')}.hidden")
            rtsp.wait_clients("/asleep/main", 0)  # nobody records it
            rtsp.unmount("/both/main")
            page.until(f"{part('both', 'others')}.textContent.startsWith('main: ')", 40)
            plays(page, "both")
            page.value(f"{part('both', 'open')}.click()")
            page.until("document.body.innerText.includes('no such stream')")
            page.press("i")
            page.until("document.body.innerText.includes('Stream main')")
            rtsp.mount("/both/main", clips["main"])
            page.until(f"{part('both', 'others')}.hidden", 40)
            assert page.problems == []
        wait_for(lambda: rtsp.stats()["/asleep/sub"].clients == 0)  # nobody looks
        with browser.page(url) as page:
            plays(page, "asleep")
        assert program.end(signal.SIGTERM)[0] == 0
