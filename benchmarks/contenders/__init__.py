# SPDX-License-Identifier: MIT
"""Everybody who is measured. One file per library; each class registers under a name."""

import importlib
from pathlib import Path

from .base import REGISTRY, Contender, Reader, Spec, Writer

__all__ = ["REGISTRY", "Contender", "Reader", "Spec", "Writer"]

for _file in sorted(Path(__file__).parent.glob("*.py")):
    if _file.stem not in ("__init__", "base"):
        importlib.import_module(f"{__name__}.{_file.stem}")
