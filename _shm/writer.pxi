# SPDX-License-Identifier: MIT
# What a server has: the ring that it writes, its readers' lease pages, slots in the making. Part of _shm.pyx.

def ring_bytes(uint32_t slots, uint64_t slot_bytes, uint64_t header_bytes):
    """Size of the memory that a ring needs."""
    cdef va_view view
    va_plan(&view, slots, slot_bytes, header_bytes, 1, 0, 0, PAGE)
    return view.total_bytes


@cython.no_gc
cdef class _Peer:
    """The server's side of a reader: the map of its lease page."""
    cdef _Mapping map


_TIMES_HINT = {"timestamp_ns": ": use time.time_ns(), or int(seconds * 1e9)"}


cdef void _name_format(va_info *info, bytes code) noexcept:
    memcpy(info.format, <const char *>code, min(<uint32_t>len(code), VA_FORMAT_BYTES))


cdef int64_t _time_of(value, str what) except? -1:
    try:
        return PyNumber_Index(value)
    except (TypeError, OverflowError):
        raise FrameError(f"{what} is an integer of 64 bits, not {value!r}{_TIMES_HINT.get(what, '')}") from None


cdef int64_t OTHER_UNITS_END = 4_000_000_000_000_000  # 2096 in microseconds
cdef bint clock_began_unset = False


cdef bint _clock_was_unset() noexcept:
    """Has this machine's clock said 1970 in this process? It does until it is set, where it has no battery:
    frames and events are of that time then, some of them told later."""
    global clock_began_unset
    if _now(CLOCK_REALTIME) < OTHER_UNITS_END:
        clock_began_unset = True
    return clock_began_unset


_clock_was_unset()


cdef int64_t _stamp_of(timestamp_ns) except? -1:
    cdef int64_t ns = _time_of(timestamp_ns, "timestamp_ns")
    # 2017 to 2096 in seconds, milliseconds or microseconds: as nanoseconds they are in 1970.
    if 1_500_000_000 <= ns < OTHER_UNITS_END and (
        ns < 4_000_000_000 or 1_500_000_000_000 <= ns < 4_000_000_000_000 or ns >= 1_500_000_000_000_000
    ) and not _clock_was_unset():
        raise FrameError(f"timestamp_ns is in nanoseconds, and {ns} is not{_TIMES_HINT['timestamp_ns']}")
    return ns


cdef int _set_times(va_info *info, timestamp_ns, pts, dts, duration, time_base, bint key) except -1:
    info.timestamp_ns = _now(CLOCK_REALTIME) if timestamp_ns is None else _stamp_of(timestamp_ns)
    if pts is not None:
        info.pts = _time_of(pts, "pts")
        info.flags |= VA_HAS_PTS
    if dts is not None:
        info.dts = _time_of(dts, "dts")
        info.flags |= VA_HAS_DTS
    if duration is not None:
        info.duration = _time_of(duration, "duration")
        info.flags |= VA_HAS_DURATION
    if time_base is not None:
        info.time_base_num = time_base.numerator
        info.time_base_den = time_base.denominator
    if key:
        info.flags |= VA_KEY
    return 0


cdef int _look(image, Py_buffer *b) except -1:
    """PyObject_GetBuffer(). Of an array it says the same without asking numpy, which takes longer for that than all
    else that publish() does: then shape and strides are the array's own, and good until it is changed."""
    cdef ndarray array
    cdef uint32_t i
    if type(image) is not ndarray:
        return PyObject_GetBuffer(image, b, PyBUF_STRIDES | PyBUF_FORMAT)
    array = <ndarray>image
    memset(b, 0, sizeof(Py_buffer))  # without an owner: there is nothing to release
    b.buf = PyArray_DATA(array)
    b.len = PyArray_NBYTES(array)
    b.itemsize = PyArray_ITEMSIZE(array)
    b.ndim = PyArray_NDIM(array)
    b.shape = <Py_ssize_t *>PyArray_DIMS(array)
    b.strides = <Py_ssize_t *>PyArray_STRIDES(array)
    b.format = b">"  # as no Kind has it
    if PyArray_ISNOTSWAPPED(array):
        for i in range(VA_DTYPES):
            if KNOWN_DTYPES[i].number == PyArray_TYPE(array):
                b.format = KNOWN_DTYPES[i].letter
                break
    return 0


