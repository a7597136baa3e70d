"""Draw in the browser: paint a map, choose a class, send a photograph, and see it drawn as a picture.

python -m taming_jax.page [--workdir DIR [DIR ...]] [--port=8080] [--host=127.0.0.1] [--origin=https://OUTER.NAME ...]
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from taming_jax.stopping import listen as listen_to_signals

    listen_to_signals()

import argparse
import os
import threading
import time

from taming_jax import stopping
from taming_jax.checkpoint import open_saved, quiet_orbax
from taming_jax.checkpoint.portable import PACKAGED, PRETRAINED
from taming_jax.page import folders
from taming_jax.page.listening import addresses, listen
from taming_jax.page.painter import Painter
from taming_jax.page.server import PageServer
from taming_jax.page.visitors import Visitors
from taming_jax.program import readable_errors, run_to_its_end
from taming_jax.trained.loading import load_saved


def main() -> None:
    arguments = _parser().parse_args()
    with readable_errors(2), stopping.telling(lambda: "nothing was served yet"):
        listening = listen(arguments.host, arguments.port)
        visitors = Visitors(listening.getsockname()[0], arguments.origin)
        folders.remove_left()
        server = PageServer(_painters(arguments.workdir), listening, visitors)  # what takes long comes last
    print(f"{' or '.join([*addresses(listening), *visitors.addresses])}  (Ctrl-C ends it)", flush=True)
    threading.Thread(target=server.serve_forever, name="serving", daemon=True).start()
    with stopping.undoing(folders.remove_all), stopping.telling(server.unfinished):
        try:
            while True:  # other threads draw and answer; a signal is heard even where one of them has caught it
                time.sleep(1)
        except stopping.Stopped as stopped:
            stopped.said = server.end()
            raise


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


def _painters(workdirs: list[str] | None) -> list[Painter]:
    packaged = [name for name in PRETRAINED if (PACKAGED / name).exists()]
    if not workdirs and not packaged:
        raise ValueError("this package carries no model; name the directory of a second stage with --workdir")
    quiet_orbax()
    painters = []
    for path in workdirs or packaged:
        saved = open_saved(path)
        painters.append(Painter(load_saved(saved, to_draw=True), saved, path))
    return painters


if __name__ == "__main__":
    run_to_its_end(main)
