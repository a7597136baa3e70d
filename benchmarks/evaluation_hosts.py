"""Evaluation as one process and as two joined by the distributed runtime: the figures of both, and how far apart.

python benchmarks/evaluation_hosts.py [--out runs/evaluation_hosts]

Trains both tiny stages on the demo's scenes first. About four minutes on two cores.
"""

import argparse
import json
from pathlib import Path

from processes import FIRST, SECOND, Group

PROGRAM = "taming_jax/evaluate.py"
ALIKE = 1e-6  # relative


def run(command: list[str], logs: Path, cache: Path, count: int = 1, devices: int = 1) -> None:
    group = Group(command, logs, cache=cache, count=count, devices=devices)
    if any(group.wait(900)):
        raise SystemExit(group.output())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation_hosts"))
    out = parser.parse_args().out.absolute()
    cache, first, second = out / "cache", str(out / "vqgan"), str(out / "class")
    run([*FIRST, f"--config.workdir={first}"], out / "logs" / "first", cache)
    run([*SECOND, f"--config.workdir={second}", f"--config.first_stage={first}"], out / "logs" / "second", cache)
    commands = {
        "samples": ["samples", second, "--n", "40", "--draw_batch", "8", "--reference", "val"],
        "reconstruction": ["reconstruction", first],
        "likelihood": ["likelihood", second],
    }
    for name, command in commands.items():
        features = ["--features", "demo"] if name != "likelihood" else []
        found = []
        for count in (1, 2):
            result = out / f"{name}_{count}.json"
            options = [*features, "--batch_size", "8", "--out", str(result)]
            run([PROGRAM, *command, *options], out / "logs" / f"{name}_{count}", cache, count, devices=count)
            found.append(json.loads(result.read_text(encoding="utf-8")))
        one, two = found
        assert two["protocol"]["processes"] == 2
        for key, value in one.items():
            if isinstance(value, float):
                apart = abs(value - two[key]) / max(abs(value), 1e-9)
                print(f"{name:15s} {key:26s} {value:.9g} {two[key]:.9g}{'' if apart < ALIKE else '  differs'}")


if __name__ == "__main__":
    main()
