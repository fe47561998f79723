"""Fixtures of the tests of the examples."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `support`, when only this folder is tested

from example_run import street  # noqa: E402

__all__ = ["street"]
