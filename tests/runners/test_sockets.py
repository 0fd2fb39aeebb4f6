"""What is sent in small pieces arrives in small pieces."""

from __future__ import annotations

import socket
import time

from diptych.core.sockets import listening


def test_connections_send_at_once() -> None:
    with listening(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            waited = []
            for number in range(5):
                accepted.sendall(b"x")
                time.sleep(0.005)
                accepted.sendall(b"y")
                began = time.perf_counter()
                assert client.recv(1) + client.recv(1) == b"xy", number
                waited.append(time.perf_counter() - began)
            assert min(waited) < 0.03, "an acknowledgement was waited for"
