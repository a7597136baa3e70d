"""How a large picture comes on the page: seconds in all, between the pictures that are shown, and memory.

python benchmarks/page.py --workdir=DIR [--size=512,2048] [--stride=1] [--guidance=G] [--top_p=P] [--picture=FILE]

Drawn as the page draws, in a process of its own: compiling is counted, as whoever waits would count it. cpu_seconds: of
all threads, which on a machine with other work says more.
"""

import argparse
import base64
import json
import resource
import time

import numpy as np

from taming_jax.checkpoint import open_saved
from taming_jax.page.asked import parse
from taming_jax.page.painter import Painter
from taming_jax.trained.loading import load_saved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--size", default="512,2048", help="height and width in pixels")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--guidance", type=float, help="default: the model's, as of all that filters")
    parser.add_argument("--top_p", type=float)
    parser.add_argument("--out", default="")
    parser.add_argument("--picture", default="", help="where the picture is written, as PNG")
    arguments = parser.parse_args()
    saved = open_saved(arguments.workdir)
    painter = Painter(load_saved(saved, to_draw=True), saved)
    height, width = map(int, arguments.size.split(","))
    labels = base64.b64encode(painter.example(height, width, seed=3).tobytes()).decode()
    asked = {"height": height, "width": width, "labels": labels, "seed": 1, "stride": arguments.stride}
    filters = {name: value for name, value in painter.about()["sample"].items() if value is not None}
    given = {"guidance": arguments.guidance, "top_p": arguments.top_p}
    asked |= filters | {name: value for name, value in given.items() if value is not None}
    begun, seen = time.monotonic(), []
    files, _ = painter.draw(
        parse(json.dumps(asked).encode(), [painter], lambda name: None),
        lambda steps: None,
        lambda pictures: seen.append(time.monotonic() - begun),
    )
    seconds = time.monotonic() - begun
    gaps = np.diff([*seen, seconds])
    found = {
        "size": [height, width],
        "stride": arguments.stride,
        "seconds": round(seconds, 1),
        "first_picture": round(seen[0], 1),
        "pictures": len(seen),
        "median_gap": round(float(np.median(gaps)), 2),
        "largest_gap": round(float(gaps.max()), 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    found["cpu_seconds"] = round(time.process_time(), 1)
    print(json.dumps(found))
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
    if arguments.picture:
        with open(arguments.picture, "wb") as file:
            file.write(files[0])


if __name__ == "__main__":
    main()
