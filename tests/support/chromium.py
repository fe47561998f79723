# SPDX-License-Identifier: MIT
"""Chromium without a window, asked by its debugging protocol. For tests that are no coroutines."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from .page import Page as Page
from .page import Place, Runner, begin, end
from .require import missing

# Nothing that leaves this machine, whatever the browser would like to look up. Certificates are tests' own.
_FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --remote-debugging-port=0
    --autoplay-policy=no-user-gesture-required --ignore-certificate-errors""".split()
_ONLY_HERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
# Of keys that do something in the browser itself.
_CODES = {
    **{"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36},
    **{"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40},
}
_STARTING = 45.0  # s
_ANSWER = 20.0


class Tab(Page):
    """Of Chromium."""

    touches = True

    def __init__(self, run: Runner, session: aiohttp.ClientSession, target: dict[str, Any]) -> None:
        super().__init__()
        self.id = str(target["id"])
        self._run = run
        self._session = session
        self._serial = 0
        self._socket = run(session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0))

    def ask(self, method: str, **parameters: Any) -> Any:
        return self._run(self._ask(method, parameters))

    async def _ask(self, method: str, parameters: dict[str, Any]) -> Any:
        self._serial += 1
        async with asyncio.timeout(_ANSWER):
            await self._socket.send_json({"id": self._serial, "method": method, "params": parameters})
            while (message := await self._socket.receive_json()).get("id") != self._serial:
                self._note(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def _note(self, event: dict[str, Any]) -> None:
        details = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                thrown = details["exceptionDetails"]
                said = thrown.get("exception", {}).get("description") or thrown["text"]
                self.problems.append(f"exception: {said}")
            case "Runtime.consoleAPICalled" if details["type"] in ("error", "warning", "assert"):
                said = " ".join(str(one.get("value", one.get("description"))) for one in details["args"])
                self.problems.append(f"console: {said}")
            case "Log.entryAdded" if details["entry"]["level"] in ("error", "warning"):
                entry = details["entry"]
                self.problems.append(f"log: {entry['text']} {entry.get('url', '')}".rstrip())

    def go(self, url: str) -> None:
        self.ask("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            thrown = answer["exceptionDetails"]
            raise RuntimeError(thrown.get("exception", {}).get("description") or thrown["text"])
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        code = _CODES.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        self.ask("Input.insertText", text=text)

    def click(self, place: Place, count: int = 1) -> None:
        x, y = place
        for n in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=n)

    def touch(self, *steps: list[Place]) -> None:
        for n, fingers in enumerate(steps):
            points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(fingers)]
            kind = "touchMove" if n else "touchStart"
            self.ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def wheel(self, place: Place, by: float) -> None:
        x, y = place
        self.ask("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=by)

    def before(self, source: str) -> None:
        self.ask("Page.addScriptToEvaluateOnNewDocument", source=source)

    def size(self, width: int, height: int, *, touch: bool = False) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch},
        )
        self.ask("Emulation.setTouchEmulationEnabled", enabled=touch, maxTouchPoints=2)

    def prefer(self, **features: str) -> None:
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.ask("Emulation.setEmulatedMedia", features=listed)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._run(self._socket.close())


class Chromium:
    """The browser, with a profile of its own in `folder`. To be closed."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("chromium")
        if program is None:
            missing("no browser (apt-get install --no-install-recommends chromium)")
        self._run = Runner()
        command = [program, *_FLAGS, _ONLY_HERE, f"--user-data-dir={folder}", "about:blank"]
        self._process = begin(command, {"HOME": str(folder)})
        try:
            port = self._port(folder / "DevToolsActivePort")
        except BaseException:
            self.close()
            raise
        self._devtools = f"http://127.0.0.1:{port}/json"

    def _port(self, file: Path) -> int:
        deadline = time.monotonic() + _STARTING
        while not file.exists() or "\n" not in file.read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the browser did not start within {_STARTING:g} s")
            time.sleep(0.05)
        return int(file.read_text().split()[0])

    @contextmanager
    def page(self, url: str = "about:blank") -> Iterator[Page]:
        """A new tab, in front of the others, and what it complains of from the start."""
        session = self._run(self._open())
        try:
            target = self._run(self._get(session, "PUT", "/new?about:blank"))
            page = Tab(self._run, session, target)
            try:
                for domain in ("Page", "Runtime", "Log"):
                    page.ask(f"{domain}.enable")
                page.go(url)
                yield page
            finally:
                page.close()
                self._run(self._get(session, "GET", f"/close/{page.id}"))
        finally:
            self._run(session.close())

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER))

    async def _get(self, session: aiohttp.ClientSession, method: str, path: str) -> Any:
        async with session.request(method, self._devtools + path) as answer:
            text = await answer.text()
            return json.loads(text) if text.startswith(("{", "[")) else text

    def close(self) -> None:
        end(self._process)
        self._run.close()


def chromium(folder: Path) -> closing[Chromium]:
    """The browser, as long as it is wanted."""
    return closing(Chromium(folder))
