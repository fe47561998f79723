# SPDX-License-Identifier: MIT
"""The pictures of these pages, drawn here and put into the page as SVG.

Inline, because then they take the page's own colours (``--va-*``, see conf.py) and follow its switch
between light and dark. ``python docs/_ext/pictures.py FOLDER`` writes them as files, to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from html import escape
from pathlib import Path

LINE = 19  # from one line of text to the next


class Canvas:
    """Collects the parts of one picture. Lengths are SVG user units, about a pixel each."""

    def __init__(self, name: str, width: int, height: int, title: str) -> None:
        self._name, self._size, self._title = name, (width, height), title
        self._parts: list[str] = []

    def text(self, x: float, y: float, words: str, *, kind: str = "", anchor: str = "middle") -> None:
        """Lines of text; ``y`` is the base line of the first."""
        for n, line in enumerate(words.split("\n")):
            self._parts.append(
                f'<text class="{kind}" x="{x:g}" y="{y + n * LINE:g}" text-anchor="{anchor}">'
                f"{escape(line)}</text>"
            )

    def box(self, x: float, y: float, w: float, h: float, words: str = "", *, kind: str = "") -> None:
        """A box with its words in the middle."""
        self._parts.append(
            f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6"/>'
        )
        lines = words.count("\n") + 1
        self.text(x + w / 2, y + h / 2 + 5 - (lines - 1) * LINE / 2, words)

    def arrow(self, *points: tuple[float, float], kind: str = "") -> None:
        """A line through the points, with a head at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(
            f'<polyline class="arrow {kind}" points="{path}" marker-end="url(#{self._name}-head)"/>'
        )

    def svg(self) -> str:
        width, height = self._size
        head = (
            f'<marker id="{self._name}-head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto-start-reverse"><path class="head" d="M0,0 L10,5 L0,10 z"/>'
            "</marker>"
        )
        return (
            f'<svg class="va-picture" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'role="img" aria-labelledby="{self._name}-title"><title id="{self._name}-title">'
            f"{escape(self._title)}</title><defs>{head}</defs>{''.join(self._parts)}</svg>"
        )


def topology() -> str:
    """Cameras, who reads them, and who reads those."""
    c = Canvas(
        "topology",
        800,
        380,
        "Two cameras feed rings; several programs read each ring; one of them serves a ring of its own, "
        "and a master reads the rings of all of them.",
    )
    for y, name in ((30, "cam1"), (210, "cam2")):
        c.box(10, y + 20, 90, 60, "camera", kind="outside")
        c.arrow((100, y + 50), (150, y + 50))
        c.text(125, y + 40, "RTSP", kind="small")
        c.box(150, y + 20, 120, 60, "va.Camera\none decode", kind="program")
        c.box(320, y, 110, 42, name, kind="ring")
        c.box(320, y + 58, 110, 42, f"{name}.mp4", kind="ring")
        c.arrow((270, y + 40), (320, y + 21))
        c.arrow((270, y + 60), (320, y + 79))
        c.box(500, y, 110, 42, "OpenCV", kind="program")
        c.arrow((430, y + 21), (500, y + 21))
        c.box(500, y + 58, 110, 42, "va.Recorder", kind="program")
        c.arrow((430, y + 79), (500, y + 79))
    c.box(665, 30, 125, 42, "cam1.motion", kind="ring")
    c.box(665, 210, 125, 42, "cam2.motion", kind="ring")
    c.arrow((610, 51), (665, 51))
    c.arrow((610, 231), (665, 231))
    c.box(665, 120, 125, 42, "one detector", kind="program")
    c.arrow((727, 72), (727, 120))
    c.arrow((727, 210), (727, 162))
    c.box(150, 340, 24, 18, kind="program")
    c.text(184, 354, "a program of its own, or a task in one", kind="small", anchor="start")
    c.box(470, 340, 24, 18, kind="ring")
    c.text(504, 354, "a ring, found by its name", kind="small", anchor="start")
    return c.svg()


