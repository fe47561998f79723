# SPDX-License-Identifier: MIT
"""The address of a synthetic camera."""

from __future__ import annotations

import socket

HOST = "127.0.0.1"


def url(name: str, port: int) -> str:
    """The URL of its stream."""
    return f"http://{HOST}:{port}/{name}.ts"


def reserve() -> socket.socket:
    """A port that no other program gets while its camera is restarted, or refuses connections. It belongs to
    this socket, which does not listen, and the camera shares it (SO_REUSEPORT)."""
    place = socket.socket()
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind((HOST, 0))
    except BaseException:
        place.close()
        raise
    return place
