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


@cython.no_gc
cdef class _Ring:
    """A reader's map of one ring, with the checked geometry."""
    cdef _Mapping map
    cdef va_view view
    cdef uint64_t *touched  # per slot: payload bytes already mapped here

    def __cinit__(self, int fd, uint64_t size):
        self.map = _Mapping(fd, size, False)
        if not va_open(&self.view, self.map.base, size):
            raise ProtocolError("the server sent a frame ring whose layout makes no sense")
        self.touched = <uint64_t *>PyMem_Calloc(self.view.slots, sizeof(uint64_t))
        if self.touched == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.touched)


@cython.no_gc
cdef class _LeasePage:
    """A reader's side of its lease page. Lives as long as the reader or any of its frames, and keeps
    the connection open as long: the server takes the end of the connection for the end of all leases."""
    cdef _Mapping map
    cdef va_lease_page *page
    cdef uint64_t busy       # bit k: lease word k is in use
    cdef uint32_t live
    cdef int connection      # to be closed with the last lease; -1: not ours
    cdef int signal_fd       # where the server learns that a slot came back; open as long as the connection
    cdef bytes signal
    cdef bint closing
    cdef bint inert          # in a forked child: the leases are the parent's

    def __cinit__(self, int fd):
        self.map = _Mapping(fd, VA_LEASE_PAGE_BYTES, True)
        self.page = <va_lease_page *>self.map.base
        self.connection = -1
        self.signal_fd = -1

    cdef int take(self, uint32_t limit) noexcept:
        cdef uint32_t k
        for k in range(limit):
            if not self.busy >> k & 1:
                self.busy |= <uint64_t>1 << k
                self.live += 1
                return k
        return -1

    cdef void untake(self, int k) noexcept:
        self.busy &= ~(<uint64_t>1 << k)
        self.live -= 1

    cdef void give_back(self, int k) noexcept:
        if not self.inert:
            va_unpin(self.page, k)
            self.signal_room()
        self.untake(k)
        if self.closing and not self.live:
            self.hang_up()

    cdef void signal_room(self) noexcept:
        """Tell a server that waits for a slot to look again."""
        if va_must_signal(self.page) and self.signal_fd >= 0:
            # Should its queue be full, what is in there makes the server look.
            send(self.signal_fd, <const char *>self.signal, len(self.signal), MSG_DONTWAIT | MSG_NOSIGNAL)

    cdef void hang_up(self) noexcept:
        self.signal_fd = -1
        if self.connection >= 0:
            close(self.connection)
            self.connection = -1
        if self.closing:
            self.page = NULL
            self.map = None

    def __dealloc__(self):
        self.hang_up()


# ---------------------------------------------------------------------------------------- reader

