# SPDX-License-Identifier: MIT
"""The page in a real browser, with cameras that are as a test says: what is shown first, on any screen, to
any hand."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from web_tools import Settings, Stand, camera, recording

from support.axe import violations
from support.browser import NAME, Browser
from support.page import Page
from support.recordings import Writer
from valkka_async.camera.status import CameraState, Cause
from valkka_async.record.archive import Archive, Kept
from valkka_async.record.cause import RecordingCause
from valkka_async.record.pattern import Pattern
from valkka_async.record.retention import Keep
from valkka_async.service.status import RecordingError, RecordingState
from valkka_async.service.web.app import serve

pytestmark = pytest.mark.timeout(150)

TOKEN = "a-made-up-token-for-tests"
SHOWN = "[...document.querySelectorAll('.tile')].filter((t) => t.offsetParent).map((t) => t.dataset.camera)"
FOCUS = "document.activeElement.closest('[data-camera]')?.dataset.camera"
VIEW = "document.body.dataset.view"


@contextmanager
def served(stand: Stand, settings: Settings | None = None, recorded: Path | None = None) -> Iterator[str]:
    """The page's address, while a thread of its own serves it. `recorded`: where recordings are."""
    found: list[str] = []
    there = threading.Event()

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if recorded is not None:
                stand.archive = await stack.enter_async_context(Archive(recorded / ".index"))
                await know(stand, recorded)
            page = await stack.enter_async_context(serve(stand, settings or Settings()))
            found.append(page.url)
            there.set()
            while there.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert there.wait(30)
        yield found[0]
    finally:
        there.clear()
        thread.join()


async def know(stand: Stand, recorded: Path) -> None:
    """The recordings, and what happened as they began."""
    archive = stand.archive
    patterns = {name: Pattern(f"{recorded}/{name}/{{n}}.mp4", name) for name in stand.cameras}
    archive.follow({name: Kept(one, Keep()) for name, one in patterns.items()}, Keep(), patterns.__getitem__)
    await archive.settled()
    for name in stand.cameras:
        stand.change(name, stored=(stored := archive.stored(name)))
        for code in ("camera.live", "camera.waiting", "person") if stored is not None else ():
            archive.happened(name, stored.oldest_ns, code, "why")


def stand(*names: str, **differing: Any) -> Stand:
    return Stand({name: camera(name, **differing) for name in names})


def fail(its: Stand, name: str) -> None:
    its.change(name, state=CameraState.FAILED, cause=Cause.AUTH, reason="it refuses the password")


def part(name: str, part: str) -> str:
    return f'document.querySelector(\'[data-camera="{name}"] [data-part="{part}"]\')'


def test_what_has_failed_comes_first_and_can_be_seen_alone(browser: Browser) -> None:
    its = stand(*(f"cam{n}" for n in range(1, 9)))
    its.change("cam2", title="Aerial", group="Outside")
    fail(its, "cam5")
    error = RecordingError(RecordingCause.DISK_FULL, "no space left on device", time.time_ns())
    its.change("cam7", recording=recording(state=RecordingState.FAILED, error=error))
    with served(its) as url, browser.page(url) as page:
        rest = ["cam1", "cam2", "cam3", "cam4", "cam6", "cam8"]
        page.until(f"{SHOWN}.length === 8")
        assert page.value(SHOWN) == ["cam5", "cam7", *rest]
        count = "document.querySelector('#summary').innerText"
        assert page.value(count).strip().split("\n") == ["8 cameras", "1 failed", "1 not recorded"]
        page.value("document.querySelector('[data-kind=failed]').click()")
        assert page.value(SHOWN) == ["cam5"]
        page.press("Escape")
        assert len(page.value(SHOWN)) == 8
        page.press("/")
        page.type("aer")
        assert page.value(SHOWN) == ["cam2"]
        page.press("Enter")
        assert page.value(FOCUS) == "cam2"
        page.press("Escape")
        page.value("document.activeElement.blur()")
        page.run("group.value = 'Outside'; group.dispatchEvent(new Event('change'))")
        assert page.value(SHOWN) == ["cam2"]
        page.press("Escape")

        # The order is chosen, and stays so in this browser.
        page.value("document.querySelector('[name=order][value=name]').click()")
        assert page.value(SHOWN) == ["cam2", "cam1", *(f"cam{n}" for n in range(3, 9))]
        page.value("document.querySelector('[name=order][value=own]').click()")
        page.value(f"{part('cam1', 'handle')}.focus()")
        page.press("ArrowRight")
        assert page.value(f"document.activeElement === {part('cam1', 'handle')}")
        own = ["cam2", "cam1", *(f"cam{n}" for n in range(3, 9))]
        assert page.value(SHOWN) == own
        page.go(url)
        page.until(f"{SHOWN}.length === 8")
        assert page.value(SHOWN) == own
        page.value("localStorage.clear()")
        assert page.problems == []


