"""How far the validation's PSNR falls when the discriminator starts: the original's schedule, and that of
configs/modern_vqgan.py in small, on the demo's scenes.

    python benchmarks/adversarial_start.py [--start 800] [--steps 1600] [--every 50] [--seeds 3] [--out runs/start]

The original's discriminator begins to learn and is heard in full at the same step, with batch normalisation and hinge
loss; the other has spectral norm, LeCAM and the non-saturating loss, learns for a quarter of the time before it is
heard, grows over half of the rest, and waits where PSNR falls by more than the guard. Both have the weight of the
paper, 0.8. Prints PSNR by step, and of each training the largest fall below the best PSNR until the start.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

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
        config["loss"] |= {"disc_loss": "non_saturating", "lecam_weight": 0.001}
        config["discriminator"] |= {"norm": "none", "spectral": True}
    every = {"eval_every": given.every, "image_every": given.steps, "save_every": given.steps}
    config["train"] |= {"steps": given.steps, "seed": seed, **every}
    config["data"] |= {"n_val": 128}
    return from_dict(VQGANExperiment, config)


def psnr_by_step(workdir: Path) -> dict[int, float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["val/psnr"] for line in lines if "val/psnr" in line}


def fall(psnr: dict[int, float], start: int) -> float:
    """Decibels between the best until the start and the lowest since."""
    before = max(value for step, value in psnr.items() if step <= start)
    return before - min(value for step, value in psnr.items() if step > start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("start", 800), ("steps", 1600), ("every", 50), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", default="runs/start")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        for schedule in ("original", "modern"):
            workdir = Path(given.out, f"{schedule}_{seed}")
            train_vqgan.train_and_evaluate(experiment(schedule, seed, given), str(workdir))
            psnr = psnr_by_step(workdir)
            rows.append({"schedule": schedule, "seed": seed, "fall": fall(psnr, given.start), "psnr": psnr})
            print(json.dumps(rows[-1]), flush=True)
    for row in rows:
        print(f"{row['schedule']:10s} seed {row['seed']}: falls by {row['fall']:.2f} dB")


if __name__ == "__main__":
    main()
