"""Ports of the loopback."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One on which nobody listens now. Somebody else may take it before it is used."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
