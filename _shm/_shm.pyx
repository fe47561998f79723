# cython: language_level=3, boundscheck=False, initializedcheck=False, freethreading_compatible=False
# cython: binding=False, embedsignature=True, embedsignature.format=clinic
# SPDX-License-Identifier: MIT
"""Lifetimes around ring.h: which object holds which memory, and where the GIL is released.

Descriptors, sockets and the event loop belong to the Python modules above; this module maps what it
is given and calls the protocol. Its private state relies on the GIL; the shared state is ring.h's business.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_F_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_ND,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_IsContiguous,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from cpython.number cimport PyNumber_Index
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EINVAL, errno
from libc.stdint cimport UINT64_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strerror
from numpy cimport (
    NPY_ARRAY_WRITEABLE,
    PyArray_DATA,
    PyArray_DIMS,
    PyArray_ISNOTSWAPPED,
    PyArray_ITEMSIZE,
    PyArray_NBYTES,
    PyArray_NDIM,
    PyArray_New,
    PyArray_STRIDES,
    PyArray_TYPE,
    import_array,
    ndarray,
    npy_intp,
    set_array_base,
)
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    madvise,
    mmap,
    munmap,
)
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport _SC_PAGESIZE, close, read, sysconf, write

from ring cimport *

cdef extern from "limited.h":
    pass

import json
from _socket import socket as CSocket
from fractions import Fraction
from threading import RLock

import numpy as np

import_array()

from valkka_async.cgroups import has_room
from valkka_async.errors import (
    ConcurrencyError,
    ConnectionClosedOK,
    FrameError,
    FrameReleasedError,
    InheritedError,
    LeaseLimitError,
    ProtocolError,
    RingMemoryError,
)

# See ring/fork.py.
lock = RLock()
cdef object ACQUIRE = lock.acquire  # bound here, where there is memory for it
cdef object RELEASE = lock.release

VERSION = VA_VERSION
LAYOUT = VA_LAYOUT
MAX_SLOTS = VA_MAX_SLOTS
MAX_LEASES = VA_MAX_LEASES
META_BYTES = VA_META_BYTES
LEASE_PAGE_BYTES = VA_LEASE_PAGE_BYTES
MAX_DIMS = VA_MAX_DIMS
MAX_FRAME_BYTES = 0xffff0000  # shapes are 32-bit

LATEST = VA_LATEST
ORDERED = VA_ORDERED
LOSSLESS = VA_LOSSLESS

# In the order of va_dtype.
DTYPES = tuple([np.dtype(name) for name in (
    "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool",
)])

cdef struct _Dtype:
    int number       # numpy's
    char letter[2]   # the struct module's, as in Py_buffer.format
    uint8_t dl_code  # DLDataTypeCode

cdef _Dtype[12] KNOWN_DTYPES


def _learn_dtypes():
    cdef int i
    assert len(DTYPES) == VA_DTYPES == 12
    for i, dtype in enumerate(DTYPES):
        assert dtype.itemsize == va_itemsize(i)
        KNOWN_DTYPES[i].number = dtype.num
        KNOWN_DTYPES[i].letter[0] = ord(dtype.char)
        KNOWN_DTYPES[i].letter[1] = 0
        KNOWN_DTYPES[i].dl_code = {"i": 0, "u": 1, "f": 2, "b": 6}[dtype.kind]


_learn_dtypes()

cdef uint64_t PAGE = <uint64_t>sysconf(_SC_PAGESIZE)

# Below this a copy takes less time than releasing and acquiring the GIL may.
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


cdef uint64_t LOOK_BYTES = 1 << 20  # that may be touched before the memory limit is looked at again
cdef uint64_t UNSEEN = 1 << 20      # that were touched since it was


cdef int _populate(char *start, uint64_t nbytes, int advice) except -1:
    """Fault pages in at once; `start` lies on a page."""
    global UNSEEN
    cdef int failed
    if advice == MADV_POPULATE_WRITE:
        UNSEEN += nbytes
        if UNSEEN >= LOOK_BYTES:
            with lock:  # it opens files, which no child is to inherit
                room = has_room(nbytes)
            if not room:
                UNSEEN = LOOK_BYTES
                raise RingMemoryError(
                    f"no memory for {nbytes} bytes of a frame ring (the limit of this control group): "
                    "use fewer slots or smaller frames, or raise the limit (--memory of a container, MemoryMax= of a "
                    "unit)"
                )
            UNSEEN = 0
    with nogil:
        failed = madvise(start, nbytes, advice)
    if failed and errno != EINVAL:
        raise RingMemoryError(
            f"no memory for {nbytes} bytes of a frame ring ({strerror(errno).decode()}): "
            "use fewer slots or smaller frames, or raise the memory limit"
        )
    return 0


cdef void _lay_out(const va_info *info, Py_ssize_t *dims, Py_ssize_t *steps) noexcept:
    """Shape and strides, both as numpy and the buffer protocol want them."""
    cdef Py_ssize_t step = va_itemsize(info.dtype)
    cdef int d
    for d in range(<int>info.ndim - 1, -1, -1):
        dims[d] = info.shape[d]
        steps[d] = step
        step *= dims[d]


cdef int _lend_buffer(Py_buffer *buffer, int flags, obj, const va_info *info, void *data, Py_ssize_t *dims,
                      Py_ssize_t *steps, bint readonly) except -1:
    """Answer a request of the buffer protocol."""
    if readonly and flags & PyBUF_WRITABLE:
        raise BufferError("a frame in shared memory is read-only; copy() makes a writable one")
    if info.ndim > 1 and flags & PyBUF_F_CONTIGUOUS == PyBUF_F_CONTIGUOUS:
        raise BufferError("a frame lies in row-major order")
    buffer.buf = data
    buffer.obj = obj
    buffer.itemsize = va_itemsize(info.dtype)
    buffer.format = KNOWN_DTYPES[info.dtype].letter if flags & PyBUF_FORMAT else NULL
    buffer.readonly = readonly
    buffer.ndim = <int>info.ndim
    buffer.shape = dims if flags & PyBUF_ND else NULL
    buffer.strides = steps if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
    buffer.suboffsets = NULL
    buffer.internal = NULL
    buffer.len = <Py_ssize_t>info.nbytes
    return 0


# What a forked child must not use: memory that it could write under its parent, and connections. A list and not
# Python's weak references: it is whole whenever the GIL is free, and so in every fork.
cdef struct _Inherited:
    _Inherited *before
    _Inherited *after
    void *base           # NULL: no memory
    uint64_t size
    int *connection      # NULL: no connection

cdef _Inherited EVERYTHING
EVERYTHING.before = EVERYTHING.after = &EVERYTHING

# How many forks lie between this process and the one that loaded this module. What was made under another number
# belongs to the parent, whether or not anybody has said so.
cdef uint64_t FORKS = 0

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*before)() noexcept, void (*in_parent)() noexcept, void (*in_child)() noexcept)


cdef void _enlist(_Inherited *thing) noexcept:
    thing.before = EVERYTHING.before
    thing.after = &EVERYTHING
    thing.before.after = thing
    EVERYTHING.before = thing


cdef void _delist(_Inherited *thing) noexcept:
    if thing.after != NULL:
        thing.before.after = thing.after
        thing.after.before = thing.before
        thing.before = thing.after = NULL


cdef int OF_ITS_OWN = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE


cdef void _in_child() noexcept nogil:
    """In a forked child, before anything else: from here on nothing writes the parent's memory. Also when a C library
    forks, where os.register_at_fork() is not asked."""
    global FORKS
    cdef _Inherited *thing = EVERYTHING.after
    FORKS += 1
    while thing != &EVERYTHING:
        if thing.base != NULL:
            # Memory of the child's own in its place: arrays that look there go on to do so. A limit or the
            # overcommit policy may refuse it to writers, but not to readers, to whom it costs nothing.
            if mmap(thing.base, thing.size, PROT_READ | PROT_WRITE, OF_ITS_OWN, -1, 0) == MAP_FAILED:
                mmap(thing.base, thing.size, PROT_READ, OF_ITS_OWN, -1, 0)
        if thing.connection != NULL and thing.connection[0] >= 0:
            close(thing.connection[0])
            thing.connection[0] = -1
        thing = thing.after

if pthread_atfork(NULL, NULL, &_in_child):
    raise MemoryError


@cython.no_gc
cdef class Held:
    """``with Held():`` holds the lock. Not ``with lock:``, because since CPython 3.14 a signal handler may come between
    ``__enter__`` and the block; what it raises drops this object, and that gives the lock back."""
    cdef bint held

    def __enter__(self):
        ACQUIRE()
        self.held = True

    def __exit__(self, *exc):
        if self.held:
            RELEASE()
            self.held = False

    def __dealloc__(self):
        if self.held:
            RELEASE()


def hold(double seconds, function):
    """Call it under the lock, if that can be had within so many seconds; False: it was not called. No signal handler
    comes between the lock and the call, or the release (as between ``acquire()`` and ``try`` in Python)."""
    if not ACQUIRE(True, seconds):
        return False
    try:
        function()
    finally:
        RELEASE()
    return True


def take_over():
    """Take the lock from a thread that is not there any more, in a forked child."""
    lock._at_fork_reinit()
    ACQUIRE()


def note(list things not None, function, *args, **options):
    """Note what a function makes, a thing or a tuple of them, with no signal handler between the two."""
    result = function(*args, **options)
    try:
        if isinstance(result, tuple):
            things.extend(result)
        else:
            things.append(result)
    except MemoryError:  # nobody will know of it
        for thing in result if isinstance(result, tuple) else (result,):
            if isinstance(thing, int):
                close(thing)
            elif thing is not None:
                thing.close()
        raise


def receive(sock, list fds not None, int nbytes, int ancillary_bytes, int flags):
    """A message (data, flags) of a socket; the descriptors that came with it are noted in ``fds``, which is empty."""
    cdef bytes numbers
    cdef int i
    data, others, flags_back, _ = sock.recvmsg(nbytes, ancillary_bytes, flags)
    try:
        for _, _, numbers in others:
            for i in range(len(numbers) // 4):
                fds.append((<const int *><const char *>numbers)[i])
    except MemoryError:  # nobody will know of those that were not noted
        fds.clear()
        for _, _, numbers in others:
            for i in range(len(numbers) // 4):
                close((<const int *><const char *>numbers)[i])
        raise
    return data, flags_back


def is_silent(int fd):
    """Is there neither a message nor an end at a socket now? A tenth of what asking Python's socket costs."""
    cdef char sink
    return recv(fd, &sink, 1, MSG_DONTWAIT | MSG_PEEK) < 0 and errno == EAGAIN


def close_all(list fds not None):
    """Close descriptors, as far as they are open, and forget their numbers."""
    cdef int fd
    while fds:
        fd = fds.pop()
        if fd >= 0:
            close(fd)


@cython.no_gc
cdef class _Mapping:
    """A shared mapping; unmapped with the last reference."""
    cdef char *base
    cdef uint64_t size
    cdef _Inherited inherited

    def __cinit__(self, int fd, uint64_t size, bint writable):
        cdef void *p = mmap(NULL, size, PROT_READ | PROT_WRITE if writable else PROT_READ, MAP_SHARED, fd, 0)
        if p == MAP_FAILED:
            raise RingMemoryError(
                f"no memory to map {size} bytes ({strerror(errno).decode()}): use fewer slots or smaller frames, "
                "or raise the limit (ulimit -v, vm.max_map_count)"
            )
        self.base = <char *>p
        self.size = size
        if writable:
            self.inherited.base = p
            self.inherited.size = size
            _enlist(&self.inherited)

    def __dealloc__(self):
        _delist(&self.inherited)
        if self.base != NULL:
            munmap(self.base, self.size)


include "reader.pxi"
include "frame.pxi"
include "dlpack.pxi"
include "writer.pxi"
include "waiting.pxi"