cdef class Kind:
    """What frames are made of: a format, a dtype and a shape, checked before. It never changes."""
    cdef object format       # as the publisher names it; None: by the shape
    cdef va_info info        # the part that all frames of this kind share
    cdef Py_ssize_t dims[4]

    def __cinit__(self, format, bytes code not None, dtype, tuple shape):
        cdef int d
        self.format = format
        self.info.dtype = DTYPES.index(dtype)
        self.info.ndim = len(shape)
        self.info.nbytes = va_itemsize(self.info.dtype)
        for d in range(len(shape)):
            self.dims[d] = shape[d]
            self.info.shape[d] = <uint32_t>shape[d]
            self.info.nbytes *= <uint64_t>shape[d]
        _name_format(&self.info, code)

    cdef bint fits(self, Py_buffer *b) noexcept:
        cdef int d
        if b.ndim != <int>self.info.ndim or b.itemsize != <Py_ssize_t>va_itemsize(self.info.dtype):
            return False
        if b.format == NULL:
            if self.info.dtype != VA_UINT8:
                return False
        elif b.format[0] != KNOWN_DTYPES[self.info.dtype].letter[0]:
            return False
        for d in range(b.ndim):
            if b.shape[d] != self.dims[d]:
                return False
        return True


@cython.no_gc
cdef class _Fresh:
    """A ring that is ready to be gone on in."""
    cdef va_view view
    cdef _Mapping map


