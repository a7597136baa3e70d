"""Find the codes that a data set uses, so that a transformer can do with a smaller vocabulary.

python -m taming_jax.codes_used --workdir=runs/vqgan --out=used.npy [--source=folder --path=PHOTOS] [--min_count=1]

The list is for `--config.remap=used.npy` of train_transformer.py.
"""

import argparse
import io
import os
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from taming_jax import files, sharding
from taming_jax.checkpoint import open_saved
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig, Needs
from taming_jax.models.vqgan import network_input
from taming_jax.nn.codes import count_codes
from taming_jax.settings import from_dict
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.loading import load_first_stage


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


def _writable(path: str) -> epath.Path:
    """The file that np.save would make of the name. Raises ValueError where nothing can be written there, before
    counting, which may take hours."""
    out = epath.Path(path if path.endswith(".npy") else f"{path}.npy")
    attempt = files.unfinished(out)
    try:
        if out.is_dir():
            raise IsADirectoryError("it is a folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        attempt.write_bytes(b"")
        attempt.unlink()
    except Exception as error:  # each kind of bucket has its own
        raise ValueError(f"--out={path}: {str(out)!r} cannot be written ({error}); choose another") from error
    return out


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
    try:
        if given.batches is not None and given.batches < 1:
            raise ValueError(f"--batches={given.batches}, but it must be at least 1; leave it out for an epoch")
        out = _writable(given.out)
        saved = open_saved(given.workdir)
        stage, data = load_first_stage(given.workdir, step=saved.step), dict(saved.config.get("data", {}))
        data |= {name: value for name in ("source", "path") if (value := getattr(given, name)) is not None}
        if not (saved.trained_here or given.source):
            raise ValueError(f"{given.workdir!r} was not trained here; say with --source and --path what to look at.")
        counts = count(stage, from_dict(DataConfig, data, "config.data"), given.batches)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {files.printable(str(error))}\n")
    used = np.flatnonzero(counts >= given.min_count).astype(np.int32)
    if not len(used):
        parser.exit(1, f"error: no code occurs {given.min_count} times\n")
    if jax.process_index() == 0:
        content = io.BytesIO()
        np.save(content, used)
        files.write_whole(out, content.getvalue())
        share = counts[used].sum() / counts.sum()
        print(f"{len(used)} of {len(counts)} codes, {share:.2%} of all tokens, written to {out}")


if __name__ == "__main__":
    main()