def ring() -> str:
    """A ring in use: what its slots hold, and who looks at them."""
    c = Canvas(
        "ring",
        800,
        340,
        "A ring of six slots: one is leased by a reader, one holds the newest frame, one is being written, "
        "the others were never needed.",
    )
    c.box(10, 106, 120, 60, "server\npublish()", kind="program")
    c.text(475, 26, "one sealed block of memory: only the server can write it", kind="small")
    c.box(180, 40, 590, 190, kind="memory")
    slots = (
        ("#41", "leased", "leased"),
        ("#42", "newest", "newest"),
        ("", "being\nwritten", "writing"),
        ("", "never\nneeded", "unused"),
        ("", "never\nneeded", "unused"),
        ("", "never\nneeded", "unused"),
    )
    for n, (number, words, kind) in enumerate(slots):
        x = 200 + n * 92
        c.box(x, 80, 82, 104, f"{number}\n{words}" if number else words, kind=kind)
        c.text(x + 41, 97, f"slot {n}", kind="small")
    c.text(609, 212, "slots that were never needed cost no memory", kind="small")
    c.arrow((130, 136), (165, 136), (165, 60), (425, 60), (425, 80))
    c.box(200, 270, 140, 60, "slow reader\nholds #41", kind="program")
    c.arrow((241, 270), (241, 184))
    c.box(380, 270, 140, 60, "quick reader\ntakes #42 next", kind="program")
    c.arrow((420, 270), (340, 184))
    c.text(
        560,
        290,
        "Readers map the memory read-only\nand look in place: no copy.",
        kind="small",
        anchor="start",
    )
    return c.svg()


def lease() -> str:
    """Reader and writer want the same slot: both orders."""
    c = Canvas(
        "lease",
        800,
        330,
        "The reader announces its lease, then checks the frame's number. The writer takes the number away, "
        "then looks for leases. Whoever comes first, the other one sees it.",
    )
    for x, title in ((10, "the reader is first"), (410, "the writer is first")):
        c.text(x + 190, 24, title, kind="strong")
        c.text(x + 90, 52, "reader", kind="small")
        c.text(x + 290, 52, "writer", kind="small")
    c.box(20, 66, 160, 48, "announce:\nI read slot 2", kind="leased")
    c.box(220, 120, 160, 48, "take the number\nof slot 2 away", kind="writing")
    c.box(220, 186, 160, 48, "look for leases:\nthere is one", kind="writing")
    c.arrow((180, 90), (300, 90), (300, 118))
    c.arrow((300, 168), (300, 186))
    c.box(220, 252, 160, 66, "give the number\nback, and write\nanother slot", kind="newest")
    c.arrow((300, 234), (300, 252))
    c.box(20, 252, 160, 66, "the number fits:\nthe frame stays\nas it is", kind="newest")
    c.arrow((100, 114), (100, 252))
    c.box(620, 66, 160, 48, "take the number\nof slot 2 away", kind="writing")
    c.box(420, 120, 160, 48, "announce:\nI read slot 2", kind="leased")
    c.arrow((620, 90), (500, 90), (500, 118))
    c.box(420, 186, 160, 48, "check the number:\nit is gone", kind="leased")
    c.arrow((500, 168), (500, 186))
    c.box(420, 252, 160, 66, "give up the lease,\nand take a newer\nframe", kind="newest")
    c.arrow((500, 234), (500, 252))
    c.box(620, 252, 160, 66, "no lease seen,\nor one too late:\nwrite the frame", kind="newest")
    c.arrow((700, 114), (700, 252))
    return c.svg()


PICTURES: dict[str, Callable[[], str]] = {f.__name__: f for f in (topology, ring, lease)}


def setup(app: object) -> dict[str, bool]:
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective

    class Picture(SphinxDirective):
        """``{picture} NAME``: one of PICTURES."""

        required_arguments = 1

        def run(self) -> list[nodes.Node]:
            self.env.note_dependency(__file__)
            return [nodes.raw("", f"<figure>{PICTURES[self.arguments[0]]()}</figure>", format="html")]

    app.add_directive("picture", Picture)  # type: ignore[attr-defined]
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        Path(sys.argv[1], f"{name}.svg").write_text(draw())
