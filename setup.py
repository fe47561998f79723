"""Builds the one compiled module, ``valkka_async._shm``, from the sources in _shm/."""

import sys

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

if not sys.platform.startswith("linux"):
    sys.exit("valkka-async needs Linux (memfd, SCM_RIGHTS)")

shm = Extension(
    "valkka_async._shm",
    ["_shm/_shm.pyx"],
    include_dirs=["_shm", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    depends=["_shm/layout.h", "_shm/ring.h", "_shm/ring.pxd"],
    extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wno-unused-function"],
)

setup(ext_modules=cythonize([shm], include_path=["_shm"], build_dir="build"))
