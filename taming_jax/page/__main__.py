"""Draw in the browser: paint a map, choose a class, send a photograph, and see it drawn as a picture.

python -m taming_jax.page [--workdir DIR [DIR ...]] [--port=8080] [--host=127.0.0.1]
"""

import argparse
import os
import sys

from taming_jax.checkpoint import open_saved, quiet_orbax
from taming_jax.checkpoint.portable import PACKAGED, PRETRAINED
from taming_jax.names import forgive_output
from taming_jax.page.painter import Painter
from taming_jax.page.server import PageServer
from taming_jax.trained.loading import load_saved


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m taming_jax.page", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir",
        type=os.path.expanduser,
        nargs="+",
        action="extend",
        help="trainings of second stages, between which the page lets choose; default: the models of the package",
    )
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 serves whoever reaches this machine")
    forgive_output()
    arguments = parser.parse_args()
    packaged = [name for name in PRETRAINED if (PACKAGED / name).exists()]
    if not arguments.workdir and not packaged:
        parser.error("this package carries no model; name the directory of a second stage with --workdir")
    try:
        quiet_orbax()
        painters = [_open(path) for path in arguments.workdir or packaged]
        server = PageServer(painters, (arguments.host, arguments.port))
    except (ValueError, OSError, OverflowError) as error:
        parser.exit(2, f"error: {error}\n")
    host, port = server.server_address[:2]
    print(f"http://{host!s}:{port}/  (Ctrl-C ends it)")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()


def _open(path: str) -> Painter:
    saved = open_saved(path)
    return Painter(load_saved(saved, to_draw=True), saved, path)


if __name__ == "__main__":
    main()