def test_keys_the_focus_and_the_way_back(browser: Browser) -> None:
    its = stand("a", "b", "c")
    with served(its) as url, browser.page("about:blank") as page:
        page.go(url)
        page.until(f"{SHOWN}.length === 3")
        page.press("ArrowRight")
        page.press("ArrowRight")
        assert page.value(FOCUS) == "b"
        page.press("Enter")
        page.until(f"{VIEW} === 'single' && document.activeElement.id === 'service'")
        assert page.value("document.activeElement.textContent") == "b"
        page.press("ArrowRight")
        assert page.value(SHOWN) == ["c"]
        page.press("Escape")
        page.until(f"{VIEW} === 'grid' && {FOCUS} === 'c'")

        page.press("?")
        listed = page.value("document.querySelector('#keys').innerText")
        for word in ("Esc", "Full screen", "Sound", "Snapshot", "Record", "Search"):
            assert word in listed
        page.press("r")  # it is for what lies over the page
        page.value("document.querySelector('#keys').close()")
        # The same key, and the same camera, in both views; and an answer to each press.
        said = "document.querySelector('#toasts').textContent"
        page.press("r")
        page.until(f"{said}.includes('c\\u2069: recording') && {part('c', 'record')}.ariaPressed === 'true'")
        page.press("Enter")
        page.until(f"{VIEW} === 'single'")
        page.press("r")
        page.until(f"{said}.includes('c\\u2069: recorded') && {part('c', 'record')}.ariaPressed === 'false'")
        saved = "HTMLAnchorElement.prototype.click = function () { window.saved = this.href; }"
        page.run(saved)
        page.press("d")
        assert "/api/recordings/c/clip.mp4?" in page.value("window.saved")
        page.run("document.querySelectorAll('.toast button').forEach((one) => one.click())")

        page.press("f")
        page.until("'bare' in document.body.dataset")
        page.until("getComputedStyle(document.querySelector('.bar')).opacity === '0'")
        page.press("Escape")
        page.until("!('bare' in document.body.dataset)")
        page.click(page.middle("document.querySelector('.large .screen')"), 2)
        page.until("'bare' in document.body.dataset")
        page.press("f")
        page.until("!('bare' in document.body.dataset)")

        page.press("Escape")
        page.until(f"{VIEW} === 'grid'")
        page.click(page.middle(part("a", "screen")), 2)  # in the grid, too
        page.until(f"{VIEW} === 'single' && 'bare' in document.body.dataset")
        page.press("f")
        page.until("!('bare' in document.body.dataset)")

        # One step back from the camera is the grid, and from there it is what was before.
        page.press("Escape")
        page.until(f"{VIEW} === 'grid'")
        page.value("setTimeout(() => history.back())")
        page.until("location.href === 'about:blank'")
        assert page.problems == []


FITS = """[...document.querySelectorAll('button, summary, .tools input, .tools select')]
    .filter((b) => b.checkVisibility() && !b.closest('#details') && !b.matches('.open'))
    .map((b) => [b.ariaLabel || b.textContent.trim(), b.getBoundingClientRect()])
    .filter(([, r]) => r.width < %d || r.height < %d || r.left < 0 || r.right > innerWidth
        || r.bottom > innerHeight)
    .map(([name]) => name)"""


