# SPDX-License-Identifier: MIT
"""Settings that make no sense are refused where they are given, whoever runs the camera."""

from __future__ import annotations

import gc
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import valkka_async as va
from valkka_async.camera.workers import messages


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 640}, {"size": (True, 4)}, {"size": "12"}, {"quality": 80.5}, {"quality": "80"},
        {"quality": True}, {"fps": "5"}, {"fps": True}, {"fps": 10**400}, {"key_frames": "no"},
    ],
    ids=str,
)  # fmt: skip
def test_an_output_refuses_values_of_other_types(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        va.Output("a", "jpeg", **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"outputs": "abc"}, {"outputs": ["a"]}, {"outputs": {"a": 1}}, {"options": [("a", "b")]},
        {"options": "a=b"}, {"options": {"a": "\0"}}, {"hwaccel": 5}, {"thread_count": 1 << 40},
        {"open_timeout": "a"}, {"open_timeout": True}, {"read_timeout": 10**400}, {"retry_max": None},
        {"url": "rtsp://h/a\0b"}, {"url": "/a\0b"}, {"url": "lavfi:a\0b"},
    ],
    ids=str,
)  # fmt: skip
def test_a_camera_refuses_settings_of_other_types(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        va.CameraSpec(**({"name": "c", "url": "rtsp://h/x"} | wrong))


def test_numbers_of_any_kind_reach_a_worker() -> None:
    output = va.Output("a", fps=Fraction(30000, 1001))  # type: ignore[arg-type]
    spec = va.CameraSpec("c", "rtsp://h/x", (output,), open_timeout=np.float32(2))  # type: ignore[arg-type]
    message = messages.Configure("c", 1, spec)
    assert messages.decode(messages.encode(message)) == message
    assert output.fps == pytest.approx(29.97, abs=0.001)


def test_a_camera_that_could_not_be_made_is_forgotten_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    for kind in (va.Camera, va.Supervisor, va.Player):
        with pytest.raises(TypeError):
            kind(no_such_argument=1)  # type: ignore[call-arg]
    gc.collect()
    assert not said


def test_play_takes_a_server_and_not_its_name() -> None:
    with pytest.raises(TypeError, match="serve"):
        va.play("lavfi:testsrc", "cam1")  # type: ignore[arg-type]
