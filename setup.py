"""Builds the compiled modules: ``valkka_async.ring._shm``, ``valkka_async.ring._rows``,
``valkka_async.camera.pixels._pixels`` and ``valkka_async.camera.source._rtp``.

Their sources are in _shm/, _rows/, _pixels/ and _rtp/.
"""

import os
import sys
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

if not sys.platform.startswith("linux"):
    sys.exit("valkka-async needs Linux (memfd, SCM_RIGHTS)")

FLAGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wno-unused-function"]
# Errors since gcc 14; older ones should refuse what it would.
ERRORS = ("incompatible-pointer-types", "int-conversion", "implicit-function-declaration")
FLAGS += [f"-Werror={name}" for name in ERRORS]

# Modules for all Pythons from 3.11 on (`make wheels`), instead of faster ones for this Python alone.
ABI3 = os.environ.get("VALKKA_ABI3") == "1"
LIMITED = [("Py_LIMITED_API", "0x030B0000")] if ABI3 else []


def compiled(room: str, name: str) -> Extension:
    """A module of a room, from the folder of its name."""
    parts = [part for kind in ("pxi", "pxd", "h") for part in glob(f"{name}/*.{kind}")]
    return Extension(
        f"valkka_async.{room}.{name}",
        [f"{name}/{name}.pyx"],
        include_dirs=[name, "_shm", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), *LIMITED],
        depends=[*parts, "_shm/limited.h", "_shm/wide.h"],
        extra_compile_args=FLAGS,
        py_limited_api=ABI3,
    )


MODULES = [
    compiled("ring", "_shm"),
    compiled("ring", "_rows"),
    compiled("camera.pixels", "_pixels"),
    compiled("camera.source", "_rtp"),
]

setup(
    ext_modules=cythonize(MODULES, include_path=["_shm"], build_dir="build"),
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
