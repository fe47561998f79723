# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, freethreading_compatible=False
# cython: auto_pickle=False
# SPDX-License-Identifier: MIT
"""Packets of RTP while they lie in a socket, and which of them FFmpeg hands out: the loops of wire.py, which says what
they are for. One thread at a time."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memmove

cdef extern from "limited.h":
    pass

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLIN
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    int MSG_PEEK
    int MSG_DONTWAIT
    Py_ssize_t recv(int fd, void *to, size_t size, int flags)

cdef enum:
    _WINDOW = 65536
    RTP = 12  # bytes of a header
    INTERLEAVED = 4
    DOLLAR = 0x24  # which the latter begins with
    PLAIN = 0x80  # the flags of a packet where nothing lies between
    START = 4  # bytes of a start code
    PIECES = 1  # kinds of a packet: it has a piece of a unit ...
    SEVERAL = 2  # ... or several units ...
    NOTHING = 3  # ... or what FFmpeg makes nothing of
    UNKNOWN = -1
    NO_UNIT = -1
    SOME_UNITS = -2
    HALF = 32768
    MOST = 4096  # packets of a flow that are remembered
    FEW = 64  # for which there is room at first
    LONGEST_MESSAGE = 4096  # bytes of its header
    MOST_MESSAGES = 16  # in one look
    NUDGE = 450  # 5 ms, by which a report of the sender (RTCP) may move times; frames are further apart

WINDOW = _WINDOW
NONE, MORE = NO_UNIT, SOME_UNITS

# A packet that FFmpeg has not handed out yet.
cdef struct Seen:
    uint32_t time
    int32_t size  # of what FFmpeg makes of it
    uint16_t number
    uint8_t kind  # payload type
    bint marked
    bint inner  # it only goes on with a unit (NAL)


cdef class Flow:
    """The packets of one stream that were seen, and not handed out yet, in the order in which FFmpeg will. `loose`:
    they come as datagrams. Then FFmpeg may hand out others in between, which were not seen and look the same, so a
    marker counts only of the one that comes next by its number."""
    cdef Seen *items
    cdef Py_ssize_t room
    cdef Py_ssize_t first
    cdef Py_ssize_t count
    cdef bint based
    cdef uint32_t base  # RTP's time of a packet whose pts is 0
    cdef bint loose
    cdef int last  # number of the one that was handed out last
    cdef int kind  # payload type of those that FFmpeg hands out

    def __cinit__(self):
        self.last = self.kind = UNKNOWN
        self.items = <Seen *>PyMem_Malloc(FEW * sizeof(Seen))
        if self.items == NULL:
            raise MemoryError
        self.room = FEW

    def __dealloc__(self):
        PyMem_Free(self.items)

    def __len__(self):
        return self.count

    def clear(self):
        """What FFmpeg has not taken will be looked at again."""
        self.count = 0

    cdef int note(self, Seen seen) except -1:
        """This one comes next, or where its number says."""
        cdef Seen *there
        cdef Py_ssize_t place = self.count
        if self.kind != UNKNOWN and self.kind != seen.kind:
            return 0  # FFmpeg drops it
        if self.loose and self.last != UNKNOWN and <uint16_t>(seen.number - self.last) >= HALF:
            return 0  # too late, which FFmpeg says, too
        if self.first + self.count == self.room:
            if self.first:
                memmove(self.items, self.items + self.first, self.count * sizeof(Seen))
                self.first = 0
            else:
                there = <Seen *>PyMem_Realloc(self.items, 2 * self.room * sizeof(Seen))
                if there == NULL:
                    raise MemoryError
                self.items, self.room = there, 2 * self.room
        there = self.items + self.first
        while place and <uint16_t>(there[place - 1].number - seen.number) < HALF:
            place -= 1
        if place < self.count:
            if there[place].number == seen.number:
                return 0  # twice
            memmove(there + place + 1, there + place, (self.count - place) * sizeof(Seen))
        there[place] = seen
        self.count += 1
        if self.count > MOST:
            self.count = 0  # of a flow that FFmpeg hands out no packets of, or others
        return 0

    cdef void drop(self, Py_ssize_t count) noexcept:
        self.first += count
        self.count -= count
        if not self.count:
            self.first = 0

    cdef int gap(self, Py_ssize_t place) noexcept:
        """By how much the number of the one at this place is more than the last one's. 1: it is the next, as over a
        connection all are. UNKNOWN: that is not known."""
        if not self.loose:
            return 1
        if self.last == UNKNOWN:
            return UNKNOWN
        return <uint16_t>(self.items[self.first + place].number - self.last)

    cdef bint hand_out(self, Py_ssize_t place) noexcept:
        """It is the one at this place, as it seems. Was it marked, surely?"""
        cdef Seen *seen = self.items + self.first + place
        cdef int gap = self.gap(place)
        if gap > 1 and not place:
            self.last = <uint16_t>(self.last + 1)  # or one that is between them, which looks the same: as a rule
            return False
        self.last = seen.number
        self.drop(place + 1)
        return seen.marked and gap == 1

    cdef Seen *front(self, object pts, object size):
        """The one that was seen next, if it has this time and this size."""
        cdef Seen *seen = self.items + self.first
        if not self.count or not self.based or pts is None or seen.size != <int64_t>size:
            return NULL
        return seen if <uint32_t>(seen.time - <int64_t>pts) == self.base else NULL

    def next(self, packet):
        """Is this packet the one that was seen next, by its size and its time? As a rule it is: then whether it was
        marked, and RTP's time of it. (match() says the same of it.)"""
        cdef Seen *seen = self.front(packet.pts, packet.size)
        cdef uint32_t time
        if seen == NULL or not self.gap(0):
            return None
        time = seen.time
        return self.hand_out(0), time

    def twice(self, packet):
        """Has this one the number, the time and the size of the one that was handed out last?"""
        if self.front(packet.pts, packet.size) == NULL or self.gap(0):
            return False
        self.drop(1)
        return True

    def match(self, packet):
        """Which one this is: whether it was marked, RTP's time of it, and whether that says so, too."""
        cdef Seen *seen
        cdef Py_ssize_t place
        cdef uint32_t base, moved, time
        cdef int64_t pts, size = packet.size
        cdef bint right
        if packet.pts is None or not size:
            self.last = UNKNOWN
            return None
        pts = packet.pts
        for place in range(self.count):
            seen = self.items + self.first + place
            base = <uint32_t>(seen.time - pts)
            moved = base - self.base + NUDGE if self.based else 0
            right = self.based and (moved == NUDGE or (not place and moved <= 2 * NUDGE))
            if seen.size != size or (not right and place):
                continue
            # FFmpeg counts from the first packet, or from what RTCP says. With the next one it is known.
            self.base, self.based = base, True
            if right:
                self.kind = seen.kind
            else:
                self.last = UNKNOWN
            time = seen.time
            return self.hand_out(place), time, right
        self.kind = UNKNOWN
        if not self.loose or not self.based:
            self.count = 0  # none was lost or missed, but for what FFmpeg made nothing of
        else:
            # One that was not seen. Those that FFmpeg has thrown away are older.
            while self.count:
                moved = <uint32_t>(pts + self.base - self.items[self.first].time)
                if not 0 < moved < <uint32_t>1 << 31:
                    break
                self.drop(1)
        if self.count and self.gap(0) > 1:
            self.last = <uint16_t>(self.last + 1)
        else:
            self.last = UNKNOWN
        return None

    def pieces(self, step, newest, list into):
        """Put those into a list that only go on with the unit (NAL) of the newest packet, as far as they were seen, up
        to one that is marked; `step` gives FFmpeg's next packet. Returns whether there was such a one; or the packet,
        in a tuple, if it is another one than was seen."""
        cdef Seen *seen
        cdef Seen wanted
        cdef object pts = newest.pts, stream = newest.stream_index, packet
        while self.count:
            seen = self.items + self.first
            if not seen.inner or pts is None or not self.based:
                break
            if <uint32_t>(seen.time - <int64_t>pts) != self.base:
                break
            wanted = seen[0]
            packet = step()
            if (
                packet is None
                or packet.pts != pts
                or packet.size != wanted.size
                or packet.stream_index != stream
            ):
                return (packet,)
            self.hand_out(0)
            into.append(packet)
            if wanted.marked:
                return True
        return False


