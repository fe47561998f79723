"""Which device decodes, and what happens where there is none: on most machines that run this."""

from __future__ import annotations

import logging

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel, hwdevices_available
from camera_tools import Clips

from support.require import missing
from valkka_async.camera.source.hwaccel import device_types, hwaccel
from valkka_async.errors import CameraError


def opens(kind: str) -> bool:
    try:
        HWAccel(kind).create(device_types()[kind])
    except av.error.FFmpegError:
        return False
    return True


def absent_type() -> str:
    for kind in device_types():
        if not opens(kind):
            return kind
    missing("every type of device that FFmpeg knows opens on this machine")


def test_none_decodes_on_the_cpu() -> None:
    assert hwaccel(None) is None


def test_a_device_that_is_not_there_is_a_clear_error_and_no_software() -> None:
    kind = absent_type()
    with pytest.raises(
        CameraError, match=rf"hwaccel '{kind}' does not open here \(.+\); available: "
    ) as caught:
        hwaccel(kind)
    assert '"auto"' in str(caught.value)
    others = str(caught.value).partition("available: ")[2].partition(";")[0]
    assert others == (", ".join(k for k in device_types() if opens(k)) or "none")
    with pytest.raises(CameraError, match=f"hwaccel '{kind}:0' does not open here"):
        hwaccel(f"{kind}:0")


@pytest.mark.parametrize("name", ["nonsense", "", "Cuda", ":0", "nonsense:0", "none"])
def test_a_name_that_ffmpeg_cannot_decode_with_is_refused(name: str) -> None:
    """FFmpeg itself would take it for any device at all."""
    with pytest.raises(ValueError, match=r"this FFmpeg decodes on .+ \"auto\", or None"):
        hwaccel(name)


def test_types_that_no_decoder_uses_are_refused() -> None:
    for kind in set(hwdevices_available()) - set(device_types()):
        with pytest.raises(ValueError, match=f"hwaccel '{kind}'"):
            hwaccel(kind)


def test_a_cuda_device_is_a_number() -> None:
    if "cuda" not in device_types():
        missing("this FFmpeg is built without cuda")
    with pytest.raises(ValueError, match="cuda:0"):
        hwaccel("cuda:first")


def test_auto_goes_on_in_software_and_says_so(clips: Clips, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "valkka_async.camera"):
        settings = hwaccel("auto")
    (line,) = [r.getMessage() for r in caplog.records if r.name == "valkka_async.camera"]
    present = [kind for kind in device_types() if opens(kind)]
    if present:
        assert settings is not None and line == f"hwaccel 'auto': decoding on {present[0]}"
    else:
        assert settings is None and line.startswith("hwaccel 'auto': decoding on the CPU (")
        assert all(f"{kind}: " in line for kind in device_types())
    path = str(clips())
    with av.open(path) as container:
        wanted = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    with av.open(path, hwaccel=settings) as container:
        got = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 2  # another way from nv12 to gray


def test_a_stream_that_the_device_cannot_decode_is_decoded_in_software(clips: Clips) -> None:
    """With the settings that hwaccel() gives; a type that no decoder uses stands for one that cannot."""
    useless = set(hwdevices_available()) - set(device_types())
    if not useless:
        missing("every type of device of this FFmpeg is used by some decoder")
    settings = HWAccel(useless.pop(), allow_software_fallback=True)
    with av.open(str(clips()), hwaccel=settings) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p"
