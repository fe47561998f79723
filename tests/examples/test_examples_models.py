"""The examples of models: one for many cameras, and its results with their frames."""

from __future__ import annotations

import importlib
from pathlib import Path

import cv2
import numpy as np
import pytest

import valkka_async as va
from support.program import ROOT, Example
from support.until import wait_for

CLIPS = ["lavfi:testsrc2=size=320x180:rate=10"] * 2


def test_one_model_for_all_cameras_and_its_results_with_their_frames(tmp_path: Path) -> None:
    with Example("found.py", "one1", folder=tmp_path) as found:  # before there is anything to be found
        with Example("one_model.py", *CLIPS, folder=tmp_path) as model:
            model.match(r"^age at the result: one1 \d+ ms, one2 \d+ ms$", 60)
            found.match(r"^frame \d+, \d+ ms old: [1-9]\d* frames with a result, \d+ without$")
            wait_for((tmp_path / "found.jpg").exists)
            picture = cv2.imread(str(tmp_path / "found.jpg"))
            assert picture is not None and picture.shape == (180, 320, 3)
            assert model.interrupt() == ""
        assert found.interrupt() == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["found.jpg"]


@pytest.mark.parametrize("format", ["rgb24", "bgr24", "yuv420p"])
def test_what_is_found_is_drawn_on_frames_of_any_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: va.FrameFormat
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    draw = importlib.import_module("found").draw
    blue = np.full((48, 64, 3), (200, 0, 0), np.uint8)  # as OpenCV has it
    codes = {"rgb24": cv2.COLOR_BGR2RGB, "yuv420p": cv2.COLOR_BGR2YUV_I420}
    with va.serve("a") as camera, va.serve("a.boxes") as boxes:
        with va.attach("a") as frames, va.attach("a.boxes") as results:
            camera.publish(cv2.cvtColor(blue, codes[format]) if format in codes else blue, format=format)
            with frames.recv(30) as frame:
                boxes.publish_result(frame, [va.Box(2, 2, 20, 20)])
                with results.recv(30) as found:
                    draw(frame, va.Result.of(found), str(tmp_path / "a.jpg"))
    picture = cv2.imread(str(tmp_path / "a.jpg"))
    assert picture is not None and picture.shape == (48, 64, 3)
    assert np.abs(picture[40, 50].astype(int) - blue[0, 0]).max() < 20
