"""How far the validation's PSNR falls when the discriminator starts: the original's schedule, and that of
configs/modern_vqgan.py in small, on the demo's scenes.

    python benchmarks/adversarial_start.py [--start 800] [--steps 1600] [--every 50] [--seeds 3] [--weight 0.5]
        [--out runs/start]

The original's discriminator begins to learn and is heard in full at the same step, with batch normalisation and hinge
loss; the other has spectral norm, LeCAM and the non-saturating loss, learns for a quarter of the time before it is
heard, grows over half of the rest, and waits where PSNR falls by more than the guard; gradients are clipped, and
averages of the weights are what is evaluated. The weight is the paper's, 0.8, and that of the configuration, 0.5, or
what --weight says. Prints PSNR by step, and of each training the largest fall since the start: below the best PSNR
until then, and below the best so far.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # this project, installed or not

import train_vqgan
from configs import demo_vqgan
from taming_jax.experiment import VQGANExperiment
from taming_jax.settings import from_dict

GUARD = 0.3


def experiment(schedule: str, seed: int, given: argparse.Namespace) -> VQGANExperiment:
    config = demo_vqgan.get_config().to_dict()
    config["loss"] |= {"disc_weight": 0.8, "disc_start": given.start, "disc_learn_start": given.start, "disc_ramp": 0}
    if schedule == "modern":
        ramp = (given.steps - given.start) // 2
        config["loss"] |= {"disc_learn_start": given.start * 3 // 4, "disc_ramp": ramp, "guard": GUARD}
        config["loss"] |= {"disc_loss": "non_saturating", "lecam_weight": 0.001, "disc_weight": given.weight}
        config["discriminator"] |= {"norm": "none", "spectral": True}
        config["optimizer"] |= {"clip_norm": 1.0, "ema_decay": 0.99}
    every = {"eval_every": given.every, "image_every": given.steps, "save_every": given.steps}
    config["train"] |= {"steps": given.steps, "seed": seed, **every}
    config["data"] |= {"n_val": 128}
    return from_dict(VQGANExperiment, config)


def psnr_by_step(workdir: Path) -> dict[int, float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["step"]: line["val/psnr"] for line in lines if "val/psnr" in line}


def falls(psnr: dict[int, float], start: int) -> dict[str, float]:
    """Decibels by which the lowest since the start is below the best until then, and the largest below the best so far;
    negative where it never fell."""
    before, since = ([value for step, value in psnr.items() if (step <= start) == early] for early in (True, False))
    best = np.maximum.accumulate([max(before), *since])[:-1]
    return {"below the start": max(before) - min(since), "below the best so far": float(np.max(best - since))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("start", 800), ("steps", 1600), ("every", 50), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--weight", type=float, default=0.5, help="of the adversarial loss in today's schedule")
    parser.add_argument("--schedules", default="original,modern", help="one of them, or both")
    parser.add_argument("--out", default="runs/start")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        for schedule in given.schedules.split(","):
            workdir = Path(given.out, f"{schedule}_{seed}")
            train_vqgan.train_and_evaluate(experiment(schedule, seed, given), str(workdir))
            psnr = psnr_by_step(workdir)
            rows.append({"schedule": schedule, "seed": seed, **falls(psnr, given.start), "psnr": psnr})
            print(json.dumps(rows[-1]), flush=True)
    for row in rows:
        told = ", ".join(f"{row[name]:.2f} dB {name}" for name in ("below the start", "below the best so far"))
        print(f"{row['schedule']:10s} seed {row['seed']}: falls {told}")


if __name__ == "__main__":
    main()
