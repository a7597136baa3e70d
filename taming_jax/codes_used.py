"""Find the codes that a data set uses, so that a transformer can do with a smaller vocabulary.

python -m taming_jax.codes_used --workdir=runs/vqgan --out=used.npy [--source=folder --path=PHOTOS] [--min_count=1]

The list is for `--config.remap=used.npy` of train_transformer.py, with this first stage and no other.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from taming_jax.stopping import listen

    listen()

import argparse
import os
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from taming_jax import sharding, stopping
from taming_jax.checkpoint import open_saved
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig, Needs
from taming_jax.models.vqgan import network_input
from taming_jax.nn.codes import count_codes
from taming_jax.outputs import check_outputs
from taming_jax.program import readable_errors, run_to_its_end
from taming_jax.settings import from_dict
from taming_jax.trained.fingerprint import codes_digest
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.loading import load_first_stage
from taming_jax.trained.stages import read_list, write_list


def count(stage: FirstStage, data: DataConfig, batches: int | None = None) -> np.ndarray:
    """How often each code occurs in `batches` training batches (None: an epoch of them): int64 (n_embed,)."""
    config, needs = stage.config, Needs(stage.config.reads.annotations)

    def of_batch(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        ids = stage.model.apply({"params": params}, network_input(config, batch), method="encode").ids
        return count_codes(ids, config.n_embed)

    of_batch = jax.jit(of_batch, out_shardings=sharding.replicated(stage.mesh))
    if batches is None:
        batches = -(-pipeline.num_examples(data, "train", needs) // data.batch_size)
    stream = pipeline.make_batches(data, "train", needs=needs, **sharding.this_process(stage.mesh))
    counts = np.zeros(config.n_embed, np.int64)
    for _ in tqdm(range(batches), unit="batch"):
        counts += np.asarray(of_batch(stage.params, sharding.put_batch(next(stream), stage.mesh))).astype(np.int64)
    return counts


def _writable(path: str, data: str | None) -> epath.Path:
    """The file that np.save makes of the name. Raises ValueError where that cannot be written, before counting, which
    may take hours."""
    out = epath.Path(path if path.endswith(".npy") else f"{path}.npy")
    check_outputs(f"--out={path}", {out: _is_list}, [data or ""])
    return out


def _is_list(path: epath.Path) -> bool:
    """Whether a file holds a list of codes."""
    try:
        read_list(str(path))
    except ValueError:
        return False
    return True


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m taming_jax.codes_used", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=os.path.expanduser, required=True, help="working directory of a first stage")
    parser.add_argument(
        "--out", type=os.path.expanduser, required=True, help="the .npy file to write, on disk or in a bucket"
    )
    parser.add_argument("--source", help="data source; default: what the first stage was trained on")
    parser.add_argument("--path", type=os.path.expanduser, help="where the data is; default: as in training")
    parser.add_argument("--batches", type=int, help="how many to look at; default: an epoch")
    parser.add_argument("--min_count", type=int, default=1, help="codes that occur less often are left out")
    given = parser.parse_args(arguments)
    with readable_errors(), stopping.telling(lambda: "no list is written"):
        if given.batches is not None and given.batches < 1:
            raise ValueError(f"--batches={given.batches}, but it must be at least 1; leave it out for an epoch")
        out = _writable(given.out, given.path)
        saved = open_saved(given.workdir)
        stage, data = load_first_stage(given.workdir, step=saved.step), dict(saved.config.get("data", {}))
        data |= {name: value for name in ("source", "path") if (value := getattr(given, name)) is not None}
        if not (saved.trained_here or given.source):
            raise ValueError(f"{given.workdir!r} was not trained here; say with --source and --path what to look at.")
        counts = count(stage, from_dict(DataConfig, data, "config.data"), given.batches)
    used = np.flatnonzero(counts >= given.min_count).astype(np.int32)
    if not len(used):
        parser.exit(1, f"error: no code occurs {given.min_count} times\n")
    if jax.process_index() == 0:
        share = counts[used].sum() / counts.sum()
        print(f"{len(used)} of {len(counts)} codes, {share:.2%} of all tokens", flush=True)
        try:
            write_list(out, used, codes_digest(saved.load_params()))
        except OSError as error:
            parser.exit(1, f"error: {error}\n")
        print(f"Written to {out}")


if __name__ == "__main__":
    run_to_its_end(main)
