"""Draw in the browser: paint a map, choose a class, send a photograph, and see it drawn as a picture.

python -m taming_jax.page [--workdir DIR [DIR ...]] [--port=8080] [--host=127.0.0.1] [--origin=https://OUTER.NAME ...]
"""

from __future__ import annotations

import argparse
import os
import socket
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from taming_jax.page import folders
from taming_jax.page.ending import leave, on_signal
from taming_jax.page.listening import addresses, listen
from taming_jax.page.visitors import Visitors

if TYPE_CHECKING:
    from taming_jax.page.server import PageServer


def main() -> None:
    on_signal(leave)
    parser = _parser()
    arguments = parser.parse_args()
    try:
        listening = listen(arguments.host, arguments.port)
        visitors = Visitors(listening.getsockname()[0], arguments.origin)
        folders.remove_left()
        server = _server(arguments.workdir, listening, visitors)  # what takes long comes last
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print(f"{' or '.join([*addresses(listening), *visitors.addresses])}  (Ctrl-C ends it)", flush=True)
    came: SimpleQueue[int] = SimpleQueue()  # what a signal may be put into at any moment
    on_signal(came.put)
    threading.Thread(target=server.serve_forever, name="serving", daemon=True).start()
    number = came.get()
    on_signal(leave)  # a second one waits for nothing
    leave(number, server.end())


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m taming_jax.page", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir",
        type=os.path.expanduser,
        nargs="+",
        action="extend",
        help="trainings of second stages, between which the page lets choose; default: the models of the package",
    )
    parser.add_argument("--port", type=_port, default=8080, help="0 is any that is free; default: 8080")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="an address of this machine, at which the page is served; 0.0.0.0 and :: serve whoever reaches it",
    )
    parser.add_argument(
        "--origin",
        action="append",
        default=[],
        help="the page's address behind a proxy as browsers show it, such as https://paint.example.org; repeatable",
    )
    return parser


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected a whole number from 0 to 65535")
    return int(text)


def _server(workdirs: list[str] | None, listening: socket.socket, visitors: Visitors) -> PageServer:
    """With the models loaded. JAX is imported here, so that what can be said without it is said at once."""
    from taming_jax.checkpoint import open_saved, quiet_orbax
    from taming_jax.checkpoint.portable import PACKAGED, PRETRAINED
    from taming_jax.page.painter import Painter
    from taming_jax.page.server import PageServer
    from taming_jax.trained.loading import load_saved

    packaged = [name for name in PRETRAINED if (PACKAGED / name).exists()]
    if not workdirs and not packaged:
        raise ValueError("this package carries no model; name the directory of a second stage with --workdir")
    quiet_orbax()
    painters = []
    for path in workdirs or packaged:
        saved = open_saved(path)
        painters.append(Painter(load_saved(saved, to_draw=True), saved, path))
    return PageServer(painters, listening, visitors)


if __name__ == "__main__":
    main()