cdef class Writer:
    """Publishes into the newest ring and rings the readers' doorbells. No other I/O."""
    cdef va_writer *w
    cdef _Mapping map
    cdef list previous       # _Mapping, of rings before that are not marked superseded
    cdef list peers          # _Peer, in the order of w.peers
    cdef Kind known          # of the last frame that was published
    cdef Kind newest         # of the last frame for which there was a slot
    cdef readonly uint64_t dropped
    cdef readonly uint64_t bytes
    cdef readonly int64_t last_published_ns
    cdef uint64_t expired    # late readers start behind this frame at the earliest
    cdef readonly bint closed
    cdef readonly bint announced  # have the readers been sent the ring in use?
    cdef readonly int ring_fd     # of the ring in use; -1: none
    cdef readonly uint64_t ring_size
    cdef _Inherited inherited
    cdef uint64_t born       # FORKS then
    cdef list waiting        # to be called when this process has given a slot back

    def __cinit__(self, bint retains=False, uint64_t backlog_bytes=0, list waiting=None):
        self.waiting = [] if waiting is None else waiting
        self.born = FORKS
        self.announced = True
        self.ring_fd = -1
        self.inherited.connection = &self.ring_fd
        _enlist(&self.inherited)
        self.w = <va_writer *>PyMem_Calloc(1, sizeof(va_writer))
        if self.w == NULL:
            raise MemoryError
        self.w.retains = retains
        self.w.backlog_bytes = backlog_bytes
        self.peers = []
        self.previous = []

    def __dealloc__(self):
        _delist(&self.inherited)
        self.close_ring()
        if self.w != NULL:
            PyMem_Free(self.w.peers)
            PyMem_Free(self.w)

    def map_ring(self, int fd, uint32_t slots, uint64_t slot_bytes, bytes header, uint32_t header_serial):
        """Map fresh memory of ring_bytes(), for start_ring(). Raises RingMemoryError."""
        cdef va_view view
        cdef _Mapping map
        cdef _Fresh fresh = _Fresh.__new__(_Fresh)
        va_plan(&view, slots, slot_bytes, len(header), self.w.view.generation + 1, header_serial, self.w.head, PAGE)
        map = _Mapping(fd, view.total_bytes, True)
        view.base = map.base
        _populate(map.base, view.data_offset, MADV_POPULATE_WRITE)
        va_init(&view, <const char *>header)
        fresh.view = view
        fresh.map = map
        return fresh

    def start_ring(self, _Fresh fresh not None, list fds not None, bint carry):
        """Go on in a ring of map_ring(), and take its descriptor out of ``fds``: all at once. The ring before it
        is never written again. The backlog comes along if it is to ``carry`` it, and there is memory for it.
        publish() and loan() raise RingTooSmall until announce().
        """
        self.check()
        carry = carry and self.make_ready(fresh)
        if self.map is not None:
            self.previous.append(self.map)  # first, as there may be no memory for it
        self.close_ring()
        self.ring_fd = fds.pop()
        self.ring_size = fresh.map.size
        self.announced = False
        va_next_ring(self.w, &fresh.view, carry)
        self.map = fresh.map

    cdef bint make_ready(self, _Fresh fresh) except -1:
        """Give the slots that the backlog will have in a fresh ring their pages. False: there is no memory."""
        cdef uint64_t seq
        cdef uint32_t s
        cdef uint32_t to = 0
        for seq in range(self.w.gop, self.w.head + 1 if self.w.gop else 0):
            s = va_find(&self.w.view, seq)
            try:
                _populate(va_data_of(&fresh.view, to), va_slot_of(&self.w.view, s).info.nbytes, MADV_POPULATE_WRITE)
            except RingMemoryError:
                return False
            to += 1
        return True

    cdef void close_ring(self) noexcept:
        if self.ring_fd >= 0:
            close(self.ring_fd)
        self.ring_fd = -1

    def announce(self):
        """The readers have been sent the ring in use: publish there, and mark those before it superseded."""
        cdef _Mapping old
        self.announced = True
        while self.previous:
            old = self.previous.pop()
            va_supersede(old.base)

    def add_peer(self, owner, int page_fd, int bell, uint32_t leases, uint32_t policy):
        """Count a reader in, and note it as ``owner.place``: both at once. Returns the number of the frame behind
        which it starts."""
        cdef _Peer peer = _Peer.__new__(_Peer)
        cdef uint64_t start
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
        owner.place = peer
        start = self.start_of(policy)  # from here on nothing is published until the peer counts
        va_pass(&cursor, p.page, start)
        self.peers.append(peer)
        self.w.npeers += 1
        return start

    cdef uint64_t start_of(self, uint32_t policy) noexcept:
        """Behind which frame a new reader starts: the one before the backlog, or before the newest, or that."""
        if self.w.gop and policy != VA_LATEST:
            return self.w.gop - 1
        if self.w.head > max(self.w.view.base_seq, self.expired):
            return self.w.head - 1
        return self.w.head

    def expire(self):
        """Late readers are not to get the newest frame any more, nor the backlog."""
        if self.born != FORKS or not self.closed:
            self.check()
        self.expired = self.w.head
        va_forget(self.w)

    def remove_peer(self, _Peer peer not None):
        """Count a reader out, unless that was done; its leases end here."""
        cdef uint32_t i, last
        if peer not in self.peers:
            return
        i = self.peers.index(peer)
        last = self.w.npeers - 1
        self.w.peers[i] = self.w.peers[last]
        self.peers[i] = self.peers[last]
        self.w.npeers = last
        del self.peers[last]

    cpdef check(self):
        """Raises InheritedError in a forked child, ConnectionClosedOK after close()."""
        if self.born != FORKS:
            raise InheritedError("the server belongs to the parent process: serve() one of your own after the fork")
        if self.closed:
            raise ConnectionClosedOK("the server is closed; serve() again to publish")

    cdef Slot begin(self, uint64_t nbytes, bint moving=False):
        """A slot with room for nbytes, its pages there; None when none is free (counted). In a ring that was not
        announced only for a frame that is ``moving`` there: the next one has it announced."""
        cdef Slot slot
        cdef va_note *note
        cdef uint64_t touched
        cdef uint64_t pages = va_round_up(nbytes, PAGE)
        cdef int s
        self.check()
        if nbytes > self.w.view.slot_bytes or not (self.announced or moving):
            raise RingTooSmall(nbytes)
        slot = Slot.__new__(Slot)  # before a slot of the ring is taken: there may be no memory for it
        s = va_begin(self.w, pages)
        if s < 0:
            self.dropped += 1
            return None
        slot.writer = self
        slot.map = self.map
        slot.generation = self.w.view.generation
        slot.index = s
        slot.open = slot.reserved = True
        slot.data_ptr = va_data_of(&self.w.view, s)
        slot.meta_ptr = va_meta_of(&self.w.view, s)
        note = &self.w.note[s]
        if pages > note.touched:
            touched = note.touched // PAGE * PAGE
            va_touch(self.w, s, pages)
            try:
                _populate(slot.data_ptr + touched, pages - touched, MADV_POPULATE_WRITE)
            except BaseException:  # a signal's handler may have raised, too
                va_touch(self.w, s, 0)
                va_forget(self.w)
                raise
        return slot

    def publish(self, image, what, timestamp_ns, pts, dts, duration, time_base, bint key, bytes meta):
        """Copy one frame in: any buffer, strided or not, of the given Kind; or of the given format, if it is like
        the frame before: then a stream is checked once and not for each frame.

        False: no slot was free. None: it is not like the frame before, so its Kind is needed. Raises
        RingTooSmall, RingMemoryError, ConnectionClosedOK, and FrameError if it is not of the Kind.
        """
        cdef Py_buffer b
        cdef Slot slot
        cdef Kind kind
        cdef char *to
        cdef char *src
        cdef uint64_t n
        cdef bint packed
        cdef va_info info
        cdef bint given = type(what) is Kind
        if given:
            kind = what
        else:
            kind = self.known
            if kind is None or not (what is kind.format or (isinstance(what, str) and what == kind.format)):
                return None
        if not PyObject_CheckBuffer(image):
            return None
        try:
            _look(image, &b)
        except Exception:  # a dtype that has no buffer: the caller will say so in words
            if given:
                raise
            return None
        try:
            if not kind.fits(&b):
                if given:
                    raise FrameError("the image was changed by another thread while it was published")
                return None
            packed = PyBuffer_IsContiguous(&b, b"C")  # as long as it is what it was
            self.known = kind
            info = kind.info
            _set_times(&info, timestamp_ns, pts, dts, duration, time_base, key)  # what is refused costs no slot
            slot = self.begin(b.len)
            if slot is None:
                return False
            slot.describe(&info, meta)
            self.newest = kind
            if not packed:
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

    def loan(self, Kind kind not None, timestamp_ns, pts, dts, duration, time_base, bint key, bytes meta):
        """A Slot to be written in place, or None when none is free. Raises as publish() does."""
        cdef Slot slot
        cdef va_info info = kind.info
        _set_times(&info, timestamp_ns, pts, dts, duration, time_base, key)
        slot = self.begin(info.nbytes)
        if slot is not None:
            slot.describe(&info, meta)
            self.newest = kind
        return slot

    def wants_more(self, _Peer peer not None):
        """False for a reader that was closed, and is still here because of frames that it holds, or does not count
        any more."""
        return peer in self.peers and va_wants_more(&self.w.peers[<uint32_t>self.peers.index(peer)])

    def tally(self, _Peer peer not None):
        """What a reader says of itself: (received, dropped, leases). It may say what it likes. None: it does not
        count any more."""
        cdef va_tally t
        if peer not in self.peers:
            return None
        t = va_tally_of(&self.w.peers[<uint32_t>self.peers.index(peer)])
        return t.received, t.dropped, t.leases

    def has_room(self):
        """Would publish() find a slot? If not, the readers will signal when they give one back."""
        return not self.closed and (not self.w.view.slots or va_has_room(self.w))

    def drop(self):
        """Count a frame that could not be published."""
        self.dropped += 1
        va_forget(self.w)

    cdef void make_room(self) noexcept:
        """Wake those of this process that wait for a slot. (Readers send a message.)"""
        if self.waiting:
            for wake in self.waiting[:]:
                wake()

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
        self.previous = []
        self.close_ring()

    @property
    def published(self):
        """Number of the newest frame."""
        return self.w.head

    @property
    def made_of(self):
        """What the newest frame is made of: (format, shape). ("", ()) before the first."""
        cdef Kind kind = self.newest
        if kind is None:
            return "", ()
        code = (<const char *>kind.info.format)[:VA_FORMAT_BYTES].rstrip(b"\0").decode("ascii", "replace")
        return code, tuple([kind.dims[d] for d in range(<int>kind.info.ndim)])

    @property
    def generation(self):
        """Generation of the ring in use; 0 before the first."""
        return self.w.view.generation

    @property
    def slot_bytes(self):
        """The largest frame that the ring in use can take."""
        return self.w.view.slot_bytes

    @property
    def backlog(self):
        """Frames that are retained for late readers."""
        return self.w.head - self.w.gop + 1 if self.w.gop else 0

    @property
    def outgrown(self):
        """Was the newest GOP, or the one before it, too long to be retained?"""
        return self.w.outgrown

    @property
    def slots_used(self):
        """Slots that were ever written in the ring in use, and so cost memory."""
        return self.w.depth


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
    cdef bint reserved       # the slot is not for others
    cdef va_info info
    cdef bytes meta
    cdef char *data_ptr
    cdef char *meta_ptr
    cdef Py_ssize_t dims[4]
    cdef Py_ssize_t steps[4]

    def __init__(self):
        raise TypeError("slots come from Server.loan()")

    cdef void describe(self, const va_info *info, bytes meta) noexcept:
        self.info = info[0]
        _lay_out(&self.info, self.dims, self.steps)
        self.meta = meta
        if meta is not None:
            self.info.meta_bytes = <uint32_t>len(meta)

    cdef bint commit(self) except -1:
        cdef Writer writer = self.writer
        cdef Slot moved
        if not self.open:
            raise FrameReleasedError("this slot was published or discarded already; loan() another")
        writer.check()
        self.open = False
        if self.generation == writer.w.view.generation:
            self.reserved = False
        else:
            # The ring was replaced while this slot was being written, and nothing may be published in
            # a superseded ring: its readers have left it.
            self.reserved = False
            moved = writer.begin(self.info.nbytes, True)
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
        writer.make_room()
        return True

    def __dealloc__(self):
        if self.writer is not None:
            self.abort()

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if not self.open:
            raise FrameReleasedError("this slot was published or discarded; its memory belongs to the readers now")
        _lend_buffer(buffer, flags, self, &self.info, self.data_ptr, self.dims, self.steps, False)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1
        if not self.open and not self.exports:
            self.abort()

    @property
    def array(self):
        """The memory to write: a writable numpy array of ``dtype``, uninitialised (it holds an old frame)."""
        return np.asarray(memoryview(self))

    @property
    def dtype(self):
        """The numpy dtype of ``array``."""
        return DTYPES[self.info.dtype]

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
                self.writer.make_room()

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc):
        if kind is None and self.open:
            self.commit()
        else:
            self.discard()
