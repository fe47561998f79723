# SPDX-License-Identifier: MIT
"""Sessions of browsers that have given the token: cookies that prove themselves, over a restart too.

A cookie is not the token, and nothing of it can be found out from it: it is when the session began, until
when it holds, and a number of its own, with a signature (HMAC-SHA-256) under a key which is made of the
service's key, its name and the token. Another token is therefore the end of all sessions. There is no table
of them; those that have signed out are remembered (the last ten thousand).
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from valkka_async.service.state import SIGNED_OUT

SESSION_SECONDS = 7 * 24 * 3600  # without a request
_LONGEST = 90 * 24 * 3600  # in all; then the token is asked for again
# A clock that was wrong when the cookie was made may have been ahead, or is now behind: a small computer
# without a battery wakes up in the past. So a session from the future is one, but for how long is bounded.
_AHEAD = 30 * 24 * 3600
_COOKIE = re.compile(r"([0-9]{1,12})\.([0-9]{1,12})\.([0-9a-f]{32})\.([sp])\.([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Session:
    """Times in Unix seconds. `secure`: its cookie is for TLS alone."""

    begun: int
    until: int
    id: str
    secure: bool


class Sessions:
    """Makes and checks cookies. `over` has the numbers of those that have signed out."""

    def __init__(self, key: bytes, name: str, token: str, over: Iterable[str] = ()) -> None:
        purpose = b"\0".join((b"valkka-async session", name.encode(), token.encode()))
        self._key = hmac.digest(key, purpose, "sha256")
        self._over = dict.fromkeys(over)  # in their order

    def begin(self, *, secure: bool) -> str:
        """A cookie for somebody who has given the token."""
        now = int(time.time())
        return self._cookie(Session(now, now + SESSION_SECONDS, secrets.token_hex(16), secure))

    def find(self, cookie: str) -> Session | None:
        """The session that this cookie proves; None: it is none, or is over."""
        match = _COOKIE.fullmatch(cookie)
        if match is None:
            return None
        session = Session(int(match[1]), int(match[2]), match[3], match[4] == "s")
        if not hmac.compare_digest(self._cookie(session), cookie):
            return None
        now = time.time()
        holds = now < session.until <= now + SESSION_SECONDS + _AHEAD and now < session.begun + _LONGEST
        return session if holds and session.id not in self._over else None

    def renewed(self, session: Session) -> str | None:
        """A cookie that holds longer, for one that is used and has had half of its time."""
        now = int(time.time())
        until = min(now + SESSION_SECONDS, session.begun + _LONGEST)
        if session.until - now > SESSION_SECONDS // 2 or until <= session.until:
            return None
        return self._cookie(replace(session, until=until))

    def end(self, session: Session) -> None:
        """Sign out: its cookies are worth nothing from now on, whoever has a copy."""
        self._over[session.id] = None
        # Not those that would have run out: a clock that was ahead for a moment makes them good again.
        while len(self._over) > SIGNED_OUT:
            del self._over[next(iter(self._over))]

    def _cookie(self, session: Session) -> str:
        text = f"{session.begun}.{session.until}.{session.id}.{'s' if session.secure else 'p'}"
        return f"{text}.{hmac.digest(self._key, text.encode(), 'sha256').hex()}"
