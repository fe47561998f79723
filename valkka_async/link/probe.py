# SPDX-License-Identifier: MIT
"""What is at an endpoint where a host should be, for people who look for what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from valkka_async.link.spec import Endpoint
from valkka_async.link.status import PeerCause
from valkka_async.timeouts import timeout

_PATIENCE = 2.0  # s


async def probe(text: str) -> tuple[PeerCause, str]:
    """Connect to it and say what came of that. Takes two seconds at most."""
    endpoint = Endpoint.parse(text)
    try:
        async with timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except TimeoutError:
        return PeerCause.UNREACHABLE, f"{text} does not answer: the cable, the machine, or a firewall"
    except socket.gaierror:
        return PeerCause.UNREACHABLE, f"{text}: no host has this name"
    except ConnectionRefusedError:
        return PeerCause.UNREACHABLE, f"nothing listens at {text}: start `valkka-async link` there"
    except OSError as e:
        return PeerCause.UNREACHABLE, f"{text}: {e.strerror or e}"
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return PeerCause.FOREIGN, (
        f"what answers at {text} is no link of this host's: another program, or it does not know this host, "
        "or one of the two refuses the other's certificate"
    )
