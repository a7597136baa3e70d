"""The first stage as an object: images to ids and back, whatever their number and size."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from taming_jax import sharding
from taming_jax.checkpoint import Saved
from taming_jax.models.vqgan import VQGAN, VQGANConfig, network_input
from taming_jax.trained import tiles
from taming_jax.trained.described import described
from taming_jax.trained.pretrained import save_pretrained


class FirstStage:
    """A trained VQGAN: images to ids and back. `model` is the Flax module, `params` its parameters, `saved` the
    checkpoint that it was loaded from."""

    saved: Saved | None = None

    def __init__(self, model: VQGAN, params: Any, mesh: jax.sharding.Mesh | None = None):
        self.model, self.mesh = model, mesh or sharding.make_mesh()
        self.params = sharding.place(params, self.mesh)
        whole = sharding.replicated(self.mesh)  # so that every process can read all of the result

        def encode(params: Any, batch: Mapping[str, Array]) -> Int[Array, "b h w"]:
            return model.apply({"params": params}, network_input(model.config, batch), method="encode_ids")

        def decode(params: Any, batch: Mapping[str, Array]) -> Float[Array, "b H W c"]:
            return model.apply({"params": params}, batch["ids"], method="decode_ids")

        self._encode = jax.jit(encode, out_shardings=whole)
        self._decode = jax.jit(decode, out_shardings=whole)

    def __repr__(self) -> str:
        config = self.config
        codes = f"{config.n_codes} codes ({config.quantizer}), one for {config.factor} x {config.factor} pixels"
        return described(self, [f"{config.content} of {config.in_channels} channel(s)", codes])

    @property
    def config(self) -> VQGANConfig:
        return self.model.config

    def encode(self, images: Any) -> Int[Array, "b h w"]:
        """What the model reads -> int32 (b, h, w): images float32 (b, H, W, 3) in [-1, 1]; label maps int (b, H, W);
        depth or edges float32 (b, H, W) in [-1, 1]. Raises ValueError for another shape or range."""
        config = self.config
        batch = {config.content: config.reads.check(images, config.in_channels, config.content)}
        try:
            config.grid(*batch[config.content].shape[1:3])
        except ValueError as error:
            here = f"{__name__}.{pad_to_multiple.__name__}"
            raise ValueError(f"{error}, or continue it by reflection: {here}(images, {config.factor})") from error
        return sharding.in_shares(self._encode, self.params, batch, self.mesh)

    def decode(self, ids: Any) -> Float[Array, "b H W c"]:
        """int32 (b, h, w) -> float32 (b, H, W, c), about [-1, 1]; logits of the labels from a first stage of label
        maps. Where memory does not allow it at once, image by image or in overlapping tiles, with a note in the log.
        Raises ValueError for ids that are not codes."""
        ids = check_ids(ids, self.config.n_codes)
        free, shares = tiles.free_bytes(self.mesh.local_devices[0]), sharding.batch_shares(self.mesh)
        tile = tiles.fitting_tile(self.config, ids.shape[1:], free)
        if tile:
            images, seam = self.decode_tiles(ids, tile)
            logging.info(
                "Decoded in tiles of %d x %d codes, since the whole takes about %.1f GiB of memory and there are %.1f; "
                "where tiles meet they differ by %.4f on average, in a range of 2.",
                *(*tile, tiles.decode_bytes(self.config, ids.shape[1:]) / 2**30, free / 2**30, seam),
            )
            return images
        at_once = shares * max(1, free // tiles.decode_bytes(self.config, ids.shape[1:]))
        return self._decode_in_parts(ids, at_once)

    def decode_tiles(
        self, ids: Any, tile: tuple[int, int], overlap: int | None = None
    ) -> tuple[Float[Array, "b H W c"], float]:
        """`decode` in tiles of (h, w) codes that share `overlap` codes with their neighbours, default a quarter ->
        (images, mean absolute difference of the tiles where they meet, in a range of 2)."""
        ids = check_ids(ids, self.config.n_codes)
        tile = min(tile[0], ids.shape[1]), min(tile[1], ids.shape[2])
        overlap = min(tile) // 4 if overlap is None else overlap
        decode = lambda part: self._decode_in_parts(part, sharding.batch_shares(self.mesh))
        images, seam = tiles.decode_tiles(decode, ids, self.config.factor, tile, overlap)
        return jnp.asarray(images), seam

    def _decode_in_parts(self, ids: Int[np.ndarray, "b h w"], at_once: int) -> Float[Array, "b H W c"]:
        """`decode` of at most `at_once` images at a time, every part of one size."""
        parts = [ids[first : first + at_once] for first in range(0, len(ids), at_once)]
        full = [np.resize(part, (min(at_once, len(ids)), *ids.shape[1:])) for part in parts]
        decoded = [
            sharding.in_shares(self._decode, self.params, {"ids": whole}, self.mesh)[: len(part)]
            for whole, part in zip(full, parts)
        ]
        return jnp.concatenate(decoded) if len(decoded) > 1 else decoded[0]

    def reconstruct(self, images: Any) -> Float[Array, "b H W c"]:
        """Encode and decode: what the codes keep of the images, of any size.

        Where the factor does not divide a side, the images are continued by reflection at the bottom and on the right,
        and what is decoded of that is cut off.
        """
        config = self.config
        images = config.reads.check(images, config.in_channels, config.content)
        height, width = images.shape[1:3]
        return self.decode(self.encode(pad_to_multiple(images, config.factor)))[:, :height, :width]

    def save_pretrained(self, folder: str | Path, **card: Any) -> None:
        """Write the model as hubs keep it: config.json, model.safetensors and a model card,
        README.md; `taming_jax.load` opens it. card: licence, data, metrics, words, see `pretrained.save_pretrained`.
        Raises ValueError where the folder holds something already, or the model was not loaded."""
        save_pretrained(folder, {"": (self.params, self.saved)}, **card)


def pad_to_multiple(images: np.ndarray, factor: int) -> np.ndarray:
    """(b, H, W, ...) -> sides that `factor` divides, the rest by reflection, as often as it takes."""
    more = [(0, 0), *((0, -side % factor) for side in images.shape[1:3])]
    return np.pad(images, more + [(0, 0)] * (images.ndim - 3), mode="reflect")


def check_ids(ids: Any, n_codes: int) -> Int[np.ndarray, "b h w"]:
    ids = np.asarray(ids)
    if ids.ndim != 3 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids have shape {ids.shape} and type {ids.dtype}; expected integers (b, h, w).")
    if ids.size and (ids.min() < 0 or ids.max() >= n_codes):
        raise ValueError(f"ids reach from {ids.min()} to {ids.max()}; this first stage has codes 0..{n_codes - 1}.")
    return ids.astype(np.int32)
