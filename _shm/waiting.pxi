# SPDX-License-Identifier: MIT
# Waiting for frames in an event loop: what a task awaits, doorbells as the loop calls them, and the doorbells of a
# merge that rang. In C, because all of it runs for each frame of each camera, mostly with cold caches: in Python it
# took as long as all that the event loop itself does. Part of _shm.pyx.

cdef extern from *:
    """
    /* The type, with this function in place of its __next__. Under the limited API types are opaque: a type is derived
       that has it. */
    static PyObject *va_with_next(PyObject *type, const char *name, iternextfunc next)
    {
    #ifdef Py_LIMITED_API
        PyType_Slot slots[] = {{Py_tp_iternext, (void *)next}, {0, NULL}};
        PyType_Spec spec = {name, 0, 0, Py_TPFLAGS_DEFAULT, slots};
        PyObject *bases = PyTuple_Pack(1, type), *derived;
        derived = bases ? PyType_FromSpecWithBases(&spec, bases) : NULL;
        Py_XDECREF(bases);
        return derived;
    #else
        (void)name;
        ((PyTypeObject *)type)->tp_iternext = next;
        PyType_Modified((PyTypeObject *)type);
        Py_INCREF(type);
        return type;
    #endif
    }

    /* type.__new__(type) */
    static PyObject *va_new(PyObject *type, PyObject *nothing)
    {
        return ((newfunc)PyType_GetSlot((PyTypeObject *)type, Py_tp_new))((PyTypeObject *)type, nothing, NULL);
    }
    """
    ctypedef PyObject *(*iternextfunc)(PyObject *) except? NULL
    object va_with_next(object kind, const char *name, iternextfunc next)
    object va_new(object kind, object nothing)
    void PyErr_SetObject(void *type, value)

cdef int64_t TURN_NS = 1_000_000  # how long a task may take frames that are ready before other tasks have a turn


cdef class Waiter:
    """A future that resumes its task at once, inside the event loop's callback that wakes it. To be awaited once, by
    one task.

    An asyncio.Future hands the task to the loop's queue: one more trip round the loop, with a system call and a dozen
    Python calls, for each frame. A reader callback runs at the top of the loop, where no task is, so the task can just
    as well be stepped there. This is the protocol between Task and Future as asyncio's C and Python code have it
    (Lib/asyncio/tasks.py, Task.__step: ``_asyncio_future_blocking``, ``add_done_callback``, ``cancel``, ``result``);
    uvloop uses the same Task.
    """
    cdef bint blocking
    cdef object loop
    cdef object callback
    cdef object context
    cdef object message
    cdef bint over
    cdef bint was_cancelled

    def __init__(self, loop):
        self.loop = loop

    cpdef wake(self):
        """Resume the task now. Only from a callback of the loop, never from within a task."""
        if not self.over:
            self.over = True
            callback, context = self.callback, self.context
            self.callback = self.context = None
            if callback is not None:
                if context is not None:
                    context.run(callback, self)
                else:
                    callback(self)

    cpdef wake_soon(self):
        """Resume the task in the loop's next round. From anywhere in the loop's thread."""
        if not self.over:
            self.over = True
            self.schedule()

    cdef schedule(self):
        callback, context = self.callback, self.context
        self.callback = self.context = None
        if callback is not None:
            self.loop.call_soon(callback, self, context=context)

    # What a Task asks of a Future.

    @property
    def _asyncio_future_blocking(self):
        return self.blocking

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, bint blocking):
        self.blocking = blocking

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.over:
            self.result()
            raise StopIteration
        self.blocking = True
        return self

    def get_loop(self):
        return self.loop

    def add_done_callback(self, callback, *, context=None):
        self.callback, self.context = callback, context  # not done yet: one that is, is not waited for

    def cancel(self, msg=None):
        if self.over:
            return False
        self.over = self.was_cancelled = True
        self.message = msg
        self.schedule()
        return True

    cpdef result(self):
        if self.was_cancelled:
            from asyncio import CancelledError  # who waits has it; frames alone do not need so large a package
            raise CancelledError() if self.message is None else CancelledError(self.message)

    def done(self):
        return self.over

    def cancelled(self):
        return self.was_cancelled


cdef class Doorbell:
    """A connection's doorbell, for the event loop: ``ring`` is called when it is readable."""
    cdef int fd
    cdef Reader reader
    cdef object connection
    cdef public Waiter waiter   # of the task that waits for this connection alone; it comes first
    cdef Doorbells merged       # else those that this one is among
    cdef public object owner    # of the member of a merge that it belongs to
    cdef Doorbell behind        # in the queue
    cdef readonly bint queued   # there may be something to claim
    cdef uint64_t turn          # when it last gave a frame, counted in frames of all

    def __cinit__(self, connection, Reader reader not None, int fd):
        self.connection = connection
        self.reader = reader
        self.fd = fd

    def ring(self):
        drain(self.fd)
        self.heard()

    cpdef heard(self):
        """There may be something to claim, or the connection has ended."""
        if self.waiter is not None:
            self.waiter.wake()
        elif self.merged is not None:
            self.merged.put(self)
            if self.merged.waiter is not None:
                self.merged.waiter.wake()

    cpdef heard_soon(self):
        """heard(), from anywhere in the loop's thread: who waits goes on in the loop's next round."""
        if self.waiter is not None:
            self.waiter.wake_soon()
        elif self.merged is not None:
            self.merged.put(self)
            self.merged.wake()

    cpdef Frame claim(self):
        """The next frame, if there is one: Reader.claim(), but the connection is told what makes no sense."""
        try:
            return self.reader.claim()
        except ProtocolError as e:
            self.connection.fail(e)
            return None

    cpdef bint pending(self):
        return self.reader.pending()

    cpdef bint arm(self):
        return self.reader.arm()


