# SPDX-License-Identifier: MIT
"""The page's certificate: read from its files, checked, and renewed without touching connections."""

from __future__ import annotations

import binascii
import calendar
import os
import re
import shlex
import ssl
import stat
import time
from dataclasses import dataclass

from valkka_async.errors import ValkkaError

_SOON = 7 * 24 * 3600  # s before the end of a certificate from which on it is told
_LARGEST = 1 << 20  # bytes of a file
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----", re.ASCII)


class CertificateError(ValkkaError):
    """A certificate cannot be used. `of_key`: for what is wrong with the file of the key."""

    def __init__(self, text: str, *, of_key: bool = False) -> None:
        super().__init__(text)
        self.of_key = of_key


@dataclass(frozen=True, slots=True)
class Loaded:
    """A certificate with its key. Times in Unix seconds; None: the file does not say so that we understand
    it."""

    context: ssl.SSLContext
    der: bytes
    begin: int | None
    end: int | None
    open_key: str | None  # its file, if everybody may read that

    def doubts(self) -> list[str]:
        """Why it should be another one, although it can be used; for people."""
        found = [] if (doubt := self._dates()) is None else [doubt]
        if self.open_key is not None:
            path = shlex.quote(self.open_key)
            found.append(f"everybody on this machine may read its key: chmod o= {path}")
        return found

    def _dates(self) -> str | None:
        now = time.time()
        if self.end is not None and now >= self.end:
            return f"the certificate expired on {_day(self.end)}: browsers will refuse it"
        if self.begin is not None and now < self.begin:
            return f"the certificate is not valid before {_day(self.begin)}: browsers will refuse it"
        if self.end is not None and now >= self.end - _SOON:
            return f"the certificate expires on {_day(self.end)}"
        return None


def load(cert: str, key: str) -> Loaded:
    """The certificate (PEM, with those between it and its authority) and key of these files, which may be
    one. Blocks while it reads them. Raises CertificateError, which says what to do."""
    text, _ = _text(cert, "the certificate", of_key=False)
    der = _der(text, cert)
    _, mode = _text(key, "the key", of_key=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    asked = []

    def password() -> str:  # without this, OpenSSL would ask for it on the terminal
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(cert, key, password)
    except (ssl.SSLError, ValueError, OSError) as e:
        raise _why(e, cert, key, encrypted=bool(asked)) from None
    begin, end = _validity(der)
    return Loaded(context, der, begin, end, key if mode & stat.S_IROTH else None)


def _why(error: Exception, cert: str, key: str, *, encrypted: bool) -> CertificateError:
    if encrypted:
        text = f"the key in {key} is encrypted, and nobody is there to ask: openssl pkey -in {key} -out FILE"
        return CertificateError(text, of_key=True)
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return CertificateError(f"the key in {key} is not that of the certificate in {cert}", of_key=True)
    if isinstance(error, ssl.SSLError):
        words = f" ({reason.lower().replace('_', ' ')})" if reason else ""
        text = f"OpenSSL does not take {cert} with the key {key}{words}: both are PEM"
        return CertificateError(text, of_key=True)
    return CertificateError(f"{cert} or {key} cannot be read: {error}")


def _text(path: str, what: str, *, of_key: bool) -> tuple[str, int]:
    """What is in a file, and its mode. Raises CertificateError."""
    try:
        # A pipe would have no end.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # which says by itself that it is none
                return os.read(fd, _LARGEST).decode("ascii", "replace"), mode
        finally:
            os.close(fd)
    except OSError as e:
        why = e.strerror or type(e).__name__
        raise CertificateError(f"{what} cannot be read: {path}: {why}", of_key=of_key) from None
    raise CertificateError(f"{what} cannot be read: {path} is no file", of_key=of_key)


def _der(text: str, path: str) -> bytes:
    """The first certificate. Raises CertificateError."""
    match = _BLOCK.search(text)
    try:
        if match is not None:
            return binascii.a2b_base64(match[1])
    except binascii.Error:
        pass
    text = f"there is no certificate in {path}: it is PEM, with a line -----BEGIN CERTIFICATE-----"
    raise CertificateError(text)


class Certificate:
    """The certificate of a server, which may be renewed. `context` is for the server: it gives each new
    connection the newest one, and those that there are keep theirs. Blocks while it reads the files. Raises
    CertificateError."""

    def __init__(self, cert: str, key: str) -> None:
        self._files = cert, key
        self.newest = load(cert, key)
        self.context = self.newest.context
        # Loading into a context that is in use could leave it with a certificate and no key.
        self.context.sni_callback = self._hand_over

    def renew(self) -> bool:
        """Read the files again; is it another certificate? Blocks. Raises CertificateError, and then the one
        before stays."""
        found = load(*self._files)
        other = found.der != self.newest.der
        self.newest = found
        return other

    def _hand_over(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called for each handshake, with the name that the client asks for."""
        connection.context = self.newest.context


# ------------------------------------------------------------------------------------ what is in it


def _validity(der: bytes) -> tuple[int | None, int | None]:
    """From when to when it is valid. RFC 5280, 4.1; Python's ssl module tells this of the other side's
    certificate alone."""
    try:
        certificate = _inside(der, 0x30)
        rest = _inside(certificate, 0x30)
        tag, _, after = _element(rest)
        if tag == 0xA0:  # the version
            rest = rest[after:]
        for _ in range(3):  # serial number, algorithm, issuer
            rest = rest[_element(rest)[2] :]
        times = _inside(rest, 0x30)
        _, _, after = _element(times)
        return _time(times), _time(times[after:])
    except (ValueError, IndexError):
        return None, None


def _element(data: bytes) -> tuple[int, int, int]:
    """Of the first element of DER: its tag, where its content begins, and where it ends. Raises ValueError,
    IndexError."""
    length, begin = data[1], 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(data[2:begin])
    if begin + length > len(data):
        raise ValueError("cut off")
    return data[0], begin, begin + length


def _inside(data: bytes, wanted: int) -> bytes:
    tag, begin, end = _element(data)
    if tag != wanted:
        raise ValueError("something else")
    return data[begin:end]


def _time(data: bytes) -> int:
    tag, begin, end = _element(data)
    text = data[begin:end].decode("ascii")
    if tag == 0x17:  # UTCTime: 1950 to 2049
        text = ("20" if text[:2] < "50" else "19") + text
    elif tag != 0x18:
        raise ValueError("no time")
    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
