# SPDX-License-Identifier: MIT
"""Where a report was made."""

import os
import platform
from importlib import metadata
from typing import Any


def _field(path: str, name: str) -> str:
    try:
        with open(path) as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def describe(registry: dict[str, Any], names: list[str]) -> dict[str, Any]:
    packages = sorted({"numpy", *(m for n in names for m in registry[n].modules)})
    versions = {p: _version(p) for p in packages}
    if versions.get("valkka-async") == "not installed":
        try:
            import valkka_async

            versions["valkka-async"] = f"{valkka_async.__version__} (not installed, on the path)"
        except ImportError:
            pass
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_before": round(os.getloadavg()[0], 2),
        "packages": versions,
    }
