# SPDX-License-Identifier: MIT
"""One thing that doctor has checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

OK = "ok"
WARNING = "warning"  # works, but not everywhere or not as well as it could
PROBLEM = "problem"  # something does not work


@dataclass(frozen=True, slots=True)
class Check:
    """What was found, and for all that is not ok how to fix it, in a line."""

    name: str
    state: str
    found: str
    fix: str = ""


Look = Callable[[], Check | Iterable[Check]]


def look_at(name: str, look: Look) -> list[Check]:
    """The results of a look. A look that fails is a result too: what is broken is what doctor is for."""
    checks: list[Check] = []
    try:
        result = look()
        for check in (result,) if isinstance(result, Check) else result:
            checks.append(check)  # noqa: PERF402 - what was found before it failed counts
    except Exception as e:  # of a broken library, an unusual /proc ...
        text = " ".join(str(e).split())
        found = f"cannot be looked at ({type(e).__name__}: {text})"
        checks.append(Check(name, WARNING, found, "report this as a bug"))
    return checks
