"""Writing loaded models in the form that hubs of models keep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taming_jax.checkpoint import Saved
from taming_jax.checkpoint.portable import Card, known_dtype, write_card, write_portable
from taming_jax.files import whole


def save_pretrained(
    folder: str | Path,
    parts: Mapping[str, tuple[Any, Saved | None]],
    *,
    licence: str = "",
    data: str = "",
    metrics: Mapping[str, float] | None = None,
    words: str = "",
    dtype: str = "float32",
) -> None:
    """Write config.json, model.safetensors and a model card README.md into a new folder, which is whole or not there.

    parts: folder within it -> (parameters, the checkpoint that they were loaded from), "" being the model itself.
    licence: its name on the hub, such as "mit". data: what it was trained on, default what its settings say. metrics:
    figures by their names, default those that its checkpoint was saved with. words: more for the card. dtype: in
    which they are stored, float32, or float16 or bfloat16, in half the size; they are loaded as float32.
    Raises ValueError for another dtype, where the folder holds something already, where the model was not loaded from a
    checkpoint, and where its parameters are beyond float16.
    """
    dtype = known_dtype(dtype)
    out = Path(folder).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds something already; name a new folder.")
    for name, (_, saved) in parts.items():
        if saved is None:
            raise ValueError(f"{name or 'this model'} was not loaded from a checkpoint, so its settings are not known.")
    own = parts[""][1]
    assert own is not None
    card = Card(licence, data, own.metrics() if metrics is None else metrics, words)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as unfinished:
        for name, (params, saved) in parts.items():
            assert saved is not None
            write_portable(unfinished / name, params, saved.config, dtype)
        write_card(unfinished, out.name, own.config, card)
        if out.exists():
            out.rmdir()
