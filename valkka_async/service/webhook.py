# SPDX-License-Identifier: MIT
"""Events to a web server: POST of JSON, signed."""

from __future__ import annotations

import email.utils
import hashlib
import hmac
import os
import socket
import ssl
import time

import aiohttp
from aiohttp import hdrs
from yarl import URL

from valkka_async import __version__
from valkka_async.service.delivery import Undelivered
from valkka_async.service.lookup import Lookup

# Of a server that has too much to do, or lacks one behind it; what else is refused will be refused again.
_LATER = {408, 425, 429}
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH and IP_ADDRESS_MISMATCH, whose texts have the name


class Webhook:
    """One address. Neither it nor the secret is ever told."""

    def __init__(self, url: str, secret: str | None) -> None:
        # Escapes stay as they were given: in some addresses they are part of what was signed.
        self._url = URL(url, encoded=url.isascii())
        self._secret = secret
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, body: bytes, code: str, camera: str) -> None:
        """Send it, and wait for the head of the answer: 2xx. Raises Undelivered. May be cancelled."""
        headers = {
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.USER_AGENT: f"valkka-async/{__version__}",
            "X-Valkka-Event": code,
        }
        if self._secret is not None:
            # As GitHub's webhooks have it, and so many receivers: docs.github.com, "Validating webhook
            # deliveries".
            headers["X-Hub-Signature-256"] = signature(self._secret, body)
        session = self._open()
        try:
            # A redirect would send it, and the signature, to whom nobody has named.
            response = await session.post(self._url, data=body, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, OSError, ValueError) as e:  # whose texts may have the address
            raise Undelivered(_why(e), again=True) from None
        status = response.status
        response.close()  # nobody needs the rest, which may never end
        if 300 <= status < 400:
            raise Undelivered(
                f"it answers {status}, and redirects are not followed: change `url`", again=False
            )
        if not 200 <= status < 300:
            again = status >= 500 or status in _LATER
            after = _seconds(response.headers.get(hdrs.RETRY_AFTER, ""))
            raise Undelivered(f"it answers {status}", again=again, after=after)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # A connection that was left open may be closed at the moment of the next event, which would
                # be sent twice then.
                connector=aiohttp.TCPConnector(force_close=True, resolver=Lookup()),
                cookie_jar=aiohttp.DummyCookieJar(),  # we are nobody's guest
                timeout=aiohttp.ClientTimeout(total=None),  # the hook has one
            )
        return self._session

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        if self._session is not None:
            await self._session.close()


def signature(secret: str, body: bytes) -> str:
    """HMAC-SHA256 of the body, as "sha256=" and hexadecimal digits."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _why(error: Exception) -> str:
    """Without the address, which operating system and libraries like to repeat."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = error.certificate_error
        if not isinstance(reason, ssl.SSLCertVerificationError):
            return "its certificate is not valid"
        other = reason.verify_code in _OTHER_NAME
        return f"its certificate is not valid ({'for another name' if other else reason.verify_message})"
    if isinstance(error, aiohttp.ClientSSLError):
        return "it speaks no TLS that we speak"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, socket.gaierror):
            return f"its name cannot be looked up: {cause.strerror}"
        return f"it cannot be reached: {os.strerror(cause.errno) if cause.errno else 'no answer'}"
    return f"it does not answer as HTTP does ({type(error).__name__})"


def _seconds(retry_after: str) -> float:
    """What Retry-After asks for (RFC 9110, 10.2.3); 0: nothing that could be understood."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
