# SPDX-License-Identifier: MIT
"""Whom to believe over TLS: anybody, as cameras sign their certificates themselves; or whom one knows."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass

# Where systems have the certificates of public authorities. FFmpeg's library knows only the place that was
# right where it was built.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True, slots=True)
class Trust:
    """`verify`: the certificate has to be valid, of the address's host, and signed by one of those in
    `ca_file`, or, if that is None, by one of the system's authorities."""

    verify: bool = False
    ca_file: str | None = None

    def options(self) -> dict[str, str]:
        """For FFmpeg, which verifies by default from version 9 on."""
        if not self.verify:
            return {"tls_verify": "0"}
        file = self.ca_file or next((path for path in _system() if os.path.exists(path)), None)
        return {"tls_verify": "1"} | ({"ca_file": file} if file else {})

    def context(self) -> ssl.SSLContext:
        """For Python. Raises OSError if there is no such file, or no certificate in it."""
        if self.verify:
            return ssl.create_default_context(cafile=self.ca_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def doubt(self, host: str, port: int, timeout: float) -> str:
        """Why this server's certificate is not believed; "": it is, or nobody knows. FFmpeg does not say."""
        if not self.verify:
            return ""
        try:
            context = self.context()
        except OSError as e:
            return f"tls_ca_file cannot be read ({e.strerror or 'it has no certificate'})"
        try:
            with (
                socket.create_connection((host, port), timeout) as plain,
                context.wrap_socket(plain, server_hostname=host),
            ):
                return ""
        except ssl.SSLCertVerificationError as e:
            return e.verify_message or "not valid"
        except OSError:
            return ""


def _system() -> tuple[str, ...]:
    known = ssl.get_default_verify_paths().cafile
    return (known, *_BUNDLES) if known else _BUNDLES
