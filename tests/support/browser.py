# SPDX-License-Identifier: MIT
"""The browser that the page's tests run in: VALKKA_BROWSER, Chromium by default."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from .chromium import Chromium
from .firefox import Firefox
from .page import Browser
from .webkit import WebKit

NAME = os.environ.get("VALKKA_BROWSER", "chromium")


def browser(folder: Path) -> closing[Browser]:
    """The browser, with a profile of its own in `folder`."""
    make = {"chromium": Chromium, "firefox": Firefox, "webkit": WebKit}[NAME]
    return closing(make(folder))
