# cython: language_level=3, boundscheck=False, initializedcheck=False
# SPDX-License-Identifier: MIT
"""Lifetimes around ring.h: who holds which memory, and when the GIL is let go.

Descriptors, sockets and the event loop belong to the Python modules above; this module maps what it
is given and calls the protocol. All of it relies on the GIL for its private state; the shared state
is ring.h's business.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_IsContiguous,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from libc.errno cimport EINVAL, errno
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strerror
from numpy cimport NPY_UINT8, PyArray_New, import_array, ndarray, npy_intp, set_array_base
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, madvise, mmap, munmap
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport _SC_PAGESIZE, close, read, sysconf, write

from ring cimport *

import json
from fractions import Fraction

import numpy as np

import_array()

from valkka_async.errors import (
    ConnectionClosedOK,
    FrameReleasedError,
    LeaseLimitError,
    ProtocolError,
    RingMemoryError,
)

VERSION = VA_VERSION
LAYOUT = VA_LAYOUT
MAX_SLOTS = VA_MAX_SLOTS
MAX_LEASES = VA_MAX_LEASES
META_BYTES = VA_META_BYTES
LEASE_PAGE_BYTES = VA_LEASE_PAGE_BYTES
MAX_FRAME_BYTES = 0xffff0000  # shapes and strides are 32-bit

LATEST = VA_LATEST
ORDERED = VA_ORDERED
LOSSLESS = VA_LOSSLESS

cdef char *UINT8 = b"B"  # the struct module's code; every array is of bytes

cdef uint64_t PAGE = <uint64_t>sysconf(_SC_PAGESIZE)

# Below this a copy is shorter than what letting the GIL go and taking it back may cost.
cdef uint64_t NOGIL_BYTES = 128 * 1024

# From Linux 5.14 (uapi/asm-generic/mman-common.h); older kernels answer EINVAL and fault the pages in
# one by one.
cdef int MADV_POPULATE_READ = 22
cdef int MADV_POPULATE_WRITE = 23


class RingTooSmall(Exception):
    """Internal: the frame does not fit a slot; args[0] is the number of bytes it needs."""


cdef inline int64_t _now(int clock) noexcept nogil:
    cdef timespec t
    clock_gettime(clock, &t)
    return <int64_t>t.tv_sec * 1_000_000_000 + t.tv_nsec


cdef int _populate(char *start, uint64_t nbytes, int advice) except -1:
    """Fault pages in at once; `start` lies on a page."""
    cdef int failed
    with nogil:
        failed = madvise(start, nbytes, advice)
    if failed and errno != EINVAL:
        raise RingMemoryError(
            f"no memory for {nbytes} bytes of a frame ring ({strerror(errno).decode()}): "
            "use fewer slots or smaller frames, or raise the memory limit"
        )
    return 0


@cython.no_gc
cdef class _Mapping:
    """A shared mapping; unmapped when nobody refers to it any more."""
    cdef char *base
    cdef uint64_t size

    def __cinit__(self, int fd, uint64_t size, bint writable):
        cdef void *p = mmap(NULL, size, PROT_READ | PROT_WRITE if writable else PROT_READ, MAP_SHARED, fd, 0)
        if p == MAP_FAILED:
            raise OSError(errno, f"mapping {size} bytes: {strerror(errno).decode()}")
        self.base = <char *>p
        self.size = size

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)


include "reader.pxi"
include "frame.pxi"
include "writer.pxi"
