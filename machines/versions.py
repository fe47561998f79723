"""The oldest and the newest versions of what pyproject.toml asks for.

python machines/versions.py lowest FILE       # constraints for pip: each package in its lowest version
python machines/versions.py moved             # what is installed here, against what passed the tests last
python machines/versions.py passed lowest     # the tests passed here, with the lowest versions ...
python machines/versions.py passed newest     # ... or the newest: into versions.json and docs/machines.md
"""

from __future__ import annotations

import json
import platform
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import matrix

ROOT = Path(__file__).parents[1]
DATA = ROOT / "machines" / "versions.json"
OURS = "valkka-async"
BUILD = ("cython", "setuptools")  # in an environment of their own, made by pip


def requirements() -> dict[str, str]:
    """Package: the lowest version, for all that the project itself names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    return _bounds(
        *(project["build-system"]["requires"], project["project"]["dependencies"]),
        *(*extras.values(), *groups.values()),
    )


def _bounds(*lists: list[str | dict[str, str]]) -> dict[str, str]:
    found = {}
    for one in (one for each in lists for one in each if isinstance(one, str)):
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)(?:,<[\w.]+)?", one)
        if match is not None:
            found[match[1].lower()] = match[2]
        elif not one.startswith(OURS):
            sys.exit(f"pyproject.toml: {one!r} does not say from which version on: write {one}>=...")
    return dict(sorted(found.items()))


def installed() -> dict[str, str]:
    """Package: the version that is here, of what the project names. What only builds it is elsewhere."""
    here = {dist.name.lower().replace("_", "-"): dist.version for dist in metadata.distributions()}
    return {name: here[name] for name in requirements() if name in here and name not in BUILD}


def lowest(file: Path) -> None:
    file.write_text("".join(f"{name}=={version}\n" for name, version in requirements().items()))


def moved() -> None:
    before = json.loads(DATA.read_text())["newest"] if DATA.exists() else {}
    changes = [
        f"  {name} {before.get(name, '(none)')} -> {version}"
        for name, version in installed().items()
        if before.get(name) != version
    ]
    print("\n".join(["moved since the tests passed last:", *changes]) if changes else "no version has moved")


def passed(which: str) -> None:
    here = installed()
    if which == "lowest":
        asked = requirements()
        wrong = [name for name, version in here.items() if not same(version, asked[name])]
        if wrong:
            sys.exit(f"these are not here in their lowest versions: {', '.join(wrong)}")
        here |= {name: asked[name] for name in BUILD}
    known = json.loads(DATA.read_text()) if DATA.exists() else {"lowest": {}, "newest": {}, "python": {}}
    known[which] = here
    known["python"][which] = platform.python_version()
    DATA.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    matrix.fill(matrix.PAGE, "versions", table())


def same(version: str, other: str) -> bool:
    """2.0 and 2.0.0 are."""
    return re.sub(r"(\.0)+$", "", version) == re.sub(r"(\.0)+$", "", other)


def table() -> str:
    """The page's."""
    known = json.loads(DATA.read_text())
    low, new, python = known["lowest"], known["newest"], known["python"]
    heads = [
        "Package",
        *(f"{which.title()} (Python {python.get(which, '-')})" for which in ("lowest", "newest")),
    ]
    names = sorted({*low, *new})
    return matrix.markdown(heads, [(name, low.get(name, "-"), new.get(name, "-")) for name in names])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["lowest", file]:
            lowest(Path(file))
        case ["moved"]:
            moved()
        case ["passed", "lowest" | "newest" as which]:
            passed(which)
        case _:
            sys.exit(__doc__)
