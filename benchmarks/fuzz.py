"""Spoils files of every kind at random and reads them; prints what the readers should not have done.

python benchmarks/fuzz.py [--seed 0] [--n 5000] [--first 0] [--minutes 10] [--memory 2] [--only weights_pickle]
"""

import argparse
import collections
import logging
import math
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from fuzzing import CASES, Fuzz  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=5000, help="files to spoil")
    parser.add_argument("--first", type=int, default=0, help="number of the first, to see one again")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after how many it ends")
    parser.add_argument("--memory", type=float, default=0, help="GiB that all may take beyond what was taken before")
    parser.add_argument("--only", default="", help="a case, or what the names of some begin with")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    found: collections.Counter[str] = collections.Counter()
    slowest = (0.0, 0)
    with tempfile.TemporaryDirectory(prefix="fuzz_") as home:
        fuzz, begun, i = Fuzz(Path(home)), time.monotonic(), 0
        for name in [name for name in CASES if not name.startswith(given.only)]:
            CASES[name] = 0
        if given.memory:
            with open("/proc/self/statm", encoding="ascii") as file:
                taken = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + int(given.memory * 2**30), resource.RLIM_INFINITY))
        for i in range(given.first, given.first + given.n):
            start = time.monotonic()
            if start - begun > 60 * given.minutes:
                break
            wrong = fuzz.run(given.seed, i)
            slowest = max(slowest, (time.monotonic() - start, i))
            if wrong:
                place = wrong.rsplit(" at ", 1)[-1]
                found[place] += 1
                if found[place] == 1:
                    print(wrong.encode("utf-8", "replace").decode(), flush=True)
    for name in sorted({*fuzz.read, *fuzz.refused}):
        print(f"{name:18} {fuzz.read[name]:6} read, {fuzz.refused[name]:6} refused")
    for place, n in found.most_common():
        print(f"{n:6} {place}")
    print(f"{sum(found.values())} of {i + 1 - given.first} read wrongly")
    print(f"the slowest took {slowest[0]:.1f} s (number {slowest[1]})")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