cdef class Reader:
    """Claims frames from one server's rings under one lease page. No I/O: see valkka_async.ring.reader."""
    cdef readonly str source
    cdef readonly uint64_t received
    cdef readonly uint64_t dropped
    cdef readonly int64_t last_received_ns
    cdef readonly uint32_t max_leases
    cdef readonly uint64_t last_seq
    cdef _LeasePage page
    cdef object look         # called when the server may have sent a ring, or waits for an acknowledgement
    cdef list rings          # oldest first; all but the last are superseded
    cdef va_cursor cursor
    cdef bint closed

    def __cinit__(self, str source, int page_fd, uint32_t policy, uint32_t max_leases, uint64_t start_seq):
        self.source = source
        self.page = _LeasePage(page_fd)
        self.rings = []
        self.max_leases = max_leases
        self.cursor.policy = policy
        self.cursor.seen = start_seq
        self.cursor.broken = True  # a late reader of a delta-coded stream starts at a key frame
        self.last_seq = start_seq

    def connect(self, int fd, bytes message not None, look):
        """Send ``message`` to ``fd`` when a slot is given back that the server waits for, and call
        ``look`` when it is time to look at the connection, which a busy reader might not do."""
        self.page.signal = message
        self.page.signal_fd = fd
        self.look = look

    def add_ring(self, int fd, uint64_t size):
        """Map the next ring (`size` bytes, as fstat says) behind those there are."""
        cdef _Ring ring = _Ring(fd, size)
        cdef _Ring newest
        if self.rings:
            newest = <_Ring>self.rings[-1]
            if ring.view.generation <= newest.view.generation or ring.view.base_seq < newest.view.base_seq:
                raise ProtocolError("the server sent its frame rings out of order")
        self.rings.append(ring)

    cpdef Frame claim(self):
        """The next frame for this reader's policy, or None. Raises LeaseLimitError, ProtocolError."""
        cdef _Ring ring, newest
        cdef int k, s
        cdef uint64_t seq = 0
        cdef bint moved
        if self.page.live >= self.max_leases:
            raise LeaseLimitError(
                f"{self.source}: {self.max_leases} frames are held already; release() them or keep a "
                "copy() instead, or ask for more with max_leases="
            )
        if self.closed or not self.rings:
            return None
        newest = <_Ring>self.rings[-1]
        if va_is_superseded(&newest.view) and self.look is not None:
            self.look()  # the newest frame is in the ring that the server has sent
            if self.closed:
                return None
        k = self.page.take(self.max_leases)
        s = VA_EMPTY
        moved = False
        while True:
            ring = <_Ring>self.rings[0]
            newest = <_Ring>self.rings[-1]
            if ring is newest or self.cursor.policy != VA_LATEST or not va_has_frames(&newest.view):
                s = va_claim(&self.cursor, &ring.view, self.page.page, k, &seq)
            if s != VA_EMPTY or ring is newest:
                break
            # Nothing more in a superseded ring: go on in the next one.
            newest = <_Ring>self.rings[1]
            if newest.view.header_serial != ring.view.header_serial:
                self.cursor.broken = True  # a new stream: its decoder starts at a key frame
            if newest.view.base_seq > self.cursor.seen:
                self.cursor.broken = True  # frames were published where we did not look
                va_pass(&self.cursor, self.page.page, newest.view.base_seq)
            del self.rings[0]
            moved = True
        self.page.signal_room()  # frames may have been passed over without a lease
        if moved and self.look is not None:
            self.look()
        if s < 0:
            self.page.untake(k)
            if s == VA_EMPTY:
                return None
            raise ProtocolError(f"{self.source}: the frame ring makes no sense any more")
        return self.lend(ring, k, s, seq)

    cdef Frame lend(self, _Ring ring, int k, int s, uint64_t seq):
        cdef Frame frame = Frame.__new__(Frame)
        cdef va_info *info = &frame.info
        cdef uint32_t d
        memcpy(info, &va_slot_of(&ring.view, s).info, sizeof(va_info))
        frame.page = self.page  # from here on the frame gives the lease back, whatever happens
        frame.lease = k
        if not va_info_ok(info, ring.view.slot_bytes):
            raise ProtocolError(f"{self.source}: frame {seq} does not describe itself rightly")
        frame.map = ring.map
        frame.data_ptr = va_data_of(&ring.view, s)
        frame.source = self.source
        frame.seq = seq
        frame.dropped = seq - self.last_seq - 1
        for d in range(info.ndim):
            frame.dims[d] = info.shape[d]
            frame.steps[d] = info.strides[d]
        if info.meta_bytes:
            frame.meta_json = PyBytes_FromStringAndSize(va_meta_of(&ring.view, s), info.meta_bytes)
        if info.nbytes > ring.touched[s]:
            if info.nbytes >= NOGIL_BYTES:
                _populate(frame.data_ptr, info.nbytes, MADV_POPULATE_READ)
            ring.touched[s] = info.nbytes
        self.last_seq = seq
        self.received += 1
        self.dropped += frame.dropped
        va_tell(self.page.page, self.received, self.dropped)
        self.last_received_ns = _now(CLOCK_MONOTONIC)
        return frame

    cpdef bint arm(self):
        """Announce that the reader is about to sleep. False: there is something to claim already."""
        cdef _Ring ring
        if not self.rings or self.closed:
            return True
        if len(self.rings) > 1:
            return False
        ring = <_Ring>self.rings[0]
        return va_arm(&self.cursor, &ring.view, self.page.page)

    cpdef bint pending(self):
        """Is there a frame that was not claimed yet?"""
        cdef _Ring ring
        if not self.rings:
            return False
        ring = <_Ring>self.rings[-1]
        if va_has_newer(&self.cursor, &ring.view) or va_is_superseded(&ring.view):
            return True
        ring = <_Ring>self.rings[0]
        return va_has_newer(&self.cursor, &ring.view)

    @property
    def ring_count(self):
        """Rings mapped and not read to their end."""
        return len(self.rings)

    @property
    def generation(self):
        """Generation of the newest ring; 0 before the first."""
        return (<_Ring>self.rings[-1]).view.generation if self.rings else 0

    @property
    def header(self):
        """The stream header that belongs to the next frame; b"" if there is none."""
        cdef _Ring ring
        if not self.rings:
            return b""
        ring = <_Ring>self.rings[0]
        if not ring.view.header_bytes:
            return b""
        return PyBytes_FromStringAndSize(ring.view.base + ring.view.header_offset, ring.view.header_bytes)

    @property
    def leases(self):
        """Frames held now."""
        return self.page.live

    def close(self, int connection):
        """Give the connection up: closed at once, or with the last frame that is still held."""
        if self.closed:
            return
        self.closed = True
        self.rings = []
        self.look = None
        if not self.page.inert:
            va_pass(&self.cursor, self.page.page, UINT64_MAX)
            self.page.signal_room()  # what it had still to read is free
        self.page.connection = connection
        self.page.closing = True
        if not self.page.live:
            self.page.hang_up()

    def after_fork(self):
        """In a forked child: never touch the parent's leases."""
        self.closed = True
        self.rings = []
        self.look = None
        self.page.inert = True
        self.page.signal_fd = -1
        if self.page.closing:
            self.page.hang_up()


