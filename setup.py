"""Builds the compiled modules: ``valkka_async.ring._shm``, ``valkka_async.ring._rows`` and
``valkka_async.camera.pixels._pixels``.

Their sources are in _shm/, _rows/ and _pixels/.
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

shm = Extension(
    "valkka_async.ring._shm",
    ["_shm/_shm.pyx"],
    include_dirs=["_shm", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), *LIMITED],
    depends=[*glob("_shm/*.pxi"), *glob("_shm/*.h"), "_shm/ring.pxd"],
    extra_compile_args=FLAGS,
    py_limited_api=ABI3,
)

rows = Extension(
    "valkka_async.ring._rows",
    ["_rows/_rows.pyx"],
    include_dirs=["_rows", "_shm"],
    define_macros=LIMITED,
    depends=["_rows/rows.h", "_shm/limited.h", "_shm/wide.h"],
    extra_compile_args=FLAGS,
    py_limited_api=ABI3,
)

pixels = Extension(
    "valkka_async.camera.pixels._pixels",
    ["_pixels/_pixels.pyx"],
    include_dirs=["_pixels", "_shm"],
    define_macros=LIMITED,
    depends=["_pixels/pixels.h", "_shm/limited.h", "_shm/wide.h"],
    extra_compile_args=FLAGS,
    py_limited_api=ABI3,
)

setup(
    ext_modules=cythonize([shm, rows, pixels], include_path=["_shm"], build_dir="build"),
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
