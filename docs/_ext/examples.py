# SPDX-License-Identifier: MIT
"""Every program in examples/: ``{example-links}`` lists them, ``{examples}`` shows them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {"surveillance.py": "```{people}\n```\n"}  # a picture of it at work


def programs() -> list[Path]:
    return sorted(p for p in EXAMPLES.rglob("*.py") if "__pycache__" not in p.parts)


def markdown(text: str) -> str:
    """A docstring's text, where `<` means itself."""
    return re.sub(
        r"`[^`]*`|^    .*|<", lambda match: "\\<" if match[0] == "<" else match[0], text, flags=re.M
    )


class Program:
    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(EXAMPLES).as_posix()
        tree = ast.parse(path.read_text())
        title, _, rest = (ast.get_docstring(tree) or path.stem).partition("\n")
        self.title, self.text = markdown(title), markdown(rest.strip("\n"))
        # Its code, without the line of its licence and its docstring.
        first = tree.body[0]
        assert first.end_lineno is not None
        self.begin = first.end_lineno + 2 if ast.get_docstring(tree) else 1

    def section(self) -> str:
        return (
            f"## {self.name}\n\n**{self.title}**\n\n{self.text}\n\n{SHOWN.get(self.name, '')}\n"
            f"```{{literalinclude}} /../examples/{self.name}\n:language: python\n:lines: {self.begin}-\n```\n"
        )


class Links(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        every = map(Program, programs())
        return self.parse_text_to_nodes(
            "".join(f"- [{one.name}](#{re.sub('[./]', '', one.name)}): {one.title}\n" for one in every)
        )


class Examples(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        text = "\n".join(Program(path).section() for path in programs())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("example-links", Links)
    app.add_directive("examples", Examples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
