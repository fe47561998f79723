# SPDX-License-Identifier: MIT
"""A frame as OpenCV and others take it, whatever its ring has. Adapters import this: copy it with them."""

from typing import Any

import cv2

import valkka_async as va

CODES = {"rgb24": cv2.COLOR_RGB2BGR, "rgba": cv2.COLOR_RGBA2BGR, "bgra": cv2.COLOR_BGRA2BGR}
CODES |= {"nv12": cv2.COLOR_YUV2BGR_NV12, "yuv420p": cv2.COLOR_YUV2BGR_I420, "gray8": cv2.COLOR_GRAY2BGR}


def to_bgr(frame: va.Frame) -> Any:
    """An array of bgr24, a copy that may be drawn on; None for a JPEG that cannot be decoded. Raises
    ValueError for what is no picture."""
    if frame.format == "jpeg":
        return cv2.imdecode(frame.array, cv2.IMREAD_COLOR)
    if frame.format == "bgr24":
        return frame.array.copy()
    if frame.format not in CODES:
        raise ValueError(f"{frame.source} has frames of {frame.format}: a ring of pictures is needed")
    return cv2.cvtColor(frame.array, CODES[frame.format])
