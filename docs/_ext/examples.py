# SPDX-License-Identifier: MIT
"""``{examples}``: every program in examples/, each under its name."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

EXAMPLES = Path(__file__).parents[2] / "examples"


def programs() -> list[Path]:
    return sorted(p for p in EXAMPLES.rglob("*.py") if "__pycache__" not in p.parts)


def title(program: Path) -> str:
    """The first line of its docstring, without the full stop."""
    doc = ast.get_docstring(ast.parse(program.read_text())) or program.stem
    return doc.splitlines()[0].rstrip(".:")


class Examples(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        text = []
        for program in programs():
            name = program.relative_to(EXAMPLES).as_posix()
            text.append(
                f"## {name}\n\n{title(program)}.\n\n"
                f"```{{literalinclude}} /../examples/{name}\n:language: python\n:lines: 2-\n```\n"
            )
        return self.parse_text_to_nodes("\n".join(text), allow_section_headings=True)


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("examples", Examples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
