"""Block every connection but loopback and Unix sockets, in each Python process that the tests start.

``make test`` puts this folder on PYTHONPATH, so kernels, servers and command lines inherit the block.
"""

import socket

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0", "::ffff:127.")


class NetworkBlocked(OSError):
    """Raised in place of a connection that would leave this machine."""


def _is_local(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    return text in (None, "") or (isinstance(text, str) and text.startswith(LOOPBACK))


def _guard(name: str) -> None:
    original = getattr(socket.socket, name)

    def guarded(self, *args):  # type: ignore[no-untyped-def]
        address = args[-1]
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise NetworkBlocked(f"the tests may reach loopback only, not {address[0]!r}")
        return original(self, *args)

    setattr(socket.socket, name, guarded)


def _guard_lookup() -> None:
    original = socket.getaddrinfo

    def guarded(host, *args, **kwargs):  # type: ignore[no-untyped-def]
        if not _is_local(host) and host != socket.gethostname():
            raise NetworkBlocked(f"the tests may look up loopback only, not {host!r}")
        return original(host, *args, **kwargs)

    socket.getaddrinfo = guarded


if not getattr(socket, "course_block", False):
    socket.course_block = True
    for method in ("connect", "connect_ex", "sendto"):
        _guard(method)
    _guard_lookup()