cdef class Doorbells:
    """A queue of the connections of a merge that may have frames. The doorbells of all others are armed.

    ``over`` is called with the owner of a connection that has ended and whose ring is read to the end. ``check`` is
    called when nothing is left to claim, and raises if that is final.
    """
    cdef object over
    cdef object check
    cdef Doorbell first
    cdef Doorbell last
    cdef Py_ssize_t length
    cdef uint64_t turns
    cdef int64_t turn           # when other tasks last had a chance to run
    cdef bint receiving
    cdef Receiving waiter       # of the task that waits

    def __cinit__(self, over, check):
        self.over = over
        self.check = check

    def join(self, Doorbell bell not None, owner):
        """A member is connected."""
        bell.owner = owner
        bell.merged = self
        self.put(bell)
        self.wake()

    def leave(self, Doorbell bell not None):
        """A member is not connected any more."""
        bell.merged = None
        bell.owner = None

    def wake(self):
        """Have the task that receives look again."""
        if self.waiter is not None:
            self.waiter.wake_soon()

    cdef void put(self, Doorbell bell) noexcept:
        if not bell.queued:
            bell.queued = True
            if self.last is None:
                self.first = bell
            else:
                self.last.behind = bell
            self.last = bell
            self.length += 1

    cdef void put_first(self) noexcept:
        """The last one becomes the first."""
        cdef Doorbell bell = self.first
        if bell is not self.last:
            while bell.behind is not self.last:
                bell = bell.behind
            self.last.behind = self.first
            self.first = self.last
            self.last = bell
            bell.behind = None

    cdef Doorbell take(self):
        cdef Doorbell bell = self.first
        if bell is not None:
            self.first = bell.behind
            bell.behind = None
            bell.queued = False
            if self.first is None:
                self.last = None
            self.length -= 1
        return bell

    cdef Frame claim_from(self, Doorbell bell):
        """A frame of one that was taken from the queue; it goes back if there may be more, as the last, so that the
        others come first."""
        cdef Frame frame
        cdef bint ended
        if bell.merged is not self:
            return None
        try:
            frame = bell.claim()
        except BaseException:  # LeaseLimitError: the frame is still there for the next call
            self.put(bell)
            raise
        if frame is not None:
            self.turns += 1
            bell.turn = self.turns
        if bell.merged is not self:  # it has left, by a signal's handler
            return frame
        ended = bell.connection.ended
        if frame is None and ended:
            self.over(bell.owner)
        elif ended or not bell.arm():
            self.put(bell)
        return frame

    cpdef Frame claim(self):
        """The next frame of the members that are ready. None: there is none, and all doorbells are armed."""
        cdef Frame frame
        while self.first is not None:
            frame = self.claim_from(self.take())
            if frame is not None:
                return frame
        return None

    def claim_now(self):
        """claim() for a caller that does not wait. Raises ConcurrencyError, and what ``check`` raises."""
        cdef Frame frame
        self.check_alone()
        frame = self.claim()
        if frame is None:
            self.check()
        return frame

    def count(self):
        """How many members have something to claim. The doorbells of the others are armed."""
        cdef Doorbell bell
        cdef Py_ssize_t i
        for i in range(self.length):
            bell = self.take()
            if bell.merged is self and (bell.connection.ended or bell.pending() or not bell.arm()):
                self.put(bell)
        return self.length

    def claim_each(self, Py_ssize_t most, set but=None):
        """One frame of each member that is ready, ``but`` for these; at most so many, of those that have waited
        longest. LeaseLimitError of one comes next time, before any frame is claimed, if there are frames of others."""
        cdef list frames = []
        cdef Frame frame
        cdef Doorbell bell
        cdef Py_ssize_t i
        if self.length > most:  # the order in the queue is that of their doorbells
            self.sort()
        for i in range(self.length):
            if len(frames) == most:
                break
            bell = self.take()
            if but is not None and bell.owner in but:
                self.put(bell)
                continue
            try:
                frame = self.claim_from(bell)
            except LeaseLimitError:
                if not frames:
                    raise
                self.put_first()
                break
            if frame is not None:
                frames.append(frame)
        return frames

    cdef sort(self):
        cdef Doorbell bell
        cdef list bells = [self.take() for _ in range(self.length)]
        for bell in sorted(bells, key=_turn_of):
            self.put(bell)

    cdef int check_alone(self) except -1:
        if self.receiving:
            raise ConcurrencyError("another task is receiving from this merge: give each task its own")
        return 0

    def receive(self, loop, take=None, until=None, *, bint iterating=False):
        """To be awaited: what ``take`` returns (the next frame), as soon as that is something.

        It is called again when a member is ready, or at the time that ``until`` gives (monotonic; one that has passed:
        after the other tasks had their turn). Cancelling loses no frame. Raises ConcurrencyError, what ``take`` raises,
        and what ``check`` raises when it gives nothing; ``iterating``: StopAsyncIteration for ConnectionClosedOK.
        """
        cdef Receiving receiving = <Receiving>va_new(_Receiving, ())
        receiving.loop = loop
        receiving.bells = self
        receiving.taking = take
        receiving.until = until
        receiving.iterating = iterating
        return receiving