def drain(int fd):
    """Make a bell (a non-blocking pipe) unreadable until it is rung again. False: it was not rung."""
    cdef char sink[64]
    cdef bint rung = read(fd, sink, sizeof(sink)) > 0
    return rung


@cython.no_gc
@cython.freelist(16)
cdef class Frame:
    """One frame, read in place. Its pixels cannot change while it, or any view of it, is alive.

    ``array`` and ``data`` are read-only views of shared memory. ``release()`` (or the end of a ``with``
    block, or the last reference) gives the slot back, as soon as no view is left. ``copy()`` makes a
    frame that holds no slot. Safe to use and to release from any thread.
    """
    cdef va_info info
    cdef _Mapping map
    cdef _LeasePage page     # None: the frame owns its memory (copy) or has given the slot back
    cdef object owned        # of a copy: the bytearray
    cdef bytes meta_json
    cdef char *data_ptr
    cdef int lease
    cdef int exports
    cdef bint gone
    cdef Py_ssize_t dims[4]
    cdef Py_ssize_t steps[4]
    #: Name of the server.
    cdef readonly str source
    #: Number of this frame, counted from 1 over all that the server published.
    cdef readonly uint64_t seq
    #: Published frames that this reader missed between its previous frame and this one.
    cdef readonly uint64_t dropped

    def __init__(self):
        raise TypeError("frames come from recv(), or from copy()")

    cdef void let_go(self) noexcept:
        cdef _LeasePage page = self.page
        if page is not None:
            self.page = None
            page.give_back(self.lease)
        self.map = None
        self.owned = None

    def __dealloc__(self):
        if self.page is not None:
            self.page.give_back(self.lease)

    cdef int check(self) except -1:
        if self.gone or (self.page is not None and self.page.inert):
            raise FrameReleasedError(
                f"frame {self.seq} of {self.source} was released; use its array before release(), "
                "or keep a copy()"
                if self.gone else
                f"frame {self.seq} of {self.source} belongs to the parent process; open a reader in the child"
            )
        return 0

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.check()
        if flags & PyBUF_WRITABLE and self.owned is None:
            raise BufferError("a frame in shared memory is read-only; copy() makes a writable one")
        if not flags & PyBUF_STRIDES == PyBUF_STRIDES and not self.contiguous():
            raise BufferError("the rows of this frame are padded; ask for strides")
        buffer.buf = self.data_ptr
        buffer.obj = self
        buffer.itemsize = 1
        buffer.format = UINT8 if flags & PyBUF_FORMAT else NULL
        buffer.readonly = self.owned is None
        buffer.ndim = <int>self.info.ndim
        buffer.shape = self.dims
        buffer.strides = self.steps
        buffer.suboffsets = NULL
        buffer.internal = NULL
        buffer.len = self.elements()
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1
        if self.gone and not self.exports:
            self.let_go()

    cdef Py_ssize_t elements(self) noexcept:
        cdef Py_ssize_t n = 1
        cdef uint32_t d
        for d in range(self.info.ndim):
            n *= self.dims[d]
        return n

    cdef bint contiguous(self) noexcept:
        cdef Py_ssize_t step = 1
        cdef int d
        for d in range(<int>self.info.ndim - 1, -1, -1):
            if self.steps[d] != step:
                return False
            step *= self.dims[d]
        return True

    @property
    def array(self):
        """The pixels: a numpy array of uint8 in ``shape``, a read-only view (writable in a copy)."""
        cdef _View view
        cdef ndarray array
        self.check()
        if self.owned is not None:
            return np.asarray(memoryview(self))
        # As np.asarray(memoryview(self)), which costs some 15 us where the caches are cold.
        array = PyArray_New(ndarray, <int>self.info.ndim, <npy_intp *>self.dims, NPY_UINT8,
                            <npy_intp *>self.steps, self.data_ptr, 0, 0, <object>NULL)
        view = _View.__new__(_View)
        view.frame = self
        self.exports += 1
        set_array_base(array, view)
        return array

    @property
    def data(self):
        """The same bytes as a memoryview."""
        return memoryview(self)

    def __array__(self, dtype=None, copy=None):
        array = self.array
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError("a frame is uint8; another dtype needs a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def copy(self):
        """A frame of its own: same fields, own writable memory, holds no slot."""
        cdef Frame other
        cdef Py_buffer buffer
        cdef Py_ssize_t step = 1
        cdef int d
        source = self.array
        memory = bytearray(source.size)
        np.copyto(np.frombuffer(memory, np.uint8).reshape(source.shape), source)
        other = Frame.__new__(Frame)
        other.info = self.info
        other.meta_json = self.meta_json
        other.source = self.source
        other.seq = self.seq
        other.dropped = self.dropped
        for d in range(<int>self.info.ndim - 1, -1, -1):
            other.dims[d] = self.dims[d]
            other.steps[d] = step
            step *= self.dims[d]
        other.info.nbytes = <uint64_t>step
        PyObject_GetBuffer(memory, &buffer, PyBUF_WRITABLE)
        other.data_ptr = <char *>buffer.buf
        PyBuffer_Release(&buffer)
        other.owned = memory
        return other

    def release(self):
        """Give the slot back once the last view of it is gone. Never raises; may be called again."""
        if not self.gone:
            self.gone = True
            if not self.exports:
                self.let_go()

    @property
    def released(self):
        """True after release()."""
        return self.gone

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *exc):
        self.release()

    @property
    def key(self):
        """True if the frame can be used without those before it. Every raw image can."""
        return bool(self.info.flags & VA_KEY)

    @property
    def format(self):
        """Pixel or stream format, as "rgb24" or "jpeg"."""
        return (<const char *>self.info.format)[:VA_FORMAT_BYTES].rstrip(b"\0").decode("ascii", "replace")

    @property
    def shape(self):
        """Shape of ``array``."""
        return tuple([self.dims[d] for d in range(self.info.ndim)])

    @property
    def nbytes(self):
        """Bytes of ``array``."""
        return self.elements()

    @property
    def timestamp_ns(self):
        """Capture time: nanoseconds since the Unix epoch."""
        return self.info.timestamp_ns

    @property
    def published_ns(self):
        """When the server published it: CLOCK_MONOTONIC, as time.monotonic_ns() reads."""
        return self.info.published_ns

    @property
    def pts(self):
        """Presentation time in units of ``time_base``, or None."""
        return self.info.pts if self.info.flags & VA_HAS_PTS else None

    @property
    def time_base(self):
        """Seconds per unit of ``pts`` as a Fraction, or None."""
        if not self.info.time_base_den:
            return None
        return Fraction(self.info.time_base_num, self.info.time_base_den)

    @property
    def meta(self):
        """What the server said of this frame: a dict, {} if nothing."""
        return json.loads(self.meta_json) if self.meta_json is not None else {}

    @property
    def age(self):
        """Seconds since capture, now."""
        return (_now(CLOCK_REALTIME) - self.info.timestamp_ns) * 1e-9

    def __repr__(self):
        size = "x".join(map(str, self.shape))
        return f"<Frame {self.source} #{self.seq} {self.format} {size}{' [released]' if self.gone else ''}>"


