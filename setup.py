"""Builds the compiled modules: ``valkka_async.ring._shm`` and ``valkka_async.camera.pixels._pixels``.

Their sources are in _shm/ and _pixels/.
"""

import sys
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

if not sys.platform.startswith("linux"):
    sys.exit("valkka-async needs Linux (memfd, SCM_RIGHTS)")

shm = Extension(
    "valkka_async.ring._shm",
    ["_shm/_shm.pyx"],
    include_dirs=["_shm", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    depends=[*glob("_shm/*.pxi"), *glob("_shm/*.h"), "_shm/ring.pxd"],
    extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wno-unused-function"],
)

pixels = Extension(
    "valkka_async.camera.pixels._pixels",
    ["_pixels/_pixels.pyx"],
    include_dirs=["_pixels"],
    depends=["_pixels/pixels.h"],
    extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wno-unused-function"],
)

setup(ext_modules=cythonize([shm, pixels], include_path=["_shm"], build_dir="build"))
