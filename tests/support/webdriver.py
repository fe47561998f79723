# SPDX-License-Identifier: MIT
"""Tabs whose keys and pointers are WebDriver's actions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from .page import Page, Place

# WebDriver's codes of keys, by their names in scripts.
_CODES = {
    **{"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Home": "\ue011", "End": "\ue010"},
    **{"ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015"},
}


def _keys(*pressed: str) -> list[dict[str, Any]]:
    """WebDriver's actions for them, one after the other."""
    codes = [_CODES.get(key, key) for key in pressed]
    actions = [{"type": kind, "value": code} for code in codes for kind in ("keyDown", "keyUp")]
    return [{"type": "key", "id": "keys", "actions": actions}]


def pointer(id: str, kind: str, places: list[Place], count: int = 1) -> dict[str, Any]:
    """WebDriver's actions of one pointer: down at the first place, to the others, and up; `count` times."""
    moves = [{"type": "pointerMove", "x": round(x), "y": round(y)} for x, y in places]
    down, up = ({"type": f"pointer{way}", "button": 0} for way in ("Down", "Up"))
    actions = [moves[0], down, *moves[1:], up] * count
    return {"type": "pointer", "id": id, "parameters": {"pointerType": kind}, "actions": actions}


class WebDriverPage(Page):
    @abstractmethod
    def act(self, actions: list[dict[str, Any]]) -> None:
        """Those of each source, side by side."""

    def press(self, key: str) -> None:
        self.act(_keys(key))

    def type(self, text: str) -> None:
        self.act(_keys(*text))

    def click(self, place: Place, count: int = 1) -> None:
        self.act([pointer("mouse", "mouse", [place], count)])
