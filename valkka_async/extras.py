# SPDX-License-Identifier: MIT
"""Packages that an extra installs (`pip install "valkka-async[camera]"`), and what to say without them."""

from __future__ import annotations

from importlib.util import find_spec

# How a package is called to import it: to install it, and the smallest extra that brings it.
_PACKAGES = {
    "av": ("PyAV", "camera"),
    "aiohttp": ("aiohttp", "service"),
    "pydantic": ("pydantic", "service"),
    "pydantic_core": ("pydantic", "service"),
    "yaml": ("PyYAML", "service"),
    "prometheus_client": ("prometheus-client", "service"),
    "typer": ("typer", "service"),
    "rich": ("rich", "service"),
    "uvloop": ("uvloop", "service"),
    "yarl": ("yarl", "service"),
    "zenoh": ("eclipse-zenoh", "link"),
}


def require(package: str, by: str) -> None:
    """Raise ImportError, with what to install, unless `package` is installed. `by` is what needs it. Imports
    nothing."""
    if find_spec(package) is None:
        raise ImportError(advice(package, by), name=package)


def advice(module: str | None, by: str) -> str:
    """What to install for the missing `module` that `by` needs, in one line; "" if no extra brings it."""
    name, extra = _PACKAGES.get((module or "").partition(".")[0], ("", ""))
    return name and f'{by} needs {name}: pip install "valkka-async[{extra}]"'
