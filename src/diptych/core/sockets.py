"""Sockets that servers listen on."""

from __future__ import annotations

import socket
from typing import Any


def listening(address: Any, family: socket.AddressFamily = socket.AF_INET, backlog: int = 1024) -> socket.socket:
    """A TCP socket that listens on `address`, whose connections send small pieces at once.

    Nagle's algorithm would hold a token back until the one before it was acknowledged, which takes up to 40 ms. asyncio
    switches it off only for sockets that were made with the protocol's number, which those of the standard library are
    not; a connection has the options of the socket that accepted it.

    Raises:
        OSError: the address is taken, or cannot be listened on.
    """
    listener = socket.create_server(address, family=family, backlog=backlog)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
