# SPDX-License-Identifier: MIT
"""The page, in a real browser, with what an analyser found drawn over a camera's picture."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import valkka_async as va
from support.browser import Browser
from support.footage import encode
from support.program import Program
from support.rtsp import RtspServer
from support.stream import free_port
from support.until import wait_for

pytestmark = pytest.mark.timeout(150)

CANVAS = "document.querySelector('[data-camera=cam] [data-part=boxes]')"
BUTTON = "document.querySelector('[data-camera=cam] [data-part=drawBoxes]')"
# The canvas is as large as the frame that was analysed, with a line at the box's left edge.
DRAWN = f"""(() => {{
    if ({CANVAS}.hidden || {CANVAS}.dataset.boxes !== '1') return false;
    const copy = new OffscreenCanvas(320, 192).getContext('2d', {{willReadFrequently: true}});
    copy.drawImage({CANVAS}, 0, 0);
    const at = (x, y) => copy.getImageData(x, y, 1, 1).data;
    const [red, green, blue, alpha] = at(40, 100);
    return {CANVAS}.width === 320 && alpha > 200 && red > 200 && blue < 100 && at(60, 100)[3] === 0;
}})()"""


def analyse(boxes: va.Server, stop: threading.Event) -> None:
    """The same box in each frame."""
    with va.attach("cam", open_timeout=30, reconnect=True) as reader:
        while not stop.is_set():
            try:
                frame = reader.recv(0.2)
            except TimeoutError:
                continue
            with frame:
                boxes.publish_result(frame, [va.Box(40, 60, 120, 140, "<i>cat</i>", 0.9)])


def test_boxes_are_drawn_when_asked_and_read_by_nobody_else(
    rtsp: RtspServer, browser: Browser, tmp_path: Path
) -> None:
    rtsp.mount("/cam", encode(tmp_path / "cam.h264", (320, 192), 50, gop=10))
    port = free_port()
    config = tmp_path / "cameras.yaml"
    camera = f"  cam: {{url: '{rtsp.url('/cam')}', outputs: [{{fps: 10}}]}}\n"
    config.write_text(f"web: {{port: {port}}}\ncameras:\n{camera}")
    with Program("run", str(config)) as program, browser.page(program.line() + "#camera=cam") as page:
        page.until(f"{BUTTON}?.offsetParent && {BUTTON}.ariaPressed === 'false'", 40)
        page.press("b")
        page.until("document.querySelector('#toasts').textContent.includes('cam.boxes')")
        assert page.value(f"{BUTTON}.ariaPressed") == "true" and page.value(f"{CANVAS}.hidden")
        stop = threading.Event()
        with va.serve("cam.boxes") as boxes:
            analyser = threading.Thread(target=analyse, args=(boxes, stop))
            analyser.start()
            try:
                page.until(DRAWN, 40)
                assert boxes.readers == 1
                page.value(f"{BUTTON}.click()")
                page.until(f"{CANVAS}.hidden")
                wait_for(lambda: boxes.readers == 0)
                page.press("b")
                page.until(DRAWN, 40)
            finally:
                stop.set()
                analyser.join()
        page.until(f"{CANVAS}.hidden")  # the boxes of a frame that is long gone
        assert program.end()[0] == 0