def test_one_camera_fits_every_screen_and_the_hand_that_holds_it(browser: Browser) -> None:
    its = stand("a", "b")
    its.change("a", title="The long drive between the old barn and the new stables, as seen from the roof")
    with served(its) as url, browser.page(url + "#camera=a") as page:
        page.until(f"{SHOWN}.length === 1")
        sizes = [(844, 390), (780, 360), (667, 375), (360, 780), (390, 844), (1024, 600), (1280, 800)]
        for width, height in sizes:
            if width < page.narrowest:
                continue
            touch = page.touches and min(width, height) < 480
            hit = 44 if touch else 36
            page.size(width, height, touch=touch)
            page.until(f"innerWidth === {width}")
            page.until(f"{FITS % (hit, hit)}.length === 0")
            assert page.value("document.documentElement.scrollWidth") <= width
            picture = page.value(
                "(r => [r.width, r.height])(document.querySelector('.large .screen').getBoundingClientRect())"
            )
            assert picture[0] * picture[1] > 0.4 * width * min(height, width * 9 / 16)
            if width > height:
                assert page.value("document.documentElement.scrollHeight") <= height
        assert page.problems == []


def test_fingers_swipe_from_camera_to_camera_and_enlarge_a_part(browser: Browser) -> None:
    its = stand("a", "b", "c")
    with served(its) as url, browser.page(url + "#camera=a") as page:
        page.size(390, 844, touch=True)
        page.until(f"{SHOWN}.length === 1")
        screen = "document.querySelector('.large .screen')"
        x, y = page.middle(screen)
        along = [[(x + 100 - 40 * n, y)] for n in range(6)]
        page.touch(*along)
        page.until(f"{SHOWN}[0] === 'b'")
        page.touch(*reversed(along))
        page.until(f"{SHOWN}[0] === 'a'")

        scale = "new DOMMatrix(getComputedStyle(document.querySelector('.large .picture')).transform).a"
        page.touch(*([(x - 30 - 15 * n, y), (x + 30 + 15 * n, y)] for n in range(5)))
        assert page.until(f"{scale} > 2 && {scale}") < 5
        # Larger than the screen, it is moved, and never off its edge; and no other camera comes.
        page.touch(*([(x - 150 + 100 * n, y)] for n in range(4)))
        box = page.value(
            "(r => [r.left, r.right])(document.querySelector('.large .picture').getBoundingClientRect())"
        )
        left, right = page.value(f"(r => [r.left, r.right])({screen}.getBoundingClientRect())")
        assert box[0] <= left + 1 and box[1] >= right - 1 and page.value(SHOWN) == ["a"]
        for _ in range(2):
            page.touch([(x, y)])
        page.until(f"{scale} === 1")

        page.size(390, 844)
        page.wheel((x, y), -300)
        page.until(f"{scale} > 1.2")
        page.press("0")
        page.until(f"{scale} === 1")
        page.press("+")
        page.until(f"{scale} > 1.2")
        page.press("Escape")
        page.until(f"{VIEW} === 'grid'")
        assert page.value("document.querySelector('.tile .picture').style.transform") == ""
        assert page.problems == []


def test_a_theme_that_is_chosen_a_page_that_is_installed_and_signing_out(browser: Browser) -> None:
    its = stand("a")
    back = "getComputedStyle(document.body).backgroundColor"
    with served(its, Settings(token=SecretStr(TOKEN))) as url, browser.page(url) as page:
        page.until("document.querySelector('#token') !== null")
        # What the page is installed with is fetched without a cookie.
        for name in ("app.webmanifest", "favicon.svg", "icon.svg"):
            kind = (
                f"fetch('/static/{name}', {{credentials: 'omit'}}).then((r) => r.headers.get('Content-Type'))"
            )
            assert page.value(kind) == ("application/manifest+json" if "web" in name else "image/svg+xml")
        page.run(f"document.querySelector('#token').value = '{TOKEN}'; document.forms[0].submit()")
        page.until(f"{SHOWN}.length === 1")
        colours = {}
        for theme in ("light", "dark"):
            page.value(f"document.querySelector('[name=theme][value={theme}]').click()")
            colours[theme] = page.value(back)
        assert colours["light"] != colours["dark"]
        page.go(url)
        page.until(f"{SHOWN}.length === 1")
        page.until(f"{back} === '{colours['dark']}'")
        page.value("document.querySelector('[name=theme][value=auto]').click()")
        if NAME == "chromium":
            assert page.ask("Page.getAppManifest")["errors"] == []
            for theme, colour in colours.items():
                page.prefer(prefers_color_scheme=theme)
                assert page.value(back) == colour
        page.value("localStorage.clear()")
        page.until("!document.querySelector('#sign-out').hidden")
        page.value("setTimeout(() => document.querySelector('#sign-out').click())")
        page.until("location.pathname === '/login' && document.querySelector('#token') !== null")
        page.go(url)
        page.until("location.pathname === '/login'")


