"""Who may ask: the page itself, under a name that is known, whatever stands between it and the browser."""

import ipaddress
import re
import socket
from collections.abc import Sequence
from email.message import Message
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.%-]+)?\]|[\w.-]{1,253})(?::(\d{1,5}))?", re.ASCII)
_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """As browsers compare them."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{'' if _PORTS[self.scheme] == self.port else f':{self.port}'}"


class Visitors:
    """What requests are answered. Raises ValueError for an origin that is none.

    address: where the page is served. origins: outer addresses of the page, as browsers show them behind a proxy, such
    as https://paint.example.org; a path behind one is left out of requests, where the proxy does not do so.
    """

    def __init__(self, address: str, origins: Sequence[str] = ()) -> None:
        self.local = _is_loopback(address)
        given = [_given(text) for text in origins]
        self.origins = tuple(origin for origin, _ in given)
        self.addresses = [f"{origin}{path}/" for origin, path in given]
        self._paths = [path for _, path in given if path]
        own = socket.gethostname().lower()
        own_names = () if self.local else (own, own.split(".")[0], f"{own.split('.')[0]}.local", socket.getfqdn())
        self._names = {"localhost", *map(_name, own_names), *(origin.host for origin in self.origins)}

    def path(self, path: str) -> str:
        """The path of a request without what a proxy left before it."""
        for before in self._paths:
            if unquote(path) == before or unquote(path).startswith(f"{before}/"):
                return unquote(path)[len(before) :] or "/"
        return path

    def check(self, headers: Message, target: SplitResult, opens: bool) -> None:
        """Raises ValueError for what a page of elsewhere asks, by its own scripts or by a name that it made lead here.

        target: what stands in the request's first line. opens: whether it asks for the page and its scripts alone, to
        which others may have links, but which they may not take into their own; and which say what is wrong where a
        proxy makes the origin another one.
        """
        host, port = _split(_single(headers, "Host"), "the request's Host")
        if target.netloc and _split(target.netloc, "the request's address") != (host, port):
            raise ValueError("the request is for one address in its first line, and for another in its Host")
        if not self._knows(host):
            scheme = "https" if headers.get("X-Forwarded-Proto") == "https" else "http"
            raise ValueError(
                f"this page does not answer to the name {host!r}: where it is your own for it, start the page with "
                f"--origin={scheme}://{_single(headers, 'Host')}, as the browser's address line begins"
            )
        if opens and headers.get("Sec-Fetch-Mode", "navigate").lower() == "navigate":
            return
        if not opens and headers.get_all("Origin"):
            self._check_origin(_single(headers, "Origin"), host, port)
        for site in headers.get_all("Sec-Fetch-Site", []):
            if site.lower() not in ("none", "same-origin"):
                what = f"{site.lower()[:100]!r}"
                raise ValueError(f"requests come from the page itself only; the browser says that this one is {what}")

    def _knows(self, host: str) -> bool:
        """By a number no other page leads here; by a name that is not known, one may."""
        if host in self._names:
            return True
        return _is_loopback(host) if self.local else _ip(host) is not None

    def _check_origin(self, text: str, host: str, port: int | None) -> None:
        try:
            origin = _origin(urlsplit(text))
        except ValueError:  # "null", of a page that has none
            raise ValueError(f"requests come from the page itself only, and its origin is not {text[:100]!r}") from None
        same = origin.host == host and origin.port == (port or _PORTS[origin.scheme])
        if not same and origin not in self.origins:
            raise ValueError(
                f"requests come from the page itself only: the browser says that this one is from {origin}, but it "
                f"came for {host}{f':{port}' if port else ''}; where a proxy stands between them, and the page is "
                f"opened at {origin}, start it with --origin={origin}"
            )


def _given(text: str) -> tuple[Origin, str]:
    """An origin of the command line, and the path behind it."""
    try:
        url = urlsplit(text)
        if url.query or url.fragment:
            raise ValueError
        return _origin(url), unquote(url.path).rstrip("/")
    except ValueError:
        raise ValueError(
            f"--origin={text} is no address of a page; expected it as the browser shows it, such as "
            "https://paint.example.org"
        ) from None


def _origin(url: SplitResult) -> Origin:
    if url.scheme not in _PORTS:
        raise ValueError
    host, port = _split(url.netloc, "the address")
    return Origin(url.scheme, host, port or _PORTS[url.scheme])


def _single(headers: Message, name: str) -> str:
    values = headers.get_all(name, [])
    if len(values) != 1:
        raise ValueError(f"a request has one {name}, but this has {len(values)}")
    return values[0].strip()


def _split(text: str, what: str) -> tuple[str, int | None]:
    """A name and a port, as they are compared. Raises ValueError."""
    try:
        found = _HOST.fullmatch(text if text.isascii() else text[:300].encode("idna").decode())
    except UnicodeError:
        found = None
    if not found or int(found[2] or 0) >= 1 << 16 or (found[1].startswith("[") and not _ip(found[1])):
        raise ValueError(f"{what} is {text[:100]!r}, which is no name or address")
    return _name(found[1]), int(found[2]) if found[2] else None


def _name(host: str) -> str:
    """A name or address, as it is compared."""
    ip = _ip(host) if host.startswith("[") else None
    return f"[{ip}]" if ip else host.lower().rstrip(".")


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Without its zone, which says by which way alone."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    ip = _ip(host)
    return bool(ip and (getattr(ip, "ipv4_mapped", None) or ip).is_loopback)
