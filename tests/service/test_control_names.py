"""A service keeps its control socket, whatever deletes it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import valkka_async as va
from support.until import until
from valkka_async.service.control import Control, ask


async def _good() -> object:
    return 7


@pytest.mark.parametrize(
    "names",
    [("home.control",), ("home.control.lock",), ("home.control", "home.control.lock")],
    ids=["socket", "lock", "both"],
)
async def test_a_service_is_found_again(runtime_dir: Path, names: tuple[str, ...]) -> None:
    async with Control("home", {"good": _good}):
        for name in names:
            (runtime_dir / name).unlink()
        with pytest.raises(va.NameInUseError):
            Control("home", {})
        await until(lambda: all((runtime_dir / name).exists() for name in names))
        assert await asyncio.to_thread(ask, "home", "good", 5) == 7
