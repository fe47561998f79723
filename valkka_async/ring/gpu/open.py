# SPDX-License-Identifier: MIT
"""By which names GPUs are asked for."""

from __future__ import annotations

import re
from functools import partial

from valkka_async.ring.fitting import Shape
from valkka_async.ring.gpu.cuda import Cuda, check_installed
from valkka_async.ring.gpu.tensor import GpuTensor


def tensor_on(device: str, shape: Shape, keep: bool) -> GpuTensor:
    """Arrays on "cuda", or "cuda:1". The GPU itself is opened for the first of them. Raises ValueError;
    GpuError, ImportError for what is not installed."""
    match = re.fullmatch(r"cuda(?::([0-9]{1,3}))?", device) if isinstance(device, str) else None
    if match is None:
        raise ValueError(f'device is "cpu", "cuda", or "cuda:1" for the second GPU; not {device!r}')
    check_installed()
    return GpuTensor(shape, keep, partial(Cuda, int(match[1] or 0)))
