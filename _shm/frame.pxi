# SPDX-License-Identifier: MIT
# A frame as its readers see it: a lease, the views of it, its copies. Part of _shm.pyx.

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
