# SPDX-License-Identifier: MIT
"""A service on a machine whose clock is not set when it starts, and is a while later."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from support.clock import unset_clock
from support.footage import encode
from support.program import Program
from support.rtsp import RtspServer
from support.stream import free_port
from support.until import wait_for

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("says", [100, 1800])  # s since 1970, of which the second are today's date in ms
def test_what_is_recorded_before_the_clock_is_set_is_there_as_of_today(
    rtsp: RtspServer, tmp_path: Path, says: int
) -> None:
    rtsp.mount("/door", encode(tmp_path / "door.h264", (160, 96), 50, gop=10))
    port = free_port()
    config = tmp_path / "cameras.yaml"
    config.write_text(
        f"web: {{port: {port}}}\nrecordings: 'recordings/{{name}}/{{n}}.mp4'\nkeep: 1d\n"
        f"cameras: {{door: {{url: '{rtsp.url('/door')}', record: true}}}}\n"
    )
    environment, clock = unset_clock(tmp_path, says)
    first, second = (tmp_path / "recordings" / "door" / name for name in ("1.mp4", "2.mp4"))
    with Program("run", str(config), **environment) as program:
        url = program.line()

        def timeline() -> dict[str, Any]:
            with urllib.request.urlopen(f"{url}api/recordings/door?from=0&to={time.time() + 60}") as answer:
                said: dict[str, Any] = json.load(answer)
                return said

        wait_for(lambda: first.exists() and first.stat().st_size > 100_000)
        assert timeline()["newest_ns"] < 4000 * 10**9
        clock.touch()
        wait_for(second.exists)
        wait_for(lambda: timeline()["oldest_ns"] > (time.time() - 600) * 1e9)
        found = timeline()
        assert found["gaps"] == [] or found["gaps"][0]["to_ns"] - found["gaps"][0]["from_ns"] < 60e9
        assert "camera.live" in [event["code"] for event in found["events"]]
        assert min(event["at_ns"] for event in found["events"]) > (time.time() - 600) * 1e9
        assert first.exists()
        status, said = program.end()
    assert status == 0 and "Traceback" not in said and "not told" not in said
