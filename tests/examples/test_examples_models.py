"""The examples of models: one for many cameras, and its results with their frames."""

from __future__ import annotations

from pathlib import Path

import cv2

from support.program import Example
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