cdef class Window:
    """Looks at what lies in a socket. `mask`: that of a unit's kind in its first byte; `header`: bytes of a unit before
    what it says; `pieces`, `several`, `nothing`: the kinds, so masked, of a packet that has a piece of a unit, several
    units, or what FFmpeg makes nothing of. `message` says of bytes how long the message of RTSP is that they begin with
    (wire.py)."""
    cdef uint8_t *data
    cdef int mask
    cdef int header
    cdef uint8_t kinds[256]  # PIECES, SEVERAL, NOTHING, or 0
    cdef object message
    cdef readonly dict flows  # by channel or descriptor: those that may be the picture's
    cdef Flow picture  # which of them it is
    cdef int flow  # its key; -1: it is not known
    cdef readonly Py_ssize_t size  # bytes that were there; 0: it has ended, -1: nothing
    cdef readonly bint waited  # there was nothing at first
    cdef readonly object piece  # True: a header has only begun. None: there is what nobody knows

    def __cinit__(self):
        self.data = <uint8_t *>PyMem_Malloc(_WINDOW)
        if self.data == NULL:
            raise MemoryError
        self.flows, self.flow, self.piece = {}, -1, False

    def __init__(self, int mask, int header, pieces, several, nothing, message):
        cdef int kind
        if not 0 < header <= 2:
            raise ValueError(f"a unit has 1 or 2 bytes before what it says, not {header}")
        for kind in range(256):
            self.kinds[kind] = (
                PIECES if kind in pieces else SEVERAL if kind in several else NOTHING if kind in nothing else 0
            )
        self.mask, self.header, self.message = mask, header, message

    def __dealloc__(self):
        PyMem_Free(self.data)

    @property
    def seen(self):
        """Was there a packet that may be the picture's, and was not handed out yet?"""
        return self.any()

    cdef bint any(self):
        cdef Flow flow
        if self.picture is not None:
            return self.picture.count > 0
        for flow in self.flows.values():
            if flow.count:
                return True
        return False

    def settle(self, int key):
        """This flow is the picture's."""
        self.picture, self.flow = self.flows[key], key
        self.flows = {key: self.picture}

    def look(self, int fd):
        """Note the packets that lie in a connection; where there is nothing, wait once until there is. Says `seen`."""
        self.peek(fd)
        self.waited = self.size < 0
        if self.waited:
            wait(fd)
            self.peek(fd)
        self.piece = False
        if self.size > 0:
            self.walk()
        return self.any()

    def take(self, int fd):
        """Note the packet that lies in this socket of datagrams."""
        if self.flow in (-1, fd):
            self.peek(fd)
            if self.size > 0:
                self.note(fd, 0, self.size, self.size, True)

    cdef void peek(self, int fd) noexcept:
        # It does not wait: not worth letting the GIL go.
        while True:
            self.size = recv(fd, self.data, _WINDOW, MSG_PEEK | MSG_DONTWAIT)
            if self.size >= 0:
                return
            if errno != EINTR:
                self.size = -1 if errno == EAGAIN else 0
                return

    cdef int walk(self) except -1:
        cdef uint8_t *data = self.data
        cdef Py_ssize_t at = 0, begin, end, length
        cdef int messages = 0
        while at < self.size:
            if data[at] in (10, 13):  # lines without anything
                at += 1
                continue
            if data[at] != DOLLAR:  # answers of RTSP come between the packets, to what keeps it alive
                end = min(at + LONGEST_MESSAGE, self.size)
                messages += 1
                told = self.message(PyBytes_FromStringAndSize(<char *>data + at, end - at))
                if not told or messages > MOST_MESSAGES:
                    self.piece = False if told == 0 and self.size - at < LONGEST_MESSAGE else None
                    return 0
                at += <Py_ssize_t>told
                continue
            begin = at + INTERLEAVED
            length = data[at + 2] << 8 | data[at + 3] if begin <= self.size else RTP
            if begin + min(length, RTP) > self.size:
                self.piece = True
                return 0
            self.note(data[at + 1], begin, min(begin + length, self.size), length, False)
            at = begin + length
        return 0

    cdef int note(self, int key, Py_ssize_t at, Py_ssize_t end, Py_ssize_t size, bint loose) except -1:
        """Note the packet at `at`, of `size` bytes, of which those before `end` are here: if that is enough to know
        what FFmpeg makes of it. If it is not, it is the last one here, and will be looked at again."""
        cdef uint8_t *data = self.data + at
        cdef Py_ssize_t payload = RTP, here = end - at, made
        cdef int flags, kind, behind = 0, kinds
        cdef Seen seen
        cdef Flow flow = self.picture
        if (self.flow != -1 and self.flow != key) or here < RTP or data[0] >> 6 != 2:
            return 0
        flags, kind = data[0], data[1]
        if 192 <= kind < 196 or 200 <= kind < 211:  # RTCP (RFC 5761), as FFmpeg has it
            return 0
        if flags != PLAIN:
            if flags & 0x20:  # padded
                if here < size:
                    return 0
                if size >= RTP + data[size - 1]:
                    size -= data[size - 1]
                    here = size
            payload += 4 * (flags & 15)
            if flags & 0x10:  # an extension
                if payload + 4 > here:
                    return 0
                payload += 4 + 4 * (data[payload + 2] << 8 | data[payload + 3])
        if payload + self.header > here or payload + 2 * self.header - 1 > size:
            return 0
        kinds = self.kinds[data[payload] & self.mask]
        if self.header > 1 and (data[payload] & 1 or not 0 < data[payload + 1] < 8):
            kinds = NOTHING  # of another layer of H.265, or of none
        if kinds == NOTHING:
            return 0
        made = size - payload
        seen.inner, seen.marked = False, kind > 127
        if kinds == PIECES:
            if payload + self.header >= here:
                return 0
            behind = data[payload + self.header]
            if made <= self.header + 1 or (self.header > 1 and behind & 0xC0 == 0xC0):
                return 0
            seen.inner = behind < 0x80
            seen.marked = seen.marked and behind & 0x40  # no frame ends where a unit goes on
            made += START - 1 if behind & 0x80 else -1 - self.header
        elif kinds == SEVERAL:
            if size > here:
                return 0
            made = self.together(at + payload + self.header, at + size)
            if made < 0:
                return 0
        else:
            made += START
        seen.number, seen.kind = data[2] << 8 | data[3], kind & 127
        seen.time = <uint32_t>data[4] << 24 | data[5] << 16 | data[6] << 8 | data[7]
        seen.size = <int32_t>made
        if flow is None:
            found = self.flows.get(key)
            if found is None:
                found = self.flows[key] = Flow()
            flow = found
            flow.loose = loose
        return flow.note(seen)

    cdef Py_ssize_t together(self, Py_ssize_t at, Py_ssize_t end) noexcept:
        """What FFmpeg makes of several units, each behind its length. -1: nothing, they are damaged."""
        cdef Py_ssize_t made = 0, length
        while at + 2 < end:
            length = self.data[at] << 8 | self.data[at + 1]
            at += 2 + length
            if at > end:
                return -1
            made += START + length
        return made


