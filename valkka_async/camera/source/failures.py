# SPDX-License-Identifier: MIT
"""The exception for each failure of a source: what it means, and what helps. Nothing in it is FFmpeg's but
its fixed error strings."""

from __future__ import annotations

import errno
from functools import partial
from urllib.parse import urlsplit

import av.error

from valkka_async.camera.source import ffmpeg, http
from valkka_async.camera.source.calls import Calls
from valkka_async.camera.source.images import NoImageError
from valkka_async.camera.source.options import DEVICES, TLS
from valkka_async.camera.source.refusals import REDIRECTS, refusal, status_of
from valkka_async.camera.source.secrets import Address
from valkka_async.camera.source.tls import Trust
from valkka_async.camera.spec import Transport
from valkka_async.errors import (
    CameraBusyError,
    CameraEndedError,
    CameraError,
    CameraFormatError,
    CameraNotFoundError,
    CameraOpenError,
    CameraRefusedError,
    CameraTimeoutError,
)


class Failures:
    """Of what `calls` has made last. `kind`: FFmpeg's name of the format, where that is known beforehand."""

    def __init__(
        self,
        address: Address,
        calls: Calls,
        *,
        kind: str | None,
        transport: Transport,
        open_timeout: float,
        read_timeout: float,
        trust: Trust,
    ) -> None:
        self._address = address
        self._calls = calls
        self._kind = kind
        self._transport = transport
        self._open_timeout = open_timeout
        self._read_timeout = read_timeout
        self._trust = trust

    def of_opening(self, e: Exception | None) -> CameraError:
        where = self._address
        if self._is_late(e):
            return CameraTimeoutError(
                f"{where}: not open after {self._open_timeout:g} s: check the address and the port, and "
                "that the camera can be reached from here; or raise open_timeout"
            )
        if (error := self._of_answer(e)) is not None:
            return error
        if doubt := self._doubt():
            return CameraRefusedError(
                f"{where}: its certificate is not believed ({doubt}): tls_ca_file has to have the camera's "
                "own, or its authority's; or leave tls_verify out"
            )
        if (error := self._of_kind(e)) is not None:
            return error
        if where.scheme == "file":
            return CameraOpenError(f"{where}: cannot be opened ({self._reason(e)})")
        return CameraOpenError(
            f"{where}: cannot be opened ({self._reason(e)}): check the host name or address, the port, and "
            "the network"
        )

    def of_reading(self, e: Exception | None, *, live: bool) -> CameraError:
        if self._is_late(e):
            return self.late()
        if (error := self._of_answer(e) or self._of_kind(e)) is not None:
            return error
        if live:
            return CameraEndedError(f"{self._address}: the stream broke off ({self._reason(e)})")
        return CameraFormatError(f"{self._address}: cannot be read to its end ({self._reason(e)})")

    def of_snapshot(self, e: Exception | None) -> CameraError:
        where = self._address
        if isinstance(e, http.StatusError):
            return refusal(e.status, where, self._transport)
        if self._calls.deadline.expired or isinstance(e, TimeoutError):
            return self.late()
        return CameraEndedError(
            f"{where}: no snapshot any more ({type(e).__name__}): the camera closed the connection, was "
            "restarted or switched off"
        )

    def late(self) -> CameraTimeoutError:
        return CameraTimeoutError(
            f"{self._address}: no frame for {self._read_timeout:g} s: the camera hangs or the network is "
            "down; raise read_timeout for a camera that sends less often"
        )

    def other_kind(self) -> CameraEndedError:
        return CameraEndedError(f"{self._address}: sends images of another kind than before")

    def _is_late(self, e: Exception | None) -> bool:
        return self._calls.deadline.expired or isinstance(e, TimeoutError | av.error.ExitError)

    def _reason(self, e: Exception | None) -> str:
        return self._address.scrub(getattr(e, "strerror", None) or type(e).__name__)

    def _of_answer(self, e: Exception | None) -> CameraError | None:
        """The other end was reached, and said so."""
        status = REDIRECTS if self._calls.deadline.crowded else status_of(e, self._calls.said)
        if isinstance(e, http.StatusError):
            status = e.status
        if status is not None:
            return refusal(status, self._address, self._transport)
        if isinstance(e, NoImageError):
            return CameraFormatError(f"{self._address}: this is not video that can be decoded ({e})")
        return None

    def _of_kind(self, e: Exception | None) -> CameraError | None:
        """What the kind of the source or of the error tells, whether it was open or not."""
        where = self._address
        if where.scheme == "v4l2" or self._kind in DEVICES:
            return self._of_device(e)
        if isinstance(e, FileNotFoundError):
            return CameraNotFoundError(f"{where}: there is no such stream or file; check the path")
        if where.scheme == "lavfi":
            return CameraOpenError(f"{where}: no such filter graph ({self._reason(e)})")
        if isinstance(e, av.error.ProtocolNotFoundError):
            return CameraFormatError(f"{where}: {ffmpeg.no_protocol(where.scheme)}")
        if isinstance(e, av.error.InvalidDataError | av.error.LookupError):
            return CameraFormatError(f"{where}: this is not video that can be decoded ({self._reason(e)})")
        return None

    def _of_device(self, e: Exception | None) -> CameraError:
        """A device of this machine, such as a USB camera."""
        where, code = self._address, e.errno if isinstance(e, OSError) else None
        if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR):
            return CameraNotFoundError(f"{where}: there is no such device: is the camera plugged in?")
        if code == errno.EBUSY:
            return CameraBusyError(f"{where}: another program uses the camera; a camera has one at a time")
        if code in (errno.EACCES, errno.EPERM):
            return CameraRefusedError(
                f"{where}: not allowed to use the device: add this user to the group `video`, or give the "
                "container the device"
            )
        if code in (errno.ENOTTY, errno.EINVAL, errno.EISDIR):
            return CameraFormatError(
                f"{where}: no camera, or none with these settings ({self._reason(e)}): of a camera's devices "
                "the first one has its video, and options have to be what it offers"
            )
        return CameraEndedError(f"{where}: the camera does not go on ({self._reason(e)}): was it unplugged?")

    def _doubt(self) -> str:
        """What is wrong with the certificate; "": nothing, or there is none."""
        port = TLS.get(self._address.scheme)
        if port is None or not self._trust.verify:
            return ""
        parts = urlsplit(self._address.url)
        look = partial(self._trust.doubt, parts.hostname or "", parts.port or port, self._open_timeout)
        return self._calls.make(look, self._open_timeout)[0] or ""
