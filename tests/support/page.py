# SPDX-License-Identifier: MIT
"""What tests ask of a browser, whichever it is. For tests that are no coroutines."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

T = TypeVar("T")
Place = tuple[float, float]


class Runner:
    """Runs a coroutine to its end, on a loop that stands still otherwise."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._runner.get_loop()

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def close(self) -> None:
        self._runner.close()


class Page(ABC):
    """A tab. `problems` has what its console complains of, as far as the browser tells: errors, exceptions,
    violations of the content security policy."""

    touches = False  # it may be a phone: `size(..., touch=True)`
    narrowest = 0  # px that it can be

    def __init__(self) -> None:
        self.problems: list[str] = []

    @abstractmethod
    def go(self, url: str) -> None:
        """Returns when the document before is gone."""

    @abstractmethod
    def value(self, expression: str) -> Any:
        """What the expression is; a promise is waited for. Raises RuntimeError for one that throws."""

    def run(self, statements: str) -> None:
        """As value(), of statements, whose value does not matter."""
        self.value(f"(() => {{ {statements} }})()")

    def until(self, expression: str, seconds: float = 25) -> Any:
        """Wait until it is true in some way, and return what it is. While the page is being loaded it may
        throw. Raises TimeoutError with what it was last."""
        deadline = time.monotonic() + seconds
        pause = 0.01
        while True:
            try:
                value = self.value(expression)
            except RuntimeError as e:
                value, said = None, str(e)
            else:
                said = repr(value)
            if value:
                return value
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"waited {seconds:g} s for {expression}: {said}; problems: {self.problems}"
                )
            time.sleep(pause)
            pause = min(0.1, 1.5 * pause)

    @abstractmethod
    def press(self, key: str) -> None:
        """A key such as Escape, Enter or ArrowRight, pressed and let go."""

    @abstractmethod
    def type(self, text: str) -> None:
        """Into what has the focus."""

    @abstractmethod
    def click(self, place: Place, count: int = 1) -> None:
        """As a person does, which lets a browser play sound."""

    @abstractmethod
    def size(self, width: int, height: int, *, touch: bool = False) -> None:
        """Of the page. `touch`: as on a phone, where the browser can (`touches`)."""

    @abstractmethod
    def screenshot(self, path: Path) -> None: ...

    def before(self, source: str) -> None:
        """A script that runs in each document before any other. What a browser cannot do, skips the test."""
        self._cannot("run a script first")

    def ask(self, method: str, **parameters: Any) -> Any:
        """One command of Chromium's protocol. Raises RuntimeError if it is refused, TimeoutError."""
        self._cannot(method)

    def prefer(self, **features: str) -> None:
        """Media features: prefer(prefers_color_scheme="dark")."""
        self._cannot("prefer")

    def touch(self, *steps: list[Place]) -> None:
        """Fingers go down, from place to place, and up."""
        self._cannot("touch")

    def wheel(self, place: Place, by: float) -> None:
        """Turned by so many pixels, down if positive."""
        self._cannot("turn a wheel")

    def middle(self, element: str) -> Place:
        """Of the element that this expression is, when it stands still: a hand, too, waits for that."""
        middle = "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        box = f"{middle}({element}.getBoundingClientRect())"
        later = f"new Promise((done) => setTimeout(() => done({box}), 100))"
        still = "(async (was, now) => String(was) === String((now = await now)) && now)"
        x, y = self.until(f"{still}({box}, {later})")
        return x, y

    def _cannot(self, what: str) -> None:
        pytest.skip(f"this browser cannot be asked to: {what}")


class Browser(Protocol):
    """A browser without a window, with a profile of its own."""

    def page(self, url: str = "about:blank") -> AbstractContextManager[Page]:
        """A new tab, and what it complains of from the start."""

    def close(self) -> None: ...


def begin(command: list[str], env: dict[str, str], **more: Any) -> subprocess.Popen[bytes]:
    """A program of a browser, in a session of its own. What it says is not read."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | env, start_new_session=True, **quiet, **more)


def end(process: subprocess.Popen[bytes]) -> None:
    """With its own helpers, which are in its session."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
