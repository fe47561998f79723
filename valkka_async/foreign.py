# SPDX-License-Identifier: MIT
"""Exceptions that only look like the system's.

A signal's handler runs after any call, and raises what it likes: TimeoutError, which is an OSError, or
RuntimeError. That is the program's own affair, and reaches it as it is.
"""

from __future__ import annotations

import errno
import threading
from types import CodeType, TracebackType


def pass_on(e: OSError) -> None:
    """Raise it again unless the system raised it: all of those have an errno."""
    if e.errno is None:
        raise e


def start(thread: threading.Thread) -> None:
    """Start it. Raises OSError when the system has no room for another thread."""
    try:
        thread.start()
    except Exception as e:
        # Broken off, start() fails at its own locks and lists, which hides what broke it off.
        inner = e.__context__
        if inner is not None and (trace := inner.__traceback__) is not None:
            if trace.tb_frame.f_code.co_filename == threading.__file__:
                raise inner from None
        if isinstance(e, RuntimeError) and _last(e.__traceback__) is threading.Thread.start.__code__:
            raise OSError(errno.EAGAIN, str(e)) from None
        raise


def _last(trace: TracebackType | None) -> CodeType | None:
    """Where it was raised, or which code called the function in C that raised it."""
    code = None
    while trace is not None:
        code, trace = trace.tb_frame.f_code, trace.tb_next
    return code
