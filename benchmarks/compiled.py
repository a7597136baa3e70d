"""What the compilers of TPUs and GPUs say of the paper's models: the table of docs/pods.md.

    python benchmarks/compiled.py --run eval-v5e-16   # compiles one of RUNS, and keeps what is known in compiled.json
    python benchmarks/compiled.py --write             # puts the table of what is kept into docs/pods.md

compiled.json is committed, with versions and flags; compiling a row takes minutes and gigabytes of this machine.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parent / "compiled.json"
ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "pods.md"
MARKS = ("<!-- benchmarks/compiled.py: begin -->\n", "<!-- benchmarks/compiled.py: end -->\n")
GB = 1e9
# Those that scripts/tpu_worker.sh sets.
FLAGS = (
    "--xla_tpu_run_space_to_batch=false --xla_tpu_run_space_to_batch_on_new_platforms=false"
    " --xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000"
)

FIRST, SECOND = "--config=configs/imagenet_vqgan.py:16384", "--config=configs/imagenet_cond.py"
BY_FSDP = (SECOND, "--config.mesh.data=1", "--config.mesh.fsdp=-1", "--config.transformer.scan_layers=True")
DRAWS = ("--slice=v5litepod-1", SECOND, "--program=sample")
WINDOW = ("--slice=v5litepod-1", "--config=configs/sflckr.py", "--program=window", "--config.sample.batch_size=1")
# name: arguments of `python -m taming_jax.compile_for`
RUNS: dict[str, tuple[str, ...]] = {
    "eval-v5e-16": ("--slice=v5litepod-16", *BY_FSDP, "--program=eval"),
    "window-52x80": (*WINDOW, "--config.sample.size=832,1280"),
    **{f"sample-{n}": (*DRAWS, f"--config.sample.batch_size={n}") for n in (1, 8, 64)},
}
for _name in ("v5litepod-16", "v5p-64", "v6e-16", "v4-32"):
    _batch = 256 if _name == "v5p-64" else 128
    RUNS[f"vqgan-{_name}"] = (f"--slice={_name}", FIRST, f"--config.data.batch_size={_batch}")
    RUNS[f"transformer-{_name}"] = (f"--slice={_name}", *BY_FSDP, "--config.transformer.remat=block")
# In a loop its layers keep more for the way back than a chip has room for.
RUNS["transformer-v5litepod-16-no-remat"] = ("--slice=v5litepod-16", *BY_FSDP[:-1])
# GPUs; as scripts/slurm.sbatch is shown to start them.
RUNS["vqgan-8xH100"] = ("--slice=8xH100", FIRST)
RUNS["transformer-8xH100"] = ("--slice=8xH100", *BY_FSDP, "--config.transformer.attention=cudnn")


def run(name: str) -> dict[str, Any]:
    """Compile it, and keep what is known. Raises ValueError where the command fails otherwise than for memory."""
    command = [sys.executable, "-m", "taming_jax.compile_for", *RUNS[name]]
    environment = {**os.environ, "LIBTPU_INIT_ARGS": FLAGS}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8")
    if result.returncode not in (0, 1) or not result.stdout.strip().endswith("}"):
        raise ValueError(f"{name}: {result.stderr.strip()[-1000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def kept() -> dict[str, dict[str, Any]]:
    """name -> {"now": ..., "before": ...}, each as `compile_for` tells it; before: of the code before the mends."""
    return json.loads(KEPT.read_text(encoding="utf-8"))


def table() -> str:
    """Markdown."""
    heads = ("program", "slice", "mesh", "batch", "peak GB", "M cycles", "HBM GB", "TFLOP", "collectives GB")
    lines = [heads, ("---",) * len(heads)]
    for name, found in kept().items():
        for state in ("before", "now"):
            if state in found:
                lines.append(_row(name, state, found[state]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(name: str, state: str, found: dict[str, Any]) -> tuple[str, ...]:
    mesh = ", ".join(f"{axis} {size}" for axis, size in found["mesh"].items() if size > 1) or "one chip"
    batch = str(found["batch"])
    peak = f"{found['peak_bytes'] / GB:.1f}" if "peak_bytes" in found else "-"
    program = f"{name}{', before' if state == 'before' else ''}"
    if not found["fits"]:
        return program, found["slice"], mesh, batch, f"{peak}: does not fit", *["-"] * 4
    n, per = found["times"], "" if found["times"] == 1 else f" a {found['per']}"
    moved = sum(row["bytes"] for row in found["collectives"])
    cycles = "-" if found["cycles"] is None else f"{found['cycles'] / n / 1e6:.4g}{per}"
    traffic = f"{found['hbm_bytes'] / n / GB:.4g}{per}"
    work = f"{found['flops'] / n / 1e12:.3g}"
    return program, found["slice"], mesh, batch, peak, cycles, traffic, work, f"{moved / GB:.2g}" if moved else "-"


def split(document: str) -> tuple[str, str, str]:
    """(before the table, the table, behind it)."""
    before, rest = document.split(MARKS[0])
    middle, after = rest.split(MARKS[1])
    return before + MARKS[0], middle, MARKS[1] + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="+", choices=RUNS, default=[], help="compile these, one after the other")
    parser.add_argument("--write", action="store_true", help="the table, into docs/pods.md")
    options = parser.parse_args()
    for name in options.run:
        found = {**kept(), name: {**kept().get(name, {}), "now": run(name)}}
        KEPT.write_text(
            json.dumps({key: found[key] for key in RUNS if key in found}, indent=1) + "\n", encoding="utf-8"
        )
    if options.write:
        before, _, after = split(DOCUMENT.read_text(encoding="utf-8"))
        DOCUMENT.write_text(f"{before}{table()}{after}", encoding="utf-8")
    print(table(), end="")


if __name__ == "__main__":
    main()
