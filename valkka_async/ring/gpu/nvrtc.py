# SPDX-License-Identifier: MIT
"""CUDA C to a binary for a GPU, by NVIDIA's NVRTC: PyTorch, CuPy and others bring it, and it is a package of
its own.

https://docs.nvidia.com/cuda/nvrtc/
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from valkka_async.errors import GpuError

_ADVICE = (
    'device="cuda" needs NVRTC, which compiles its kernel: pip install nvidia-cuda-nvrtc (for a driver of '
    "CUDA 12, nvidia-cuda-nvrtc-cu12). PyTorch and CuPy's wheels with CUDA bring it"
)
_MAJORS = (13, 12, 11)
_FUNCTIONS = (  # 11.2 has them all
    "nvrtcGetErrorString", "nvrtcGetNumSupportedArchs", "nvrtcGetSupportedArchs", "nvrtcCreateProgram",
    "nvrtcCompileProgram", "nvrtcDestroyProgram", "nvrtcGetProgramLogSize", "nvrtcGetProgramLog",
    "nvrtcGetCUBINSize", "nvrtcGetCUBIN", "nvrtcGetPTXSize", "nvrtcGetPTX",
)  # fmt: skip


@cache
def library(major: int) -> Any:
    """NVRTC, that of the driver's CUDA if there are several. Raises ImportError."""
    for path in sorted(candidates(), key=lambda one: _major(one) != major):
        try:
            found = ctypes.CDLL(path)
            for name in _FUNCTIONS:
                getattr(found, name)
            found.nvrtcGetErrorString.restype = ctypes.c_char_p
            return found
        except (OSError, AttributeError):
            continue
    raise ImportError(_ADVICE, name="nvidia.cuda_nvrtc")


def _major(path: str) -> int:
    number = re.search(r"libnvrtc[^/]*\.so\.(\d+)", path)
    return int(number[1]) if number else 0


def candidates() -> Iterator[str]:
    """What the loader finds, then Python's packages, then a toolkit. Imports nothing."""
    yield from (f"libnvrtc.so.{'11.2' if major == 11 else major}" for major in _MAJORS)
    folders = [
        place / below
        for package, below in (("nvidia", "cuda_nvrtc/lib"), ("nvidia", "cu13/lib"), ("torch", "lib"))
        for place in _places(package)
    ]
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders += [Path(home) / lib for home in homes if home for lib in ("lib64", "lib")]
    for folder in folders:
        yield from (
            str(path)
            for path in sorted(folder.glob("libnvrtc[.-]*so.*"))
            if not re.search("alt|builtins", path.name)
        )


def _places(package: str) -> list[Path]:
    try:
        found = find_spec(package)
    except (ImportError, ValueError):
        return []
    return [Path(place) for place in (found.submodule_search_locations or [])] if found is not None else []


@cache
def compiled(source: str, capability: int, major: int) -> bytes:
    """A binary for GPUs of this compute capability (90 for 9.0), or, where NVRTC is older than the GPU, PTX,
    which the driver finishes. Raises ImportError, GpuError."""
    nvrtc = library(major)
    count = ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    known = (ctypes.c_int * count.value)()
    _check(nvrtc, nvrtc.nvrtcGetSupportedArchs(known))
    binary = capability in known
    target = (
        f"sm_{capability}"
        if binary
        else f"compute_{max((n for n in known if n < capability), default=capability)}"
    )
    program = ctypes.c_void_p()
    _check(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"rows.cu", 0, None, None))
    try:
        options = (ctypes.c_char_p * 1)(f"--gpu-architecture={target}".encode())
        if nvrtc.nvrtcCompileProgram(program, 1, options):
            log = _text(nvrtc, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            raise GpuError(
                f"NVRTC does not compile the kernel: {log.rstrip(bytes(1)).decode(errors='replace')}"
            )
        if binary:
            return _text(nvrtc, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
        return _text(nvrtc, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(nvrtc: Any, size_of: Any, get: Any, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, size_of(program, ctypes.byref(size)))
    data = ctypes.create_string_buffer(size.value)
    _check(nvrtc, get(program, data))
    return data.raw


def _check(nvrtc: Any, result: int) -> None:
    if result:
        raise GpuError(f"NVRTC failed: {nvrtc.nvrtcGetErrorString(result).decode()}")
