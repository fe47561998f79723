# SPDX-License-Identifier: MIT
"""The reference shows public names as they are imported, ``valkka_async.Frame`` and not where they are made.

Frame and Slot are compiled: their types stand in _shm.pyi, the words in the compiled module and, for plain
attributes, in the parts of _shm.pyx. Here they are put together again.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, cast

from docutils import nodes

import valkka_async
from valkka_async.ring import _shm

ROOT = Path(__file__).parents[2]
COMPILED = ("Frame", "Slot")


def _stub_classes() -> dict[str, type]:
    """Classes of the stub, which Python can execute once mypy's decorator is gone."""
    tree = ast.parse((ROOT / "valkka_async" / "ring" / "_shm.pyi").read_text())
    tree.body = [
        n for n in tree.body if not (isinstance(n, ast.ImportFrom) and n.module == "typing_extensions")
    ]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            node.decorator_list = []
    future = ast.parse("from __future__ import annotations").body
    tree.body = [*future, *tree.body]
    names: dict[str, Any] = {"__name__": "valkka_async"}
    exec(compile(tree, "_shm.pyi", "exec"), names)
    return {name: names[name] for name in COMPILED}


def _comments() -> dict[str, str]:
    """What ``#:`` comments say of the plain attributes."""
    source = "".join(path.read_text() for path in sorted((ROOT / "_shm").glob("*.pxi")))
    return {name: text for text, name in re.findall(r"#: (.+)\n +cdef readonly \w+ (\w+)", source)}


def _documented(stub: type, compiled: type, comments: dict[str, str]) -> type:
    stub.__doc__ = compiled.__doc__
    del stub.__init__  # type: ignore[misc]  # one that refuses
    for name, value in list(vars(stub).items()):
        doc = getattr(vars(compiled).get(name), "__doc__", None) or comments.get(name)
        if isinstance(value, property):
            setattr(stub, name, property(value.fget, doc=doc))
        elif inspect.isfunction(value):
            value.__doc__ = doc
    return stub


def show_compiled_classes() -> None:
    """For this process, which only writes documentation."""
    stubs, comments = _stub_classes(), _comments()
    for name in COMPILED:
        setattr(valkka_async, name, _documented(stubs[name], getattr(_shm, name), comments))


def _fields(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """The fields of a dataclass as a definition list, where comments behind them say what they are."""
    if not dataclasses.is_dataclass(obj):
        return
    source = inspect.getsource(cast(type, obj))
    fields = re.findall(r"^    (\w+): ([^#=\n]+?)(?: = [^#\n]*)?(?:  # (.+))?$", source, re.M)
    if not any(comment for _, _, comment in fields):
        return
    lines += ["", "**Fields**", ""]
    for field, kind, comment in fields:
        if kind.startswith("ClassVar"):
            continue
        lines += [f"``{field}: {kind}``", f"    {comment}" if comment else r"    \ ", ""]


def _resolve(app: Any, env: Any, node: Any, content: nodes.Node) -> nodes.Node | None:
    """A name that is not found where it is written: the public one, or the only one of that name."""
    if node.get("refdomain") != "py":
        return None
    last = node["reftarget"].rpartition(".")[2]
    objects = env.domains["py"].objects
    found = [name for name in objects if name.rpartition(".")[2] == last and name.startswith("valkka_async.")]
    public = f"valkka_async.{last}"
    target = public if public in objects else found[0] if len(found) == 1 else None
    if target is None:
        return None
    entry = objects[target]
    uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
    return nodes.reference("", "", content, internal=True, refuri=f"{uri}#{entry.node_id}", reftitle=target)


def _parameters(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """The section "Parameters" as a definition list, which ends where a paragraph begins.

    (numpydoc's section, which napoleon reads, lasts until the next headline; our docstrings go on in prose.)
    """
    if "Parameters" not in lines:
        return
    at = lines.index("Parameters")
    done = [*lines[:at], "**Parameters**", ""]
    rest = lines[at + 2 :]
    for line, after in zip(rest, [*rest[1:], ""], strict=True):
        if line and not line.startswith(" ") and after.startswith(" "):
            line = ", ".join(f"``{word}``" for word in line.split(", "))
        done.append(line)
    lines[:] = done


def setup(app: Any) -> dict[str, bool]:
    show_compiled_classes()
    app.connect("autodoc-process-docstring", _parameters)
    app.connect("autodoc-process-docstring", _fields)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