@cython.no_gc
@cython.freelist(16)
cdef class _View:
    """The base of an array: as long as it lives the frame keeps its slot."""
    cdef Frame frame

    def __dealloc__(self):
        cdef Frame frame = self.frame
        frame.exports -= 1
        if frame.gone and not frame.exports:
            frame.let_go()


# ---------------------------------------------------------------------------------------- writer

def ring_bytes(uint32_t slots, uint64_t slot_bytes, uint64_t header_bytes):
    """Size of the memory that a ring needs."""
    cdef va_view view
    va_plan(&view, slots, slot_bytes, header_bytes, 1, 0, 0, PAGE)
    return view.total_bytes


@cython.no_gc
cdef class _Peer:
    """The server's side of a reader: its lease page and its bell."""
    cdef _Mapping map


cdef class Writer:
    """Publishes into the newest ring and rings the readers' bells. No I/O but the bells."""
    cdef va_writer *w
    cdef _Mapping map
    cdef _Mapping previous
    cdef list peers          # _Peer, in the order of w.peers
    cdef object known_format  # what the last learn() said
    cdef bytes known_code
    cdef int known_ndim
    cdef Py_ssize_t known_shape[4]
    cdef readonly uint64_t dropped
    cdef readonly uint64_t bytes
    cdef readonly int64_t last_published_ns
    cdef uint64_t expired    # late readers start behind this frame at the earliest
    cdef readonly bint closed

    def __cinit__(self):
        self.w = <va_writer *>PyMem_Calloc(1, sizeof(va_writer))
        if self.w == NULL:
            raise MemoryError
        self.peers = []

    def __dealloc__(self):
        if self.w != NULL:
            PyMem_Free(self.w.peers)
            PyMem_Free(self.w)

    def start_ring(self, int fd, uint32_t slots, uint64_t slot_bytes, bytes header, uint32_t header_serial):
        """Map fresh memory of ring_bytes() and go on there. The ring before it is never written again.

        Raises RingMemoryError, with the old ring still in use.
        """
        cdef va_view view
        cdef _Mapping map
        va_plan(&view, slots, slot_bytes, len(header), self.w.view.generation + 1, header_serial, self.w.head, PAGE)
        map = _Mapping(fd, view.total_bytes, True)
        view.base = map.base
        _populate(map.base, view.data_offset, MADV_POPULATE_WRITE)
        va_init(&view, <const char *>header)
        va_next_ring(self.w, &view)
        self.previous = self.map
        self.map = map

    def retire_ring(self):
        """Mark the ring before superseded, now that its readers have been sent the next."""
        if self.previous is not None:
            va_supersede(self.previous.base)
            self.previous = None

    def add_peer(self, int page_fd, int bell, uint32_t leases, uint32_t policy):
        """Count a reader in. Returns its peer and the number of the frame behind which it starts."""
        cdef _Peer peer = _Peer.__new__(_Peer)
        cdef uint64_t head = self.w.head
        cdef uint64_t start = head - 1 if head > max(self.w.view.base_seq, self.expired) else head
        cdef va_peer *grown
        cdef va_peer *p
        cdef va_cursor cursor
        peer.map = _Mapping(page_fd, VA_LEASE_PAGE_BYTES, True)
        grown = <va_peer *>PyMem_Realloc(self.w.peers, (self.w.npeers + 1) * sizeof(va_peer))
        if grown == NULL:
            raise MemoryError
        self.w.peers = grown
        p = &grown[self.w.npeers]
        p.page = <va_lease_page *>peer.map.base
        p.leases = leases
        p.policy = policy
        p.bell = bell
        va_pass(&cursor, p.page, start)
        self.peers.append(peer)
        self.w.npeers += 1
        return peer, start

    def expire(self):
        """Late readers are not to get the newest frame any more."""
        self.expired = self.w.head

    def remove_peer(self, _Peer peer not None):
        """Count a reader out; its leases end here."""
        cdef uint32_t i = self.peers.index(peer)
        cdef uint32_t last = self.w.npeers - 1
        self.w.peers[i] = self.w.peers[last]
        self.peers[i] = self.peers[last]
        self.w.npeers = last
        del self.peers[last]

    cdef Slot begin(self, uint64_t nbytes):
        """A slot with room for nbytes, its pages there; None when none is free (counted)."""
        cdef Slot slot
        cdef va_note *note
        cdef uint64_t touched
        cdef int s
        if self.closed:
            raise ConnectionClosedOK("the server is closed; serve() again to publish")
        if nbytes > self.w.view.slot_bytes:
            raise RingTooSmall(nbytes)
        s = va_begin(self.w)
        if s < 0:
            self.dropped += 1
            return None
        slot = Slot.__new__(Slot)
        slot.writer = self
        slot.map = self.map
        slot.generation = self.w.view.generation
        slot.index = s
        slot.open = slot.reserved = True
        slot.data_ptr = va_data_of(&self.w.view, s)
        slot.meta_ptr = va_meta_of(&self.w.view, s)
        note = &self.w.note[s]
        if nbytes > note.touched:
            touched = note.touched // PAGE * PAGE
            note.touched = nbytes
            try:
                _populate(slot.data_ptr + touched, nbytes - touched, MADV_POPULATE_WRITE)
            except RingMemoryError:
                note.touched = 0
                raise
        return slot

    def learn(self, format, tuple shape, bytes code not None):
        """Let publish() take frames of this shape and format (as its caller names it) from now on."""
        cdef int d
        self.known_code = None
        for d in range(len(shape)):
            self.known_shape[d] = shape[d]
        self.known_ndim = len(shape)
        self.known_format = format
        self.known_code = code

    cdef bint knows(self, Py_buffer *b, format):
        cdef int d
        if self.known_code is None or b.ndim != self.known_ndim or b.itemsize != 1:
            return False
        if b.format != NULL and (b.format[0] != c"B" or b.format[1]):
            return False
        for d in range(b.ndim):
            if b.shape[d] != self.known_shape[d]:
                return False
        return format is self.known_format or format == self.known_format

    def publish(self, image, format, timestamp_ns, pts, time_base, bint key, bytes meta):
        """Copy one frame in: any buffer of bytes, strided or not. False: no slot was free. None: learn()
        its shape and format first; a stream that stays as it is is checked once and not for each frame.

        Raises RingTooSmall, RingMemoryError, ConnectionClosedOK.
        """
        cdef Py_buffer b
        cdef Slot slot
        cdef char *to
        cdef char *src
        cdef uint64_t n
        if not PyObject_CheckBuffer(image):
            return None
        try:
            PyObject_GetBuffer(image, &b, PyBUF_STRIDES | PyBUF_FORMAT)
        except Exception:  # a dtype that has no buffer: the caller will say so in words
            return None
        try:
            if not self.knows(&b, format):
                return None
            slot = self.begin(b.len)
            if slot is None:
                return False
            slot.describe(b.ndim, b.shape, self.known_code, timestamp_ns, pts, time_base, key, meta)
            if not PyBuffer_IsContiguous(&b, b"C"):
                np.copyto(slot.array, image)
            else:
                to = slot.data_ptr
                src = <char *>b.buf
                n = b.len
                if n < NOGIL_BYTES:
                    memcpy(to, src, n)
                else:
                    with nogil:
                        memcpy(to, src, n)
        finally:
            PyBuffer_Release(&b)
        return slot.commit()

    def loan(self, tuple shape, bytes format not None, timestamp_ns, pts, time_base, bint key, bytes meta):
        """A Slot to be written in place, or None when none is free. Raises as publish() does."""
        cdef Slot slot
        cdef Py_ssize_t dims[4]
        cdef Py_ssize_t nbytes = 1
        cdef int d
        for d in range(len(shape)):
            dims[d] = shape[d]
            nbytes *= dims[d]
        slot = self.begin(nbytes)
        if slot is not None:
            slot.describe(len(shape), dims, format, timestamp_ns, pts, time_base, key, meta)
        return slot

    def wants_more(self, _Peer peer not None):
        """False for a reader that was closed, and is still here because of frames that it holds."""
        return va_wants_more(&self.w.peers[<uint32_t>self.peers.index(peer)])

    def tally(self, _Peer peer not None):
        """What a reader says of itself: (received, dropped, leases). It may say what it likes."""
        cdef va_tally t = va_tally_of(&self.w.peers[<uint32_t>self.peers.index(peer)])
        return t.received, t.dropped, t.leases

    def has_room(self):
        """Would publish() find a slot? If not, the readers will signal when they give one back."""
        return not self.closed and (not self.w.view.slots or va_has_room(self.w))

    def drop(self):
        """Count a frame that could not be published."""
        self.dropped += 1

    cdef void ring_bells(self) noexcept:
        cdef uint32_t i
        cdef char ring = 1
        for i in range(self.w.npeers):
            if va_must_ring(&self.w.peers[i]):
                write(self.w.peers[i].bell, &ring, 1)  # EAGAIN: it is ringing already

    def close(self):
        """Publish no more; the memory goes when the last Slot does."""
        self.closed = True
        self.w.npeers = 0
        self.peers = []
        self.map = None

    @property
    def published(self):
        """Number of the newest frame."""
        return self.w.head

    @property
    def generation(self):
        """Generation of the ring in use; 0 before the first."""
        return self.w.view.generation

    @property
    def slot_bytes(self):
        """The largest frame that the ring in use can take."""
        return self.w.view.slot_bytes

    @property
    def slots_used(self):
        """Slots that were ever written in the ring in use, and so cost memory."""
        cdef uint32_t s
        cdef uint32_t n = 0
        for s in range(self.w.view.slots):
            n += self.w.note[s].used != 0
        return n


