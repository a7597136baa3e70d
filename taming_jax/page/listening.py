"""Where the page is served: a port that is taken before anything is loaded, and addresses that can be opened."""

import contextlib
import errno
import ipaddress
import socket

BACKLOG = 128  # that may come at once without being turned away
TRIED = 100  # ports above one in use, of which a free one is named


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections, which wait until somebody serves them.

    host: a name or an address, IPv6 also in brackets; 0.0.0.0 and :: are all networks of this machine. port: 0 is any
    that is free. Raises ValueError with a way out.
    """
    what = f"--host={host}"
    if not host:  # which would serve everybody
        raise ValueError(f"{what} is empty; expected 127.0.0.1 for this machine alone, or 0.0.0.0 for all networks")
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ValueError(
            f"{what} is no name or address that is known here; expected one of this machine's, such as 127.0.0.1 or "
            "::1, without a port, which goes to --port"
        ) from None
    family, address = min(((entry[0], entry[4]) for entry in found), key=lambda entry: entry[0] != socket.AF_INET)
    try:
        return _bound(family, address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            free = _free(family, address)
            advice = f"the next free one is {free}: --port={free}, or" if free else "give another, or"
            raise ValueError(f"port {port} of {host} is in use already; {advice} --port=0 for any") from None
        if error.errno == errno.EACCES:
            raise ValueError(
                f"port {port} may not be opened by this user; give one from 1024 on, such as --port=8080, and where "
                f"the page has to be at {port}, put a proxy before it"
            ) from None
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise ValueError(
                f"{what} is no address of this machine; expected 127.0.0.1 for this machine alone, 0.0.0.0 for all "
                "networks, or an address that it has"
            ) from None
        raise ValueError(f"{what} --port={port} cannot be served: {error.strerror or error}") from None


def addresses(listening: socket.socket) -> list[str]:
    """What to type into a browser: on this machine first, then elsewhere."""
    host, port = listening.getsockname()[:2]
    ip = ipaddress.ip_address(host)
    if not ip.is_unspecified:
        return [_url(host, port)]
    names = ["localhost", *dict.fromkeys(filter(None, (socket.gethostname(), _own_address())))]
    return [_url(name, port) for name in names if names[0] == name or not name.startswith(("localhost", "127."))]


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]'.replace('%', '%25') if ':' in host else host}:{port}/"


def _bound(family: int, address: tuple) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also just after a page of before has ended
        if family == socket.AF_INET6 and ipaddress.ip_address(address[0]).is_unspecified:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _free(family: int, address: tuple) -> int | None:
    host, port, *rest = address
    for other in range(port + 1, min(port + 1 + TRIED, 1 << 16)):
        with contextlib.suppress(OSError):
            _bound(family, (host, other, *rest)).close()
            return other
    return None


def _own_address() -> str:
    """By which other machines most likely reach this one; empty where it has no network. Nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("192.0.2.1", 9))  # kept for documentation; only the route there is looked up
        return asking.getsockname()[0]
    return ""
