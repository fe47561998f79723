# SPDX-License-Identifier: MIT
"""HTTP as cameras speak it: one address, its login, and a connection that is held for as long as the camera
holds it. What a camera sees at this moment is asked for again and again (Snapshots); one that knows ETag or
Last-Modified sends only what is new."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
from collections.abc import Mapping
from urllib.parse import unquote, urljoin

from valkka_async.camera.source.images import LARGEST, Images, NoImageError, image_format
from valkka_async.camera.source.refusals import REDIRECTS
from valkka_async.camera.source.tls import Trust

_LARGEST_ANSWER = 1 << 20  # bytes that come with a refusal, and are not looked at
_REDIRECTS = 5
_AUTHORITY = re.compile(r"(https?)://(?:([^/?#]*)@)?(\[[^\]]*\]|[^/?#:]*)(?::(\d*))?([^#]*)", re.IGNORECASE)
_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}  # of digest authentication
_PARAMETER = re.compile(r'(?<!\w)(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')


class StatusError(Exception):
    """The server answers with a status that is no success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


class Client:
    """Asks for one address. It blocks; if its socket is shut down meanwhile, it raises OSError or another.

    `url` has percent-encoded credentials. Of FFmpeg's `options`, "user_agent" and "headers" are observed.
    """

    def __init__(self, url: str, timeout: float, options: Mapping[str, str], trust: Trust) -> None:
        self._url = url
        self._timeout = timeout
        self._trust = trust
        self._headers = {"User-Agent": options.get("user_agent", "valkka-async"), "Accept": "*/*"}
        for line in options.get("headers", "").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                self._headers[name.strip()] = value.strip()
        self._login: tuple[str, str] | None = None
        self._challenge: dict[str, str] | None = None  # of a digest; {}: Basic
        self._count = 0
        self._accepted = False  # the login was right, once
        self._to = ("", "", 0)  # scheme, host, port of the connection
        self._connection: http.client.HTTPConnection | None = None

    def get(self, more: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
        """An answer with status 200 or 304, whose body is to be read, and all of it before the next one is
        asked for. `more`: headers. Raises StatusError, OSError, HTTPException, ValueError."""
        url, more = self._url, more or {}
        for _ in range(_REDIRECTS + 1):
            response = self._ask(url, more)
            if response.status in (301, 302, 303, 307, 308) and (place := response.getheader("Location")):
                self._pass_over(response)
                url = urljoin(url, place)
                continue
            if response.status not in (200, 304):
                response.close()
                self.close()
                raise StatusError(response.status)
            self._accepted = True
            return response
        raise StatusError(REDIRECTS)

    def done(self, response: http.client.HTTPResponse) -> None:
        """Its body has been read."""
        # Before Python 3.12 read1() does not close what it has read to its end.
        whole = (response.isclosed() or response.length == 0) and not response.will_close
        response.close()
        if not whole:
            self.close()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _ask(self, url: str, more: Mapping[str, str]) -> http.client.HTTPResponse:
        match = _AUTHORITY.match(url)
        if match is None:
            raise ValueError("redirected to something that is no address of HTTP")
        scheme, login, host, port, path = match.groups(default="")
        to = (scheme.lower(), host.strip("[]"), int(port or (443 if scheme.lower() == "https" else 80)))
        first = self._to == ("", "", 0)
        if login:
            user, _, password = login.partition(":")
            self._login = unquote(user), unquote(password)
        elif not first and to[1] != self._to[1]:
            self._login = None  # another host does not get it
        if to != self._to:
            self.close()
            self._to, self._challenge = to, None
        path = path if path.startswith("/") else "/" + path
        response = self._once(path, more)
        if response.status == 401 and self._login is not None and self._take(response):
            self._pass_over(response)
            response = self._once(path, more)
        return response

    def _once(self, path: str, more: Mapping[str, str]) -> http.client.HTTPResponse:
        """One request and its answer."""
        fresh = self._connection is None
        if self._connection is None:
            self._connection = self._connect()
        try:
            return self._request(self._connection, path, more)
        except (http.client.RemoteDisconnected, ConnectionError):
            self.close()
            if fresh:
                raise
            self._connection = self._connect()  # the camera had closed the one that was held
            return self._request(self._connection, path, more)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> http.client.HTTPConnection:
        scheme, host, port = self._to
        if scheme == "https":
            context = self._trust.context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)

    def _request(
        self, connection: http.client.HTTPConnection, path: str, more: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        headers = {**self._headers, **more}
        if self._login is not None and self._challenge is not None:
            headers["Authorization"] = self._authorization(path)
        connection.request("GET", path, headers=headers)
        return connection.getresponse()

    def _pass_over(self, response: http.client.HTTPResponse) -> None:
        response.read(_LARGEST_ANSWER)
        self.done(response)

    # ---------------------------------------------------------------------------- authentication

    def _take(self, response: http.client.HTTPResponse) -> bool:
        """Understand what is asked for. False: it was given already, or is nothing that is known here."""
        offers = {}
        for offer in response.headers.get_all("WWW-Authenticate") or []:
            kind, _, rest = offer.strip().partition(" ")
            offers[kind.lower()] = {
                m[1].lower(): m[2] if m[2] is not None else m[3] for m in _PARAMETER.finditer(rest)
            }
        before = self._challenge
        digest = offers.get("digest")
        if digest is not None and digest.get("algorithm", "MD5").upper() in _HASHES:
            self._challenge, self._count = digest, 0
            # A nonce has its time. One that was never answered was refused for the password.
            return not before or before.get("nonce") != digest.get("nonce") and self._accepted
        if "basic" in offers:
            self._challenge = {}
            return before is None
        return False

    def _authorization(self, path: str) -> str:
        assert self._login is not None and self._challenge is not None
        user, password = self._login
        if not self._challenge:
            return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        challenge = self._challenge
        algorithm = challenge.get("algorithm", "MD5").upper()

        def digest(*parts: str) -> str:
            return _HASHES[algorithm](":".join(parts).encode(), usedforsecurity=False).hexdigest()

        realm, nonce = challenge.get("realm", ""), challenge.get("nonce", "")
        ours, what = digest(user, realm, password), digest("GET", path)
        fields = {"username": user, "realm": realm, "nonce": nonce, "uri": path}
        if "auth" in re.split(r"[\s,]+", challenge.get("qop", "")):
            self._count += 1
            count, random = f"{self._count:08x}", os.urandom(8).hex()
            fields["response"] = digest(ours, nonce, count, random, "auth", what)
            end = f', qop=auth, nc={count}, cnonce="{random}"'
        else:
            fields["response"] = digest(ours, nonce, what)
            end = ""
        if "opaque" in challenge:
            fields["opaque"] = challenge["opaque"]
        if "algorithm" in challenge:
            end += f", algorithm={challenge['algorithm']}"
        return "Digest " + ", ".join(f'{name}="{value}"' for name, value in fields.items()) + end


class Snapshots:
    """The image that is at a client's address, each time that it is asked for."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str] = {}  # what makes the request a conditional one
        self._image = b""

    def fetch(self) -> bytes:
        """The image of now. As Client.get()."""
        response = self._client.get(self._known)
        if response.status == 304:
            response.read()
            self._client.done(response)
            if self._image:
                return self._image
            raise StatusError(304)
        body = response.read(LARGEST + 1)
        self._client.done(response)
        if len(body) > LARGEST:
            raise NoImageError("one image is too large")
        parts = response.getheader("Content-Type", "").lower().startswith("multipart/")
        if parts or image_format(body):
            body = _first(body) or body
        self._known = {
            request: value
            for answer, request in (("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since"))
            if (value := response.getheader(answer))
        }
        self._image = body
        return body


def _first(body: bytes) -> bytes | None:
    """The first image in the body of an answer."""
    pieces = iter((body, b""))
    return Images(lambda _: next(pieces, b"")).next()
