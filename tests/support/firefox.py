# SPDX-License-Identifier: MIT
"""Firefox without a window, asked by WebDriver BiDi over its debugging port."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from .page import Page, Place, Runner, begin, end
from .require import missing
from .webdriver import WebDriverPage, pointer

_STARTING = 90.0  # s
_ANSWER = 60.0  # also by one that has only just started
# Videos play by themselves, and nothing leaves this machine.
_PREFERENCES = """
user_pref("media.autoplay.default", 0);
user_pref("media.autoplay.blocking_policy", 0);
user_pref("media.gmp-manager.updateEnabled", false);
user_pref("network.proxy.type", 1);
user_pref("network.proxy.http", "127.0.0.1");
user_pref("network.proxy.http_port", 9);
user_pref("network.proxy.ssl", "127.0.0.1");
user_pref("network.proxy.ssl_port", 9);
user_pref("network.proxy.no_proxies_on", "127.0.0.1");
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("app.update.disabledForTesting", true);
user_pref("ui.prefersReducedMotion", 0);
"""


class Tab(WebDriverPage):
    """Of Firefox."""

    def __init__(self, run: Runner, bidi: Bidi, context: str) -> None:
        super().__init__()
        self._run = run
        self._bidi = bidi
        self._context = context

    def _ask(self, method: str, **parameters: Any) -> Any:
        answer = self._run(self._bidi.ask(method, **parameters))
        for event in self._bidi.events:
            self._note(event)
        self._bidi.events.clear()
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        entry = event.get("params", {})
        if event.get("method") == "log.entryAdded" and entry.get("level") == "error":
            if entry.get("source", {}).get("context") == self._context:
                self.problems.append(f"{entry.get('type')}: {entry.get('text')}")

    def go(self, url: str) -> None:
        self._ask("browsingContext.navigate", context=self._context, url=url, wait="interactive")

    def value(self, expression: str) -> Any:
        answer = self._ask(
            "script.evaluate",
            expression=expression,
            target={"context": self._context},
            awaitPromise=True,
        )
        if answer["type"] == "exception":
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return _plain(answer["result"])

    def touch(self, *steps: list[Place]) -> None:
        fingers = range(len(steps[0]))
        self.act([pointer(f"finger{n}", "touch", [step[n] for step in steps]) for n in fingers])

    def wheel(self, place: Place, by: float) -> None:
        at = {"x": round(place[0]), "y": round(place[1])}
        action = {"type": "scroll", **at, "deltaX": 0, "deltaY": round(by)}
        self.act([{"type": "wheel", "id": "wheel", "actions": [action]}])

    def act(self, actions: list[dict[str, Any]]) -> None:
        self._ask("input.performActions", context=self._context, actions=actions)

    def size(self, width: int, height: int, *, touch: bool = False) -> None:
        viewport = {"width": width, "height": height}
        self._ask("browsingContext.setViewport", context=self._context, viewport=viewport)

    def before(self, source: str) -> None:
        function = f"() => {{ {source} }}"
        self._ask("script.addPreloadScript", functionDeclaration=function, contexts=[self._context])

    def screenshot(self, path: Path) -> None:
        answer = self._ask("browsingContext.captureScreenshot", context=self._context)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self._ask("browsingContext.close", context=self._context)


def _plain(value: dict[str, Any]) -> Any:
    """A value of the protocol as Python has it."""
    match value["type"]:
        case "array":
            return [_plain(one) for one in value["value"]]
        case "object":
            return {key: _plain(one) for key, one in value["value"]}
        case "number" if isinstance(value["value"], str):
            return float(value["value"].replace("-0", "0"))
        case "string" | "boolean" | "number":
            return value["value"]
    return None


class Bidi:
    """The protocol. `events` has those that came between answers."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.events: list[dict[str, Any]] = []
        self._socket = socket
        self._serial = 0

    async def ask(self, method: str, **parameters: Any) -> Any:
        """Raises RuntimeError if it is refused, TimeoutError."""
        self._serial += 1
        async with asyncio.timeout(_ANSWER):
            await self._socket.send_json({"id": self._serial, "method": method, "params": parameters})
            while (message := await self._socket.receive_json()).get("id") != self._serial:
                self.events.append(message)
        if message["type"] == "error":
            raise RuntimeError(f"{method}: {message['message']}")
        return message["result"]


class Firefox:
    """The browser, with a profile of its own in `folder`. To be closed."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("firefox-esr") or shutil.which("firefox")
        if program is None:
            missing("no Firefox (apt-get install --no-install-recommends firefox-esr)")
        (folder / "user.js").write_text(_PREFERENCES)
        self._run = Runner()
        self._session: aiohttp.ClientSession | None = None
        options = [
            "--headless",
            "--profile",
            str(folder),
            "--remote-debugging-port=0",
            "about:blank",
        ]
        self._process = begin([program, *options], {"HOME": str(folder), "MOZ_DISABLE_CONTENT_SANDBOX": "1"})
        try:
            self._bidi = self._run(self._connect(self._address(folder / "WebDriverBiDiServer.json")))
        except BaseException:
            self.close()
            raise

    def _address(self, file: Path) -> str:
        deadline = time.monotonic() + _STARTING
        while True:
            try:
                said = json.loads(file.read_text())
                return f"ws://{said['ws_host']}:{said['ws_port']}/session"
            except (OSError, ValueError):  # not there, or not yet whole
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the browser did not start within {_STARTING:g} s") from None
            time.sleep(0.1)

    async def _connect(self, address: str) -> Bidi:
        self._session = aiohttp.ClientSession()
        bidi = Bidi(await self._session.ws_connect(address, max_msg_size=0))
        await bidi.ask("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})
        await bidi.ask("session.subscribe", events=["log.entryAdded"])
        return bidi

    @contextmanager
    def page(self, url: str = "about:blank") -> Iterator[Page]:
        context = self._run(self._bidi.ask("browsingContext.create", type="tab"))["context"]
        page = Tab(self._run, self._bidi, context)
        try:
            page.go(url)
            yield page
        finally:
            page.close()

    def close(self) -> None:
        if self._session is not None:
            self._run(self._session.close())
        end(self._process)
        self._run.close()
