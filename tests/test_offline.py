"""The tests cannot reach anything but loopback, and this proves that the block works."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

PROBES = [
    "socket.create_connection(('192.0.2.1', 80), timeout=0.2)",  # TEST-NET-1: routed nowhere
    "socket.getaddrinfo('example.com', 443)",
    "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "socket.socket().connect_ex(('198.51.100.7', 80))",
]


@pytest.mark.parametrize("probe", PROBES)
def test_this_process_is_blocked(probe: str) -> None:
    with pytest.raises(OSError, match="loopback only"):
        eval(probe, {"socket": socket})


@pytest.mark.parametrize("probe", PROBES)
def test_child_processes_are_blocked(probe: str) -> None:
    child = subprocess.run([sys.executable, "-c", f"import socket; {probe}"], capture_output=True, text=True)
    assert child.returncode != 0
    assert "NetworkBlocked" in child.stderr


def test_loopback_works() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=2) as client,
    ):
        client.sendall(b"ping")
        connection, _ = server.accept()
        assert connection.recv(4) == b"ping"
        connection.close()
