# SPDX-License-Identifier: MIT
# The Cython names of layout.h and ring.h, and of what Cython itself does not name.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef extern from "sys/socket.h" nogil:
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    int MSG_PEEK
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)


cdef extern from "layout.h" nogil:
    const uint32_t VA_VERSION
    const uint32_t VA_LAYOUT
    const uint32_t VA_MAX_SLOTS
    const uint32_t VA_MAX_LEASES
    const uint32_t VA_MAX_DIMS
    const uint32_t VA_FORMAT_BYTES
    const uint32_t VA_META_BYTES
    const uint32_t VA_LEASE_PAGE_BYTES
    const uint32_t VA_KEY
    const uint32_t VA_HAS_PTS
    const uint32_t VA_HAS_DTS
    const uint32_t VA_HAS_DURATION
    const uint32_t VA_UINT8
    const uint32_t VA_DTYPES

    ctypedef struct va_info:
        uint64_t nbytes
        int64_t timestamp_ns
        int64_t published_ns
        int64_t pts
        int64_t dts
        int64_t duration
        int32_t time_base_num
        int32_t time_base_den
        uint32_t flags
        uint32_t meta_bytes
        uint32_t dtype
        uint32_t ndim
        char format[16]
        uint32_t shape[4]

    ctypedef struct va_slot:
        va_info info

    ctypedef struct va_lease_page:
        pass


cdef extern from "ring.h" nogil:
    ctypedef struct va_view:
        char *base
        uint64_t total_bytes
        uint64_t base_seq
        uint64_t slot_bytes
        uint64_t slot_stride
        uint64_t header_offset
        uint64_t header_bytes
        uint64_t data_offset
        uint32_t generation
        uint32_t header_serial
        uint32_t slots

    ctypedef struct va_peer:
        va_lease_page *page
        uint32_t leases
        uint32_t policy
        int bell

    ctypedef struct va_note:
        uint64_t touched

    ctypedef struct va_writer:
        va_view view
        uint64_t head
        uint32_t depth
        va_note note[1024]
        va_peer *peers
        uint32_t npeers
        bint retains
        bint outgrown
        uint64_t gop
        uint64_t backlog_bytes

    ctypedef struct va_tally:
        uint64_t received
        uint64_t dropped
        uint32_t leases

    ctypedef struct va_cursor:
        uint64_t seen
        uint32_t policy
        bint broken

    int VA_LATEST
    int VA_ORDERED
    int VA_LOSSLESS
    int VA_EMPTY
    int VA_CORRUPT

    va_slot *va_slot_of(const va_view *v, uint32_t slot)
    char *va_data_of(const va_view *v, uint32_t slot)
    char *va_meta_of(const va_view *v, uint32_t slot)

    void va_plan(va_view *v, uint32_t slots, uint64_t slot_bytes, uint64_t header_bytes,
                 uint32_t generation, uint32_t header_serial, uint64_t base_seq, uint64_t page)
    void va_init(const va_view *v, const void *header)
    bint va_open(va_view *v, char *base, uint64_t total)
    uint32_t va_itemsize(uint32_t dtype)
    bint va_info_ok(const va_info *info, uint64_t slot_bytes)

    int va_begin(va_writer *w, uint64_t nbytes)
    void va_touch(va_writer *w, int slot, uint64_t nbytes)
    void va_forget(va_writer *w)
    uint64_t va_round_up(uint64_t n, uint64_t to)
    uint64_t va_commit(va_writer *w, int slot, const va_info *info)
    void va_abort(va_writer *w, int slot)
    bint va_wants_more(const va_peer *p)
    va_tally va_tally_of(const va_peer *p)
    bint va_has_room(va_writer *w)
    bint va_must_ring(const va_peer *p)
    uint32_t va_find(const va_view *v, uint64_t seq)
    void va_next_ring(va_writer *w, const va_view *v, bint carry)

    bint va_has_newer(const va_cursor *c, const va_view *v)
    bint va_is_superseded(const va_view *v)
    bint va_has_frames(const va_view *v)
    void va_supersede(char *old_ring)
    int va_claim(va_cursor *c, const va_view *v, va_lease_page *page, uint32_t k, uint64_t *seq)
    void va_unpin(va_lease_page *page, uint32_t k)
    void va_tell(va_lease_page *page, uint64_t received, uint64_t dropped)
    bint va_must_signal(va_lease_page *page)
    void va_pass(va_cursor *c, va_lease_page *page, uint64_t seq)
    bint va_arm(const va_cursor *c, const va_view *v, va_lease_page *page)
