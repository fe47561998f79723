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
    cdef object owned        # of a copy: the array that has the memory
    cdef bytes meta_json
    cdef char *data_ptr
    cdef uint64_t room       # bytes from there on that the slot has, whole pages; 0: it owns its memory
    cdef int lease
    cdef int exports
    cdef bint gone
    cdef Py_ssize_t dims[4]
    cdef Py_ssize_t steps[4]
    cdef object __weakref__
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
        if self.gone or (self.page is not None and self.page.inert()):
            raise FrameReleasedError(
                f"frame {self.seq} of {self.source} was released; use its array before release(), "
                "or keep a copy()"
                if self.gone else
                f"frame {self.seq} of {self.source} belongs to the parent process; open a reader in the child"
            )
        return 0

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.check()
        _lend_buffer(buffer, flags, self, &self.info, self.data_ptr, self.dims, self.steps, self.owned is None)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1
        if self.gone and not self.exports:
            self.let_go()

    cdef _View view(self):
        """Something that keeps the memory as it is while it lives."""
        cdef _View view
        self.check()
        view = _View.__new__(_View)
        view.frame = self
        self.exports += 1
        return view

    @property
    def array(self):
        """The elements: a numpy array of ``dtype`` in ``shape``, a read-only view (writable in a copy)."""
        cdef _View view = self.view()
        # As np.asarray(memoryview(self)), which costs some 15 us where the caches are cold.
        cdef ndarray array = PyArray_New(
            ndarray, <int>self.info.ndim, <npy_intp *>self.dims, KNOWN_DTYPES[self.info.dtype].number,
            <npy_intp *>self.steps, self.data_ptr, 0, 0 if self.owned is None else NPY_ARRAY_WRITEABLE, <object>NULL)
        set_array_base(array, view)
        return array

    @property
    def data(self):
        """The same elements as a memoryview."""
        return memoryview(self)

    @property
    def __array_interface__(self):
        # The memory as an object and not as an address, so that release() waits for its users.
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": memoryview(self),
        }

    def __array__(self, dtype=None, copy=None):
        array = self.array
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"this frame is of {array.dtype}; another dtype needs a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack_device__(self):
        """Where the memory is: (1, 0), the CPU."""
        return DL_CPU, 0

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """The frame for another library's ``from_dlpack()``. The slot is given back when the library is done with it.

        Shared memory is read-only, so a library has to say that it knows read-only tensors (DLPack 1.0 or
        newer); for others, and with ``copy=True``, there is ``copy()``, which may be written. Raises BufferError.
        """
        cdef bint versioned = max_version is not None and max_version[0] >= 1
        if stream is not None or (dl_device is not None and tuple(dl_device) != (DL_CPU, 0)):
            raise BufferError("a frame is in the memory of the CPU; transfer it from there")
        if copy:
            return _capsule(self.copy(), versioned, DL_COPIED)
        if self.owned is None and not versioned:
            self.check()
            raise BufferError(
                "a frame in shared memory is read-only, which this library cannot be told (it speaks DLPack before "
                "1.0); give it frame.copy() instead"
            )
        return _capsule(self, versioned, 0 if self.owned is not None else DL_READ_ONLY)

    def copy(self):
        """A frame of its own: same fields, own writable memory, holds no slot."""
        cdef Frame other = _owning(np.array(self.array), self.source, self.seq, self.dropped, self.meta_json)
        other.info = self.info
        return other

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        array = self.array if self.owned is not None else np.array(self.array)
        return restore_frame, (
            array, self.source, self.seq, self.dropped, self.meta_json, self.format, self.key, self.timestamp_ns,
            self.published_ns, self.pts, self.dts, self.duration, self.time_base,
        )

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
    def dtype(self):
        """The numpy dtype of ``array``."""
        return DTYPES[self.info.dtype]

    @property
    def nbytes(self):
        """Bytes of ``array``."""
        return self.info.nbytes

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
    def dts(self):
        """Decoding time in units of ``time_base``, or None."""
        return self.info.dts if self.info.flags & VA_HAS_DTS else None

    @property
    def duration(self):
        """How long the frame is shown, in units of ``time_base``, or None."""
        return self.info.duration if self.info.flags & VA_HAS_DURATION else None

    @property
    def time_base(self):
        """Seconds per unit of ``pts``, ``dts`` and ``duration`` as a Fraction, or None."""
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
        dtype = f"{self.dtype} " if self.info.dtype != VA_UINT8 else ""
        return f"<Frame {self.source} #{self.seq} {self.format} {dtype}{size}{' [released]' if self.gone else ''}>"


@cython.no_gc
@cython.freelist(16)
cdef class _View:
    """What an array or a tensor over a frame's memory refers to: while it lives the frame keeps its slot."""
    cdef Frame frame

    def __dealloc__(self):
        cdef Frame frame = self.frame
        if frame is None:  # it never got one; without this, memory behind None would be counted down
            return
        frame.exports -= 1
        if frame.gone and not frame.exports:
            frame.let_go()


def slot_of(Frame frame not None):
    """(memory, address, bytes) of the slot that a frame holds. While the object ``memory`` lives, the address range
    stays mapped, read-only, whole pages; what is in it may change once the frame is released. (None, address, 0) for
    a frame that has its memory itself. Raises FrameReleasedError."""
    frame.check()
    return frame.map, <size_t>frame.data_ptr, frame.room


cdef Frame _owning(ndarray array, str source, uint64_t seq, uint64_t dropped, bytes meta_json):
    """A frame that has its memory, and holds no slot. Its info is to be set; all that is known is the shape."""
    cdef Frame frame = Frame.__new__(Frame)
    cdef va_info *info = &frame.info
    cdef int d
    info.nbytes = array.nbytes
    info.dtype = DTYPES.index(array.dtype)
    info.ndim = array.ndim
    for d in range(array.ndim):
        info.shape[d] = <uint32_t>array.shape[d]
    _lay_out(info, frame.dims, frame.steps)
    frame.owned = array
    frame.data_ptr = <char *>PyArray_DATA(array)
    frame.source = source
    frame.seq = seq
    frame.dropped = dropped
    frame.meta_json = meta_json
    return frame


def restore_frame(array, str source, seq, dropped, bytes meta_json, str format, bint key, timestamp_ns, published_ns,
                  pts, dts, duration, time_base):
    """A frame that was pickled."""
    cdef Frame frame
    # From a machine of another byte order, or from a buffer that cannot be written.
    array = np.require(array, array.dtype.newbyteorder("="), ["C", "W", "O"])
    frame = _owning(array, source, seq, dropped, meta_json)
    _name_format(&frame.info, format.encode("ascii"))
    _set_times(&frame.info, timestamp_ns, pts, dts, duration, time_base, key)
    frame.info.published_ns = published_ns
    return frame
