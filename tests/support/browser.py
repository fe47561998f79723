# SPDX-License-Identifier: MIT
"""The browser that the page's tests run in: VALKKA_BROWSER, Chromium by default."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from .chromium import chromium
from .firefox import firefox
from .page import Browser
from .webkit import webkit

NAME = os.environ.get("VALKKA_BROWSER", "chromium")


def browser(folder: Path) -> AbstractContextManager[Browser]:
    """The browser, with a profile of its own in `folder`."""
    make = {"chromium": chromium, "firefox": firefox, "webkit": webkit}[NAME]
    return make(folder)
