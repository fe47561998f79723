# SPDX-License-Identifier: MIT
"""Events to a web server: POST of JSON, signed."""

from __future__ import annotations

import hashlib
import hmac

import aiohttp

from valkka_async import __version__
from valkka_async.service.delivery import Undelivered

# Of a server that has too much to do, or lacks one behind it; what else is refused will be refused again.
_LATER = {408, 425, 429}


class Webhook:
    """One address. Neither it nor the secret is ever told."""

    def __init__(self, url: str, secret: str | None) -> None:
        self._url = url
        self._secret = secret
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, body: bytes, code: str, camera: str) -> None:
        """Send it, and wait for the head of the answer: 2xx. Raises Undelivered. May be cancelled."""
        if self._session is None:
            # A connection that was left open may be closed at the moment of the next event, which would be
            # sent twice then.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"valkka-async/{__version__}",
            "X-Valkka-Event": code,
        }
        if self._secret is not None:
            # As GitHub's webhooks have it, and so many receivers: docs.github.com, "Validating webhook
            # deliveries".
            headers["X-Hub-Signature-256"] = signature(self._secret, body)
        try:
            # A redirect would send it, and the signature, to whom nobody has named.
            response = await self._session.post(self._url, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ClientConnectorCertificateError:
            raise Undelivered("its certificate is not valid", again=True) from None
        except aiohttp.ClientConnectorError as e:
            raise Undelivered(
                f"it cannot be reached: {e.os_error.strerror or 'no answer'}", again=True
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as e:  # whose texts may have the address
            raise Undelivered(f"it does not answer as HTTP does ({type(e).__name__})", again=True) from None
        status = response.status
        response.close()  # nobody needs the rest, which may never end
        if 300 <= status < 400:
            raise Undelivered(
                f"it answers {status}, and redirects are not followed: change `url`", again=False
            )
        if not 200 <= status < 300:
            raise Undelivered(f"it answers {status}", again=status >= 500 or status in _LATER)

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        if self._session is not None:
            await self._session.close()


def signature(secret: str, body: bytes) -> str:
    """HMAC-SHA256 of the body, as "sha256=" and hexadecimal digits."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
