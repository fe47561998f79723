# SPDX-License-Identifier: MIT
"""`valkka-async run` with a camera of two streams, as its user sees it."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

from support.footage import encode
from support.program import Program, run
from support.rtsp import RtspServer
from support.until import wait_for


def test_a_reload_restarts_the_stream_that_has_changed_and_shows_no_password(
    rtsp: RtspServer, tmp_path: Path
) -> None:
    clip = encode(tmp_path / "clip.h264", (320, 192), 50, gop=10)
    rtsp.mount("/main", clip, auth=("me", "l4rge/pw", "digest"))
    rtsp.mount("/sub", clip, auth=("you", "sm4ll/pw", "digest"))
    (tmp_path / "s.env").write_text("MAIN=l4rge/pw\nSUB=sm4ll/pw\nWRONG=wr0ng/pw\n")
    (tmp_path / "s.env").chmod(0o600)
    path = tmp_path / "cameras.yaml"

    def write(sub: str) -> None:
        path.write_text(
            "secrets: s.env\nweb: {port: 0}\ncameras:\n  cam:\n    retry_refused: 2\n    streams:\n"
            f"      main: rtsp://me:${{MAIN}}@127.0.0.1:{rtsp.port}/main\n"
            f"      sub: rtsp://you:${{{sub}}}@127.0.0.1:{rtsp.port}/sub\n"
        )

    write("SUB")
    with Program("run", str(path)) as program:
        url = program.line()
        seen = ""

        def streams() -> dict[str, dict[str, Any]]:
            nonlocal seen
            with urllib.request.urlopen(url + "api/status", timeout=10) as answer:
                seen = answer.read().decode()
            (camera,) = json.loads(seen)["cameras"] or [{"camera": {"streams": []}}]
            return {one["name"]: one for one in camera["camera"]["streams"]}

        def states() -> list[str]:
            return [one["state"] for one in streams().values()]

        wait_for(lambda: states() == ["live", "live"])
        write("WRONG")
        program.signal(signal.SIGHUP)
        wait_for(lambda: states() == ["live", "failed"])
        assert (streams()["main"]["attempts"], streams()["sub"]["cause"]) == (1, "auth")
        top = run("top", "--once")
        assert top.returncode == 0 and "401" in top.stdout and "main" in top.stdout
        write("SUB")
        assert run("reload").stdout == "changed cam\n"
        wait_for(lambda: states() == ["live", "live"])
        assert streams()["main"]["attempts"] == 1
        status, errors = program.end(signal.SIGTERM)
    assert status == 0
    for secret in ("l4rge", "sm4ll", "wr0ng"):
        assert secret not in errors + program.seen + seen + top.stdout


def test_check_says_what_is_wrong_with_each_of_them(tmp_path: Path) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(
        "cameras:\n  cam:\n    streams:\n      main: rtps://me:hunter2@h/x\n      sub: me:hunter2@h/x\n"
    )
    checked = run("run", "--check", str(path))
    assert checked.returncode == 1 and "hunter2" not in checked.stderr
    first, second, _ = checked.stderr.splitlines()
    assert first.startswith(f"{path}:4: cameras.cam.streams.main: ")
    assert second.startswith(f"{path}:5: cameras.cam.streams.sub: ")
    path.write_text("cameras:\n  cam:\n    streams: {main: rtsp://h/1, sub: rtsp://h/2}\n")
    assert run("run", "--check", str(path)).stdout == f"{path}: good, 1 camera\n"
