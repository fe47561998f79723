# SPDX-License-Identifier: MIT
"""The nursery: one process that has loaded all that a worker needs, and is forked for each.

    python -m valkka_async.camera.workers.nursery FD

FD is one end of a SOCK_SEQPACKET pair; births.py has what is said over it. A fork takes milliseconds where an
interpreter that loads PyAV takes half a second, and workers share what was loaded. Nothing runs in here: one
thread, no rings, no sources. Where another one's code has started threads (a sitecustomize may), a fork might
inherit their locks, and workers are new interpreters.

It ends when the supervisor has closed its end and all its workers have ended, and with the thread that has
started it (prctl(2), PR_SET_PDEATHSIG). Its workers do not depend on it.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
from typing import NoReturn

from valkka_async.camera.workers.births import Birth, Ended, Ready, Refused, Start, Started, receive, send
from valkka_async.errors import DataError

# What a terminal or a service manager sends to all processes of a service is for the supervisor to decide on.
_FOR_OTHERS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
# What a program ignores, so do its children: without these, no process would see how its own have ended, and
# a worker that is stuck would outlive the time that it has left.
_OUR_OWN = (signal.SIGCHLD, signal.SIGALRM)
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # <linux/prctl.h>
_WORKER = "valkka_async.camera.workers.worker"
_LATER = ("av.subtitles.stream",)  # loaded by the first camera


class Nursery:
    """Starts workers when asked to, and tells how they end. `run()` returns when it is needed no more."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._supervisor = os.pidfd_open(os.getppid())  # if that has ended already, the socket says so
        self._workers: dict[int, int] = {}  # pidfd: pid
        self._listening = True
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def run(self) -> None:
        self._tell(Ready())
        while self._listening or self._workers:
            for fd, _ in self._poll.poll():
                if fd in self._workers:
                    self._reap(fd)
                elif self._listening:
                    self._hear()

    def _hear(self) -> None:
        try:
            heard = receive(self._sock)
        except (OSError, DataError):
            heard = None
        if heard is None:
            self._listening = False
            self._poll.unregister(self._sock)
            return
        birth, fds = heard
        if isinstance(birth, Start):
            self._start(birth, fds)
        for fd in fds:
            os.close(fd)

    def _start(self, start: Start, fds: tuple[int, ...]) -> None:
        others = _threads() - 1
        try:
            if len(fds) != 2:
                raise OSError(errno.EMFILE, "no room for its descriptors")
            if others:
                pid = self._spawn(*fds, start.thread)
            elif (pid := os.fork()) == 0:
                self._become(*fds, start.thread)
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        except OSError as e:
            self._tell(Refused(start.number, e.errno or 0))
            return
        self._workers[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        self._tell(Started(start.number, pid, others), pidfd)

    def _become(self, fd: int, words: int, thread: int) -> NoReturn:
        """In a child: with what is its own, and nothing else."""
        try:
            supervisor = self._supervisor
            self._sock.close()
            for pidfd in self._workers:
                os.close(pidfd)
            _call_me(b"valkka-worker")
            gc.enable()
            importlib.import_module(_WORKER).run(fd, supervisor, thread, words)
        finally:
            os._exit(1)

    def _spawn(self, fd: int, words: int, thread: int) -> int:
        """A new interpreter. Raises OSError."""
        given = (fd, self._supervisor, words)
        command = [sys.executable, "-P", "-m", _WORKER, *map(str, (fd, self._supervisor, thread, words))]
        try:
            for one in given:
                os.set_inheritable(one, True)
            return os.posix_spawn(sys.executable, command, os.environ)
        finally:
            for one in given:
                os.set_inheritable(one, False)

    def _reap(self, pidfd: int) -> None:
        pid, status = os.waitpid(self._workers[pidfd], os.WNOHANG)
        if pid:
            self._poll.unregister(pidfd)
            del self._workers[pidfd]
            os.close(pidfd)
            self._tell(Ended(pid, os.waitstatus_to_exitcode(status)))

    def _tell(self, birth: Birth, *fds: int) -> None:
        try:
            send(self._sock, birth, *fds)
        except OSError:  # nobody is there: the socket says so
            pass


def _threads() -> int:
    """How many run in this process, whoever started them."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def _call_me(name: bytes) -> None:
    """The name of this process in `top` and `ps`."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name, 0, 0, 0)


def main() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _FOR_OTHERS)
    for number in _OUR_OWN:
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    _call_me(b"valkka-nursery")
    if sys.stderr is not None:
        faulthandler.enable()
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    gc.disable()
    for module in (_WORKER, *_LATER):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collector would write to all that was loaded, and each worker have its own copy of it
    Nursery(sock).run()


if __name__ == "__main__":
    main()