def lead(packet, int header):
    """How a packet begins that FFmpeg made of one of RTP: NONE, where it goes on with a unit (NAL); MORE, where it may
    have other than one unit behind a start code of four bytes; else that unit's first byte, and the one behind its
    header times 256. (nal.py's units() says the same.)"""
    cdef Py_buffer view
    cdef const uint8_t *data
    cdef Py_ssize_t at, size
    PyObject_GetBuffer(packet, &view, PyBUF_SIMPLE)
    try:
        data, size = <const uint8_t *>view.buf, view.len
        if size < START or data[0] or data[1] or data[2] or data[3] != 1:
            return NO_UNIT
        if size <= START + header or not data[size - 1]:
            return SOME_UNITS
        at = START + 2
        while at < size:  # is there another start code?
            if data[at] > 1:
                at += 3
            elif data[at] and not data[at - 1] and not data[at - 2]:
                return SOME_UNITS
            else:
                at += 1
        return data[START] | data[START + header] << 8
    finally:
        PyBuffer_Release(&view)


def joined(make, list parts):
    """What the parts have, one after the other, in what `make` makes of a number of bytes."""
    cdef Py_ssize_t count = len(parts), held = 0, place, at = 0
    cdef Py_buffer *views = <Py_buffer *>PyMem_Malloc((count + 1) * sizeof(Py_buffer))
    if views == NULL:
        raise MemoryError
    try:
        for part in parts:
            PyObject_GetBuffer(part, &views[held], PyBUF_SIMPLE)
            at += views[held].len
            held += 1
        whole = make(at)
        PyObject_GetBuffer(whole, &views[held], PyBUF_WRITABLE)
        held += 1
        if views[count].len != at:
            raise ValueError(f"{views[count].len} bytes were made, not {at}")
        at = 0
        for place in range(count):
            memcpy(<char *>views[count].buf + at, views[place].buf, views[place].len)
            at += views[place].len
        return whole
    finally:
        for place in range(held):
            PyBuffer_Release(&views[place])
        PyMem_Free(views)


cdef int wait(int fd) except -1:
    """Until something lies in this socket, or is the matter with it."""
    cdef pollfd one
    cdef int ready
    while True:
        one.fd, one.events, one.revents = fd, POLLIN, 0
        with nogil:
            ready = poll(&one, 1, -1)
        if ready >= 0 or errno != EINTR:
            return 0
        PyErr_CheckSignals()
