# SPDX-License-Identifier: MIT
# What a reader has: maps of the rings, its lease page, and the frames that it claims. Part of _shm.pyx.

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
    cdef uint64_t born       # FORKS then
    cdef _Inherited inherited

    def __cinit__(self, int fd):
        self.map = _Mapping(fd, VA_LEASE_PAGE_BYTES, True)
        self.page = <va_lease_page *>self.map.base
        self.connection = -1
        self.signal_fd = -1
        self.born = FORKS
        self.inherited.connection = &self.connection
        _enlist(&self.inherited)

    cdef inline bint inert(self) noexcept:
        """In a forked child: the leases are the parent's."""
        return self.born != FORKS

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
        if not self.inert():
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
        _delist(&self.inherited)
        self.hang_up()


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
        cdef Frame frame
        cdef int k, s
        cdef uint64_t seq = 0
        cdef bint moved
        if self.page.inert():
            raise _not_ours("the reader of", self.source)
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
        frame = Frame.__new__(Frame)  # before a lease is taken: there may be no memory for it
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
        if s >= 0:
            self.lend(frame, ring, k, s, seq)
        else:
            frame = None
            self.page.untake(k)
            if s != VA_EMPTY:
                raise ProtocolError(f"{self.source}: the frame ring makes no sense any more")
        if moved and self.look is not None:
            self.look()  # may be interrupted: the lease is the frame's by now, or nobody's
        return frame

    cdef int lend(self, Frame frame, _Ring ring, int k, int s, uint64_t seq) except -1:
        cdef va_info *info = &frame.info
        memcpy(info, &va_slot_of(&ring.view, s).info, sizeof(va_info))
        frame.page = self.page  # from here on the frame gives the lease back, whatever happens
        frame.lease = k
        if not va_info_ok(info, ring.view.slot_bytes):
            raise ProtocolError(f"{self.source}: the description of frame {seq} makes no sense")
        frame.map = ring.map
        frame.data_ptr = va_data_of(&ring.view, s)
        frame.room = ring.view.slot_bytes
        frame.source = self.source
        frame.seq = seq
        frame.dropped = seq - self.last_seq - 1
        _lay_out(info, frame.dims, frame.steps)
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
        return 0

    cpdef bint arm(self):
        """Announce that the reader is about to sleep. False: there is something to claim already."""
        cdef _Ring ring
        if self.closed or self.page.inert():
            return True
        if not self.rings:
            return va_arm(&self.cursor, NULL, self.page.page)  # for the first frame of the first ring
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

    def close(self, sock):
        """Give the connection up, and take the descriptor out of its socket, all at once: closed now, or with the
        last frame that is still held. It may be called again."""
        if self.closed:
            return
        cdef int connection = CSocket.detach(sock)  # the method of Python's class may be interrupted inside
        self.closed = True
        self.rings = []
        self.look = None
        if not self.page.inert():
            va_pass(&self.cursor, self.page.page, UINT64_MAX)
            self.page.signal_room()  # what it had still to read is free
        self.page.connection = connection
        self.page.closing = True
        if not self.page.live:
            self.page.hang_up()

    def after_fork(self):
        """In a forked child: let the parent's rings go."""
        self.closed = True
        self.rings = []
        self.look = None
        self.page.signal_fd = -1


cdef object _not_ours(str what, str name):
    return InheritedError(f"{what} {name!r} belongs to the parent process: open one of your own after the fork")


def drain(int fd):
    """Make a doorbell (a non-blocking pipe) unreadable until it rings again. False: it had not rung."""
    cdef char sink[64]
    cdef bint rung = read(fd, sink, sizeof(sink)) > 0
    return rung
