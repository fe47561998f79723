# SPDX-License-Identifier: MIT
"""Certificates of a link: whether files fit together, and what the other end of an endpoint shows."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from valkka_async.link.spec import Certificates, Endpoint

_PATIENCE = 2.0  # s for a connection
_REFUSAL = 0.5  # s for a word against our certificate, which comes after all else


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate: its common name, and until when it is valid (Unix seconds)."""

    name: str
    until: float

    @property
    def days(self) -> float:
        """Left of it."""
        return (self.until - time.time()) / 86400


def own(files: Certificates) -> Shown:
    """Ours, after both sides of a handshake with itself: it is what the authority has signed, for servers and
    for clients, and the key is its. Raises OSError (ssl.SSLError among them) with what is wrong."""
    server, client = _context(files, ssl.PROTOCOL_TLS_SERVER), _context(files, ssl.PROTOCOL_TLS_CLIENT)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    for _ in range(8):  # a handshake is over after two turns
        over = True
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                over = False
        if over:
            break
    return _shown(ends[0].getpeercert())


def theirs(endpoint: Endpoint, files: Certificates) -> Shown:
    """What is shown at an endpoint, to whoever has our certificate. Takes three seconds at most. Raises
    OSError: nobody answers, it is no TLS, its certificate is of another authority, or it refuses ours."""
    context = _context(files, ssl.PROTOCOL_TLS_CLIENT)
    with socket.create_connection((endpoint.host, endpoint.port), _PATIENCE) as raw:
        with context.wrap_socket(raw) as sock:
            shown = _shown(sock.getpeercert())
            sock.settimeout(_REFUSAL)
            try:
                sock.recv(1)  # it waits for our first word, unless it hangs up
            except TimeoutError:
                pass
            return shown


def why(error: OSError) -> str:
    """In words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no TLS").lower().replace("_", " ")
    return error.strerror or str(error) or type(error).__name__


def _context(files: Certificates, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # the common name says who it is, and it is looked at afterwards
    context.verify_mode = ssl.CERT_REQUIRED
    for path in (files.authority, files.certificate, files.key):
        Path(path).open("rb").close()  # OpenSSL does not say which one
    context.load_verify_locations(files.authority)
    context.load_cert_chain(files.certificate, files.key)
    return context


def _shown(said: object) -> Shown:
    assert isinstance(said, dict)
    names = {key: value for part in said.get("subject", ()) for key, value in part}
    return Shown(str(names.get("commonName", "")), ssl.cert_time_to_seconds(str(said["notAfter"])))