@cython.no_gc
@cython.freelist(8)
cdef class Slot:
    """One frame in the making, lent by ``Server.loan``: write into ``array``, then ``publish()``.

    As a context manager it publishes at the end of the block and discards on an exception. A slot that
    is dropped unpublished is discarded. Views of ``array`` must not be written to after publish().
    """
    cdef Writer writer
    cdef _Mapping map
    cdef uint32_t generation
    cdef int index
    cdef int exports
    cdef bint open           # may be written and published
    cdef bint reserved       # nobody else may have the slot
    cdef va_info info
    cdef bytes meta
    cdef char *data_ptr
    cdef char *meta_ptr
    cdef Py_ssize_t dims[4]
    cdef Py_ssize_t steps[4]

    def __init__(self):
        raise TypeError("slots come from Server.loan()")

    cdef int describe(self, int ndim, Py_ssize_t *shape, bytes format, timestamp_ns, pts, time_base,
                      bint key, bytes meta) except -1:
        cdef va_info *info = &self.info
        cdef Py_ssize_t step = 1
        cdef int d
        memset(info, 0, sizeof(va_info))
        info.timestamp_ns = _now(CLOCK_REALTIME) if timestamp_ns is None else <int64_t>timestamp_ns
        if pts is not None:
            info.pts = <int64_t>pts
            info.flags |= VA_HAS_PTS
        if time_base is not None:
            info.time_base_num = time_base.numerator
            info.time_base_den = time_base.denominator
        if key:
            info.flags |= VA_KEY
        memcpy(info.format, <const char *>format, min(<uint32_t>len(format), VA_FORMAT_BYTES))
        info.ndim = ndim
        for d in range(ndim - 1, -1, -1):
            self.dims[d] = shape[d]
            self.steps[d] = step
            info.shape[d] = <uint32_t>shape[d]
            info.strides[d] = <uint32_t>step
            step *= shape[d]
        info.nbytes = step
        self.meta = meta
        if meta is not None:
            info.meta_bytes = <uint32_t>len(meta)
        return 0

    cdef bint commit(self) except -1:
        cdef Writer writer = self.writer
        cdef Slot moved
        if not self.open:
            raise FrameReleasedError("this slot was published or discarded already; loan() another")
        if writer.closed:
            raise ConnectionClosedOK("the server was closed before the frame was published")
        self.open = False
        if self.generation == writer.w.view.generation:
            self.reserved = False
        else:
            # The ring was replaced while this slot was being written, and nothing may be published in
            # a superseded ring: its readers have left it.
            self.reserved = False
            moved = writer.begin(self.info.nbytes)
            if moved is None:
                return False
            memcpy(moved.data_ptr, self.data_ptr, self.info.nbytes)
            moved.info = self.info
            moved.meta = self.meta
            return moved.commit()
        if self.meta is not None:
            memcpy(self.meta_ptr, <const char *>self.meta, self.info.meta_bytes)
        self.info.published_ns = _now(CLOCK_MONOTONIC)
        va_commit(writer.w, self.index, &self.info)
        writer.bytes += self.info.nbytes
        writer.last_published_ns = self.info.published_ns
        writer.ring_bells()
        return True

    def __dealloc__(self):
        if self.writer is not None:
            self.abort()

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if not self.open:
            raise FrameReleasedError("this slot was published or discarded; its memory belongs to the readers now")
        buffer.buf = self.data_ptr
        buffer.obj = self
        buffer.itemsize = 1
        buffer.format = UINT8 if flags & PyBUF_FORMAT else NULL
        buffer.readonly = False
        buffer.ndim = <int>self.info.ndim
        buffer.shape = self.dims
        buffer.strides = self.steps
        buffer.suboffsets = NULL
        buffer.internal = NULL
        buffer.len = <Py_ssize_t>self.info.nbytes
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1
        if not self.open and not self.exports:
            self.abort()

    @property
    def array(self):
        """The memory to write: a writable numpy array of uint8, uninitialised (it holds an old frame)."""
        return np.asarray(memoryview(self))

    @property
    def shape(self):
        """Shape of ``array``."""
        return tuple([self.dims[d] for d in range(self.info.ndim)])

    def publish(self):
        """Publish the frame. False: dropped and counted (only if the ring was replaced meanwhile)."""
        return self.commit()

    def discard(self):
        """Give the slot back unpublished, once the last view of it is gone. May be called again."""
        self.open = False
        if not self.exports:
            self.abort()

    cdef void abort(self) noexcept:
        if self.reserved:
            self.reserved = False
            if self.generation == self.writer.w.view.generation:
                va_abort(self.writer.w, self.index)

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc):
        if kind is None and self.open:
            self.commit()
        else:
            self.discard()
