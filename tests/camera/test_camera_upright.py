"""Rotation and the shape of pixels are told, and applied where that is asked for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import valkka_async as va


def film(path: Path, rotation: int, aspect: Fraction = Fraction(1)) -> Path:
    """96x64, black but for a white corner at the top left."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:32, :32] = 255
    with av.open(path, "w") as out:
        video = out.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        video.sample_aspect_ratio = aspect
        video.codec_context.sample_aspect_ratio = aspect
        if rotation:
            video.set_display_rotation(rotation)
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def seen(path: Path, **settings: object) -> va.Frame:
    """The first frame of a camera's output."""
    with va.Camera("cam", path, va.Output("cam", **settings)), va.attach("cam") as reader:  # type: ignore[arg-type]
        with reader.recv(timeout=10) as frame:
            return frame.copy()


def corner(frame: va.Frame) -> tuple[bool, bool]:
    """Whether the white corner is (at the bottom, at the right)."""
    height, width = frame.shape[:2]
    where = np.argwhere(frame.array.reshape(height, width, -1)[..., 0] > 128).mean(axis=0)
    return bool(where[0] > height / 2), bool(where[1] > width / 2)


# Counterclockwise, the corner goes down, then to the right, then up.
TURNED = {90: (True, False), -90: (False, True), 180: (True, True)}


@pytest.mark.parametrize("rotation", [90, -90, 180])
@pytest.mark.parametrize("format", ["rgb24", "rgba", "gray8"])
def test_a_frame_is_turned_on_request(rotation: int, format: str, tmp_path: Path) -> None:
    path = film(tmp_path / "f.mp4", rotation)
    told = seen(path, format=format)
    assert told.shape[:2] == (64, 96) and corner(told) == (False, False)
    assert told.meta is not None and abs(told.meta["rotation"]) == abs(rotation)
    done = seen(path, format=format, upright=True)
    assert done.shape[:2] == ((64, 96) if rotation == 180 else (96, 64))
    assert corner(done) == TURNED[told.meta["rotation"] if rotation != 180 else 180]
    assert "rotation" not in (done.meta or {})


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(2), Fraction(1, 2)])
def test_pixels_are_made_square_on_request(aspect: Fraction, tmp_path: Path) -> None:
    path = film(tmp_path / "f.mp4", 0, aspect)
    told = seen(path)
    assert told.shape == (64, 96, 3)
    assert told.meta is not None and told.meta["pixel_aspect"] == [aspect.numerator, aspect.denominator]
    assert seen(path, upright=True).shape == (64, round(96 * aspect), 3)
    assert seen(path, upright=True, size=(48, None)).shape[:2] == (round(64 / 96 / aspect * 48 / 2) * 2, 48)


def test_turned_and_scaled_a_frame_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    path = film(tmp_path / "f.mp4", 90)
    assert seen(path, upright=True, size=(32, 48)).shape == (48, 32, 3)
    assert seen(path, upright=True, size=(32, None)).shape == (48, 32, 3)
    assert "rotation" not in (seen(film(tmp_path / "g.mp4", 0)).meta or {})


@pytest.mark.parametrize("format", ["nv12", "jpeg", "fmp4"])
def test_formats_that_cannot_be_turned_are_refused(format: str) -> None:
    with pytest.raises(ValueError, match="upright"):
        va.Output("cam", format, upright=True)  # type: ignore[arg-type]