def _turn_of(Doorbell bell):
    return bell.turn


cdef enum:
    TAKEN, WAIT, YIELD


cdef class Receiving(Waiter):
    """A task's wait for the frames of a merge, from Doorbells.receive()."""
    cdef Doorbells bells
    cdef object taking
    cdef object until
    cdef object timer
    cdef bint iterating
    cdef bint begun
    cdef bint finished
    cdef object taken

    def __init__(self, *args, **kwargs):
        raise TypeError("this comes from Doorbells.receive()")

    def __next__(self):
        cdef int what = self.step()
        if what == TAKEN:
            taken, self.taken = self.taken, None
            raise StopIteration(taken)
        return None if what == YIELD else self

    @property
    def _asyncio_future_blocking(self):
        """None before it is awaited: not a future then (asyncio.isfuture), but a coroutine, of which wait_for(),
        gather() and the like make a task."""
        return self.blocking if self.begun else None

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, bint blocking):
        self.blocking = blocking

    def send(self, value):
        return next(self)

    cdef int step(self) except -1:
        try:
            return self.take_or_wait()
        except ConnectionClosedOK:
            self.finish()
            if self.iterating:
                raise StopAsyncIteration from None
            raise
        except BaseException:
            self.finish()
            raise

    cdef int take_or_wait(self) except -1:
        """TAKEN, in ``taken``; WAIT for this; or YIELD: come again after the other tasks had their turn."""
        cdef Doorbells bells = self.bells
        cdef int64_t now
        if self.finished:
            raise RuntimeError("this was awaited already")
        now = _now(CLOCK_MONOTONIC)
        if not self.begun:
            bells.check_alone()
            self.begun = bells.receiving = True
        elif bells.waiter is self:
            bells.waiter = None
            self.stop_timer()
            self.result()
            bells.turn = now
        else:
            bells.turn = now  # the other tasks had their turn
        if now - bells.turn > TURN_NS and bells.first is not None:  # else they have it now, as this waits
            return YIELD
        self.taken = bells.claim() if self.taking is None else self.taking()
        if self.taken:
            self.finish()
            return TAKEN
        self.over = False
        bells.waiter = self  # from here on close() wakes this, be it in a signal's handler
        bells.check()
        if self.until is not None and not self.start_timer() or self.over:
            return YIELD
        self.blocking = True
        return WAIT

    cdef bint start_timer(self) except? False:
        """Wake up in time. False: it is time."""
        cdef double left
        until = self.until()
        if until is not None:
            left = until - _now(CLOCK_MONOTONIC) * 1e-9
            if left <= 0:
                return False
            self.timer = self.loop.call_later(left, (<Waiter>self).wake)
        return True

    cdef int stop_timer(self) except -1:
        if self.timer is not None:
            timer, self.timer = self.timer, None
            timer.cancel()
        return 0

    cdef int finish(self) except -1:
        if self.begun and not self.finished:
            self.bells.receiving = False
            if self.bells.waiter is self:
                self.bells.waiter = None
        self.finished = True
        self.taking = self.until = None  # a task may hold this for longer
        self.stop_timer()
        return 0

    def throw(self, kind, value=None, trace=None):
        self.finish()
        error = value if value is not None else kind() if isinstance(kind, type) else kind
        raise error if trace is None else error.with_traceback(trace)

    def close(self):
        self.finish()


# In place of __next__, which does the same. What Cython makes of "raise StopIteration" gives each frame a traceback,
# which takes longer than all the rest.

cdef PyObject *_next_of_waiter(PyObject *this) except? NULL:
    cdef Waiter waiter = <Waiter>this
    if waiter.over:
        waiter.result()
        return NULL
    waiter.blocking = True
    Py_INCREF(waiter)
    return this


cdef PyObject *_next_of_receiving(PyObject *this) except? NULL:
    cdef Receiving receiving = <Receiving>this
    cdef int what = receiving.step()
    if what == TAKEN:
        taken, receiving.taken = receiving.taken, None
        PyErr_SetObject(<void *>StopIteration, taken)
        return NULL
    if what == YIELD:
        Py_INCREF(None)
        return <PyObject *>None
    Py_INCREF(receiving)
    return this


cdef object _Receiving = va_with_next(Receiving, b"valkka_async.ring._shm.Receiving", _next_of_receiving)
globals()["Waiter"] = va_with_next(Waiter, b"valkka_async.ring._shm.Waiter", _next_of_waiter)