def test_what_is_not_seen_is_said(browser: Browser) -> None:
    """Names of cameras and buttons, what changes by itself, and why a button does nothing."""
    its = stand("a", "b")
    its.change("a", title="Door \u05d3\u05dc\u05ea")
    its.change("b", recording=recording(always=True))
    with served(its) as url, browser.page(url) as page:
        page.until(f"{SHOWN}.length === 2")
        if NAME == "chromium":
            tree = page.ask("Accessibility.getFullAXTree")["nodes"]
            named = [(n["role"]["value"], n.get("name", {}).get("value")) for n in tree if not n["ignored"]]
            assert [name for role, name in named if role == "article"] == ["Door \u05d3\u05dc\u05ea", "b"]
            assert all(name for role, name in named if role in ("button", "combobox", "searchbox", "slider"))
        page.value(f"{part('b', 'record')}.click()")
        page.until("document.querySelector('#toasts').innerText.includes('as the config says')")
        fail(its, "a")
        page.until(
            "document.querySelector('#said').textContent.includes(': failed, it refuses the password')"
        )
        # Words of another script do not turn those around them.
        assert page.value("document.querySelector('[data-camera=a] h2').firstElementChild.tagName") == "BDI"
        assert page.problems == []


def test_axe_finds_nothing_to_mend(browser: Browser, tmp_path: Path) -> None:
    if NAME != "chromium":
        pytest.skip("what it looks at is the same in all browsers")
    begin = int(time.time()) - 24 * 3600
    for number in range(2):
        path = tmp_path / "a" / f"{number}.mp4"
        Writer(path, (begin + 40 * number) * 10**9).frames(500).complete()
    its = stand("a", "b", "c", "d", "e", "f", "g")
    its.change("a", group="Inside", recording=recording())
    its.change("b", title="A door", group="Outside")
    its.change("c", state=CameraState.WAITING, reason="it does not answer", retry_in=3.0)
    fail(its, "d")
    error = RecordingError(RecordingCause.DISK_FULL, "no space left on device", time.time_ns())
    its.change("e", recording=recording(state=RecordingState.FAILED, error=error))
    found: list[str] = []

    def look(page: Page, what: str, within: str = "html") -> None:
        """In both themes, and as large as a screen and as a phone."""
        for width, height, touch in ((1280, 800, False), (360, 740, True)):
            page.size(width, height, touch=touch)
            page.until(f"innerWidth === {width}")  # wider, if something does not fit
            for theme in ("light", "dark"):
                page.prefer(prefers_color_scheme=theme, prefers_reduced_motion="reduce")
                found.extend(f"{what}, {width} px, {theme}: {one}" for one in violations(page, within))

    settings = Settings(token=SecretStr(TOKEN))
    with served(its, settings, recorded=tmp_path) as url, browser.page(url) as page:
        page.until("document.querySelector('#token') !== null")
        look(page, "signing in")
        page.run("document.querySelector('#token').value = 'wrong'; document.forms[0].submit()")
        page.until("document.querySelector('[role=alert]') !== null")
        look(page, "not signed in")
        page.run(f"document.querySelector('#token').value = '{TOKEN}'; document.forms[0].submit()")
        page.until(f"{SHOWN}.length === 7")
        page.press("s")
        look(page, "the grid")
        page.value("document.querySelector('#menu').open = true")
        look(page, "the menu", "#menu")
        page.value("document.querySelector('#menu').open = false")
        page.press("?")
        look(page, "the keys", "#keys")
        page.value("document.querySelector('#keys').close()")
        page.value("location.hash = '#camera=e'")
        page.until("document.body.innerText.includes('Nothing is written')")
        look(page, "a camera that is not recorded")
        page.value("location.hash = '#camera=a'")
        below = "document.querySelector('#below [data-part={}]')".format
        page.until(f"{below('strip')}?.offsetWidth")
        page.value(f"{below('back')}.click()")
        page.until("!document.querySelector('.large .past').hidden")
        page.press("c")
        page.run(f"{below('clipTo')}.value = {below('clipFrom')}.value; {below('clipTo')}.onchange()")
        look(page, "recordings and a clip")
        page.value(f"{below('strip')}.focus()")
        page.press("v")
        page.until("document.querySelectorAll('#happened[open] li').length === 3")
        look(page, "the list of events", "#happened")
    assert found == []
