"""The folders are the layers: imports point down, and what is private to a room or a class stays there."""

from __future__ import annotations

import ast
import graphlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "valkka_async"
HOUSE = Path(__file__).parents[2] / PACKAGE
# From the top down. "" is valkka_async/__init__.py, the public names; modules beside it are at the bottom.
LAYERS = ("__main__", "cli", "service", "", "record", "link", "camera", "ring")
COMPILED = {
    "_shm": "ring",
    "_rows": "ring",
    "_pixels": "camera.pixels",
    "_rtp": "camera.source",
}  # module: the only folder that imports it


def violations(house: Path) -> set[str]:
    """All that breaks a rule in this package, as "module: what"."""
    trees = {name(path, house): ast.parse(path.read_text()) for path in house.rglob("*.py")}
    trees |= {f"{folder}.{module}": ast.Module([], []) for module, folder in COMPILED.items()}
    graph: dict[str, set[str]] = {module: set() for module in trees}
    found = set()
    for module, tree in trees.items():
        found |= {f"{module}: {access}" for access in intrusions(tree)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                found.add(f"{module}: a relative import")
            for target in imported(node):
                there = target  # `from package import name` may mean a module or a name in one
                while there not in trees:
                    there = there.rpartition(".")[0]
                graph[module].add(there)
                if layer(there) < layer(module):
                    found.add(f"{module}: imports {there or PACKAGE}, which is above it")
                found |= {f"{module}: imports {private}" for private in strange(module, target)}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as e:
        found.add(f"a cycle: {' -> '.join(e.args[1])}")
    return found


def name(path: Path, house: Path) -> str:
    """ring.server; a package by its folder."""
    return ".".join(path.relative_to(house).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imported(node: ast.AST) -> Iterator[str]:
    """Modules and names of ours that a statement imports, without the package's name."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    for one in names:
        if one == PACKAGE or one.startswith(f"{PACKAGE}."):
            yield one.removeprefix(PACKAGE).removeprefix(".")


def layer(module: str) -> int:
    """0 is the top. Raises ValueError for a folder without a place."""
    room, dot, _ = module.partition(".")
    return len(LAYERS) if not dot and room not in LAYERS else LAYERS.index(room)


def strange(module: str, target: str) -> Iterator[str]:
    """Underscore names on the way to `target` that are not for this module."""
    parts = target.split(".")
    for number, part in enumerate(parts):
        folder = COMPILED.get(part, ".".join(parts[:number]))
        mine = f"{module}.".startswith(f"{folder}.")
        if part.startswith("_") and not part.endswith("__") and not mine:
            yield f"{part} of {folder}"


def intrusions(tree: ast.Module) -> Iterator[str]:
    """Uses of another object's underscore attribute; `other._x` is fine where the class itself has an _x."""
    imports = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    others = {a.asname or a.name for a in imports if a.name.partition(".")[0] != PACKAGE}  # as in os._exit

    def visit(node: ast.AST, own: frozenset[str]) -> Iterator[str]:
        if isinstance(node, ast.ClassDef):
            own = frozenset(privates(node))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            of = node.value
            ours = isinstance(of, ast.Name) and (of.id in {"self", "cls"} | others or node.attr in own)
            if not ours and ast.unparse(of) != "super()":
                yield ast.unparse(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, own)

    yield from visit(tree, frozenset())


def privates(cls: ast.ClassDef) -> Iterator[str]:
    """Underscore names that the class itself defines or sets."""
    for node in ast.walk(cls):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                yield node.attr


def test_the_house_is_as_it_should_be() -> None:
    found = violations(HOUSE)
    assert found == set()


def plant(house: Path, **modules: str) -> None:
    for module, code in ({"ring__server": "", "camera__spec": "", "errors": "", "": ""} | modules).items():
        path = house / (module.replace("__", "/") + ".py" if module else "__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(code))
    for folder in {path.parent for path in house.rglob("*.py")}:
        (folder / "__init__.py").touch()


@pytest.mark.parametrize(
    ("module", "code", "wrong"),
    [
        (
            "ring__server",
            "from valkka_async.camera.spec import Spec",
            "imports camera.spec, which is above it",
        ),
        (
            "ring__server",
            "def f(): import valkka_async.camera.spec",
            "imports camera.spec, which is above it",
        ),
        ("camera__spec", "from valkka_async import serve", "imports valkka_async, which is above it"),
        ("camera__spec", "import valkka_async as va", "imports valkka_async, which is above it"),
        ("errors", "from valkka_async.ring import server", "imports ring.server, which is above it"),
        ("camera__spec", "from ..ring import server", "a relative import"),
        ("camera__spec", "from valkka_async.ring import _shm", "imports _shm of ring"),
        ("service__web", "import valkka_async.ring._shm", "imports _shm of ring"),
        ("camera__spec", "from valkka_async.ring._shm import Frame", "imports _shm of ring"),
        (
            "camera__feed",
            "from valkka_async.camera.pixels._pixels import shrink",
            "imports _pixels of camera.pixels",
        ),
        ("camera__spec", "from valkka_async.ring import _fork", "imports _fork of ring"),
        ("camera__spec", "from valkka_async.ring.server import _take", "imports _take of ring.server"),
        ("camera__spec", "def f(server): server._close()", "server._close"),
        ("cli__top", "import valkka_async as va\nva._LAZY", "va._LAZY"),
        ("camera__spec", "class A:\n def f(self): return self.other._x", "self.other._x"),
        ("camera__spec", "class A:\n _x = 0\n def f(self, o): return o._y", "o._y"),
        ("camera__spec", "class A:\n def f(self, *all): all[0]._x = self.f()._x", "self.f()._x"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, module: str, code: str, wrong: str) -> None:
    plant(tmp_path / PACKAGE, **{module: code})
    assert f"{module.replace('__', '.')}: {wrong}" in violations(tmp_path / PACKAGE)


def test_a_planted_cycle_is_found(tmp_path: Path) -> None:
    plant(
        tmp_path / PACKAGE,
        camera__feed="from valkka_async.camera.spec import A",
        camera__spec="def f(): from valkka_async.camera import feed",
    )
    (found,) = violations(tmp_path / PACKAGE)
    assert found.startswith("a cycle: ") and {"camera.feed", "camera.spec"} < {*found[9:].split(" -> "), ""}


def test_a_folder_without_a_layer_is_refused(tmp_path: Path) -> None:
    plant(tmp_path / PACKAGE, elsewhere__module="import valkka_async.errors")
    with pytest.raises(ValueError):
        violations(tmp_path / PACKAGE)


def test_what_is_right_is_let_pass(tmp_path: Path) -> None:
    plant(
        tmp_path / PACKAGE,
        ring__client="""
            import os
            from valkka_async.errors import ValkkaError
            from valkka_async.ring import _fork, _shm, server
            class Client(Base):
                _count: int
                @classmethod
                def make(cls):
                    client = cls.__new__(cls)
                    client._start(cls._count)
                    return client
                def _start(self, count): self._left = super()._start() or os._exit(count)
                def __lt__(self, other): return self._left < other._left or other._count
            """,
        ring___fork="",
        cli__top="import valkka_async as va, valkka_async.service.web\nfrom valkka_async import serve",
        service__web__app="from valkka_async import __version__\nfrom valkka_async.camera.spec import Output",
    )
    assert violations(tmp_path / PACKAGE) == set()
