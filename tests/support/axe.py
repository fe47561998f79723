# SPDX-License-Identifier: MIT
"""axe-core, which finds what keeps people from using a page who see little, or nothing, or use no mouse."""

from __future__ import annotations

from importlib.resources import files

from .page import Page

_SOURCE = files("axe_core_python").joinpath("axe.min.js").read_text()
_ASK = """axe.run(%r, {resultTypes: ["violations"]}).then((found) => found.violations.flatMap(({id, nodes}) =>
    nodes.map(({target, failureSummary}) => `${id}: ${target.join(' ')}: ${failureSummary}`)))"""


def violations(page: Page, within: str = "html") -> list[str]:
    """Of the page as it is now, or of what this selector means in it: each rule that an element breaks."""
    if not page.value("'axe' in window"):
        page.run(_SOURCE)
    found = page.value(_ASK % within)
    assert isinstance(found, list)
    return found
