# SPDX-License-Identifier: MIT
"""WebKitGTK's MiniBrowser on a screen that nobody sees (Xvfb), asked by WebDriver."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from .page import Page, Runner, begin, end
from .require import missing
from .stream import free_port
from .webdriver import WebDriverPage

_STARTING = 60.0  # s
_ANSWER = 60.0
_SCREEN = "2600x1600x24"


class Tab(WebDriverPage):
    """Of WebKit: a window and a WebDriver session of its own. Its console is not told."""

    narrowest = 450  # its tool bar

    def __init__(self, run: Runner, driver: Driver, session: str) -> None:
        super().__init__()
        self._run = run
        self._driver = driver
        self._session = f"/session/{session}"

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        return self._run(self._driver.ask(method, self._session + path, **body))

    def go(self, url: str) -> None:
        # Told to wait by itself (pageLoadStrategy), it leaves scripts hanging where a page leads elsewhere.
        began, at = self.value("[performance.timeOrigin, location.href]")
        self._ask("POST", "/url", url=url)
        if "#" not in url or url.partition("#")[0] != at.partition("#")[0]:  # another document
            self.until(f"performance.timeOrigin !== {began} && document.readyState !== 'loading'")

    def value(self, expression: str) -> Any:
        return self._ask("POST", "/execute/sync", script=f"return ({expression})", args=[])

    def act(self, actions: list[dict[str, Any]]) -> None:
        self._ask("POST", "/actions", actions=actions)

    def size(self, width: int, height: int, *, touch: bool = False) -> None:
        rest = [0, 0]  # of the window, around the page
        for _ in range(2):
            self._ask("POST", "/window/rect", width=width + rest[0], height=height + rest[1])
            rest = self.value("[outerWidth - innerWidth, outerHeight - innerHeight]")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        self._ask("DELETE", "")


class Driver:
    """The protocol."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def ask(self, method: str, path: str, **body: Any) -> Any:
        """Raises RuntimeError if it is refused, TimeoutError."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            data = json.dumps(body) if method == "POST" else None
            async with session.request(method, self._address + path, data=data) as answer:
                value = json.loads(await answer.text())["value"]
        if answer.status != 200:
            raise RuntimeError(f"{path}: {value['message']}")
        return value


class WebKit:
    """The browser's driver and its screen. To be closed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._minibrowser = _minibrowser()
        programs = [shutil.which(name) for name in ("Xvfb", "WebKitWebDriver")]
        if self._minibrowser is None or None in programs:
            missing("no WebKitGTK (apt-get install --no-install-recommends webkit2gtk-driver xvfb)")
        self._run = Runner()
        self._stack = ExitStack()
        self._stack.callback(self._run.close)
        try:
            self._start(*map(str, programs))
        except BaseException:
            self.close()
            raise

    def _start(self, xvfb: str, driver: str) -> None:
        reading, writing = os.pipe()
        command = [xvfb, "-displayfd", str(writing), "-screen", "0", _SCREEN, "-nolisten", "tcp"]
        self._child(command, {}, pass_fds=(writing,))
        os.close(writing)
        with open(reading) as told:
            display = told.readline().strip()  # once it listens
        port = free_port()
        home = {"HOME": str(self._folder), "XDG_RUNTIME_DIR": str(self._folder), "DISPLAY": f":{display}"}
        software = {"LIBGL_ALWAYS_SOFTWARE": "1", "WEBKIT_DISABLE_DMABUF_RENDERER": "1", "GDK_BACKEND": "x11"}
        self._child([driver, "--host=127.0.0.1", f"--port={port}"], home | software)
        self._driver = Driver(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + _STARTING
        while True:
            try:
                self._run(self._driver.ask("GET", "/status"))
                return
            except (aiohttp.ClientError, RuntimeError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _child(self, command: list[str], env: dict[str, str], **more: Any) -> None:
        self._stack.callback(end, begin(command, env, **more))

    @contextmanager
    def page(self, url: str = "about:blank") -> Iterator[Page]:
        options = {"binary": self._minibrowser, "args": ["--automation", "--autoplay-policy=allow"]}
        wanted = {
            "pageLoadStrategy": "none",
            "acceptInsecureCerts": True,
            "webkitgtk:browserOptions": options,
        }
        new = self._driver.ask("POST", "/session", capabilities={"alwaysMatch": wanted})
        page = Tab(self._run, self._driver, self._run(new)["sessionId"])
        try:
            page.size(1000, 700)
            page.go(url)
            yield page
        finally:
            page.close()

    def close(self) -> None:
        self._stack.close()


def _minibrowser() -> str | None:
    found = sorted(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"))
    return str(found[-1]) if found else None
