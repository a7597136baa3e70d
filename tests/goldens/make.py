"""Makes the golden files of the networks from the original's own files, and checks the recipes of their weights.

    python tests/goldens/make.py ORIGINAL

ORIGINAL is a folder of folders, one for each name in RECIPES, with what the original's PyTorch code wrote: `last.ckpt`,
`expected.npz` and, where it was trained, `after_training.ckpt` and `train_history.json`. The outputs are kept, and of
the weights those that no recipe gives. Prints the largest difference between each recipe and its checkpoint.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from original_weights import RECIPES, State  # noqa: E402

from taming_jax.convert.reader import read_state  # noqa: E402

PASSIVE = re.compile(r"\.mask$|\.num_batches_tracked$")  # what carries nothing
# Which of the weights after training are kept: all of them, or some from each part.
TRAINED = {
    "gpt": re.compile(""),
    "vqgan_f4": re.compile(r"encoder\.conv_in|decoder\.(mid\.attn_1|conv_out)|quantize|quant_conv|loss\."),
}
TOLERANCE = 5e-7  # normal numbers come of logarithms and cosines, which differ in their last bit


def state_of(path: Path) -> State:
    return {name: value for name, value in read_state(path)[0].items() if not PASSIVE.search(name)}


def unmade(name: str, state: State) -> tuple[State, float]:
    """The weights that the recipe does not give, and the largest difference among those that it gives."""
    made = RECIPES[name].weights()
    if unknown := set(made) - set(state):
        raise ValueError(f"the recipe of {name} makes {sorted(unknown)}, which the checkpoint lacks")
    largest = max(float(np.abs(state[key] - value).max()) for key, value in made.items())
    return {key: value for key, value in state.items() if key not in made}, largest


def outputs(name: str, folder: Path) -> State:
    """All that is kept beside weights."""
    arrays = dict(np.load(folder / "expected.npz"))
    if name in TRAINED:
        after = state_of(folder / "after_training.ckpt")
        arrays |= {f"after/{key}": value for key, value in after.items() if TRAINED[name].match(key)}
    if (folder / "train_history.json").exists():
        steps = json.loads((folder / "train_history.json").read_text(encoding="utf-8"))
        arrays |= {f"history/{key}": np.array([step[key] for step in steps], np.float32) for key in steps[0]}
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path)
    original = parser.parse_args().original
    for name in RECIPES:
        rest, largest = unmade(name, state_of(original / name / "last.ckpt"))
        print(f"{name:26} recipe within {largest:.1e}, kept of the weights: {', '.join(rest) or 'nothing'}")
        if largest > TOLERANCE:
            raise ValueError(f"the recipe of {name} does not give its checkpoint's weights")
        kept = outputs(name, original / name) | {f"weight/{key}": value for key, value in rest.items()}
        np.savez_compressed(HERE / f"{name}.npz", **kept)


if __name__ == "__main__":
    main()
