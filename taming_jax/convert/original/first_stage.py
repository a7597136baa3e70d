"""The original's configuration of a first stage, with its loss and discriminator, as one of this project."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taming_jax.convert.original.names import StageNetworks
from taming_jax.convert.yaml_node import Node
from taming_jax.models.discriminator import DiscriminatorConfig
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.settings import from_dict, to_dict

CLASSES = ("VQModel", "VQNoDiscModel", "VQSegmentationModel", "GumbelVQ")  # of the original, that are first stages
LDM_CLASSES = ("VQModel", "VQModelInterface")  # of latent-diffusion; the second only leaves the codes to the decoder
# What the original's names for a batch entry, chosen by whoever wrote its data set, mean here as a condition ...
CONDITION_KEYS = {
    "segmentation": "segmentation",
    "depth": "depth",
    "image": "image",
    **dict.fromkeys(("edge", "edges", "canny"), "edges"),
    **dict.fromkeys(("LR", "lr", "LR_image", "lr_image", "low_res"), "low_res"),
    **dict.fromkeys(("keypoints", "stickman", "pose"), "pose"),
}
# ... and as what a first stage reads, for which a small image is an image.
CONTENT_KEYS = {"image": "image"} | {
    key: "image" if kind == "low_res" else kind for key, kind in CONDITION_KEYS.items()
}


@dataclass(frozen=True)
class ConvertedStage:
    """networks: as they are in the checkpoint; saved: the whole configuration of this project, for the JSON."""

    networks: StageNetworks
    saved: dict[str, Any]

    @property
    def config(self) -> VQGANConfig:
        return self.networks.config


def first_stage(
    kind: str,
    params: Node,
    state: Mapping[str, np.ndarray],
    prefix: str,
    rate: float,
    hint: int,
    condition: str = "",
) -> ConvertedStage:
    """kind: the original's class. prefix: of its arrays in `state`. hint: side of the training images, 0 where unknown.
    condition: the kind of condition that it reads, which tells what is in its maps better than the original's defaults.
    """
    if kind == "EMAVQ":
        raise ValueError(f"{params.where}: EMAVQ is not supported; it cannot be constructed in the original either")
    ldm = params.program == "ldm"
    if ldm and kind == "AutoencoderKL":
        raise ValueError(
            f"{params.where}: AutoencoderKL is not supported: its latents are continuous and have no codes"
        )
    if kind not in (LDM_CLASSES if ldm else CLASSES):
        known = "VQModel, GumbelVQ, VQSegmentationModel, VQNoDiscModel, Net2NetTransformer, GPT"
        known = ", ".join(LDM_CLASSES) if ldm else known
        raise ValueError(f"{params.where}: the class {kind} is not supported; known: {known}")
    values = _network(Node(params.take("ddconfig"), f"{params.where}.ddconfig", params.notes), ldm)
    values |= {name: params.take(name, kind=int) for name in ("embed_dim", "n_embed")}
    loss: dict[str, Any] = {}
    if kind == "GumbelVQ":
        loss |= _temperature(*params.part("temperature_scheduler_config"))
        values |= {"quantizer": "gumbel", "kl_weight": params.take("kl_weight", 1e-8, float)}
        if values["embed_dim"] != values["z_channels"]:
            raise ValueError(
                f"{params.where}: GumbelVQ needs embed_dim equal to z_channels, here {values['embed_dim']} and "
                f"{values['z_channels']}; the original cannot run this either"
            )
    values["content"] = _content(kind, params, values["in_channels"], condition)
    colours = params.take("colorize_nlabels", 0)
    if values["content"] == "segmentation":
        colours = values["in_channels"]
    colours = _fit_colours(colours, params.where)
    values["remap"] = _remap(params, state, prefix)
    values["unknown"] = str(params.take("unknown_index", "random"))
    params.leave("sane_index_shape", "ids always have the shape of the grid here")
    params.leave("ckpt_path", "the weights are in the checkpoint")
    params.leave("ignore_keys", "the weights are in the checkpoint")
    params.leave("monitor", "the best checkpoint is chosen by config.train.monitor")
    if ldm:
        params.leave("batch_resize_range", "sizes of the training's crops")
        params.leave("scheduler_config", "the learning rate's schedule")
        params.leave("lr_g_factor", "a factor of the generator's learning rate")
        params.leave("use_ema", "whether its training kept averages")
    losses, stated = _loss(*params.part("lossconfig"), values["content"])
    params.close()

    config = from_dict(VQGANConfig, values, params.where)
    found = _discriminator_of(state, f"{prefix}loss.discriminator.main.")
    discriminator = stated if found else None
    if found and not stated:
        discriminator = found
        params.notes.append(f"{params.where}.lossconfig names no discriminator, but the checkpoint holds one: kept")
    elif stated and not found:
        params.notes.append("the checkpoint holds no discriminator: a fine-tuning starts a new one")
    saved = {
        "kind": "vqgan",
        "model": to_dict(config),
        "discriminator": to_dict(discriminator or stated or DiscriminatorConfig(in_channels=config.in_channels)),
        "loss": loss | losses,
        "data": {"size": hint or config.resolution},
        "optimizer": {"learning_rate": rate, "per_sample": True, "b1": 0.5, "b2": 0.9},
    }
    return ConvertedStage(StageNetworks(config, discriminator, colours), saved)


def _fit_colours(value: Any, where: str) -> int:
    """How many labels the original would colour, in pictures of label maps that are never made of images."""
    if value is None or value is False:
        return 0
    if not isinstance(value, int) or not 0 <= value <= 1 << 16:
        raise ValueError(f"{where}.colorize_nlabels={value!r}, but it must be a number of labels")
    return int(value)


def _network(node: Node, ldm: bool = False) -> dict[str, Any]:
    """`ddconfig`, which encoder and decoder share; in latent-diffusion attention may be left out."""
    node.must("double_z", False, True, "the code has z_channels channels")
    node.must("resamp_with_conv", True, True, "re-sampling always has its convolution")
    for key in ("give_pre_end", "tanh_out", "use_linear_attn"):
        node.must(key, False, False, "only forks of the original know it")
    without = ldm and node.values.get("attn_type") == "none"
    if without:
        node.take("attn_type")
    else:
        why = "its linear attention is not known here" if ldm else "only forks of the original know it"
        node.must("attn_type", "vanilla", "vanilla", why)
    values: dict[str, Any] = {
        "attention": "none" if without else "vanilla",
        "out_channels": node.take("out_ch", kind=int),
        "ch_mult": node.take("ch_mult", [1, 2, 4, 8], list),
        "attn_resolutions": node.take("attn_resolutions", kind=list),
        "dropout": node.take("dropout", 0.0, float),
    }
    for key in ("ch", "num_res_blocks", "in_channels", "resolution", "z_channels"):
        values[key] = node.take(key, kind=int)
    node.close()
    return values


def _content(kind: str, params: Node, channels: int, condition: str) -> str:
    """What the network reads: a name in `models.content.CONTENTS`."""
    key = params.take("image_key", "image", str)
    labels = params.take("n_labels", kind=int) if kind == "VQSegmentationModel" else channels
    if labels != channels:
        raise ValueError(f"{params.where}.n_labels={labels} differs from ddconfig.in_channels={channels}")
    if kind == "VQSegmentationModel" or condition == "segmentation":
        return "segmentation"
    key = condition or key
    if key not in CONTENT_KEYS:
        if channels != 3:
            raise ValueError(f"{params.where}.image_key={key!r} is unknown; known: {', '.join(CONTENT_KEYS)}")
        params.notes.append(f"{params.where}.image_key={key!r} with three channels: taken for images")
        return "image"
    content = CONTENT_KEYS[key]
    if content in ("depth", "edges") and channels == 3:
        return "image"
    if content == "image" and channels == 1:
        params.notes.append(f"{params.where}.ddconfig.in_channels=1: taken for maps of depth")
        return "depth"
    return content


def _remap(params: Node, state: Mapping[str, np.ndarray], prefix: str) -> list[int]:
    """The codes in use: the configuration names a file of them, and the checkpoint holds them."""
    if params.take("remap", None) is None:
        return []
    name = f"{prefix}quantize.used"
    if name not in state:
        raise ValueError(f"{params.where}.remap is set, but the checkpoint lacks {name}")
    return [int(code) for code in state[name]]


def _temperature(kind: str, node: Node) -> dict[str, Any]:
    if kind != "LambdaWarmUpCosineScheduler":
        raise ValueError(f"{node.where}: the temperature schedule {kind} is not supported")
    names = {"start": "lr_start", "max": "lr_max", "min": "lr_min"}
    values: dict[str, Any] = {f"temperature_{ours}": node.take(key, kind=float) for ours, key in names.items()}
    values["temperature_warmup"] = node.take("warm_up_steps", kind=int)
    values["temperature_steps"] = node.take("max_decay_steps", kind=int)
    node.leave("verbosity_interval", "how often the original prints it")
    node.close()
    return values


def _loss(kind: str, node: Node, content: str) -> tuple[dict[str, Any], DiscriminatorConfig | None]:
    """(settings of the loss, the discriminator that the configuration names)."""
    discriminator = None
    without = {"perceptual_weight": 0.0, "disc_weight": 0.0}
    if kind in ("DummyLoss", "Identity"):
        node.notes.append(f"{node.where.removesuffix('.params')} is none: a fine-tuning uses this project's defaults")
        loss: dict[str, Any] = without if content == "segmentation" else {}
    elif kind == "BCELossWithQuant":
        loss = {"codebook_weight": node.take("codebook_weight", 1.0, float), **without}
    elif kind == "VQLPIPS":
        loss = _reconstruction_loss(node) | {"disc_weight": 0.0}
    elif kind == "VQLPIPSWithDiscriminator":
        loss = _reconstruction_loss(node)
        discriminator = DiscriminatorConfig(
            in_channels=node.take("disc_in_channels", 3, int),
            ndf=node.take("disc_ndf", 64, int),
            n_layers=node.take("disc_num_layers", 3, int),
            norm="actnorm" if node.take("use_actnorm", False, bool) else "batch",
        )
        factor = node.take("disc_factor", 1.0, float)
        if factor != 1:
            node.notes.append(f"{node.where}.disc_factor={factor}: multiplied into disc_weight")
        node.must("disc_conditional", False, False, "the discriminator sees images alone")
        loss["disc_weight"] = factor * node.take("disc_weight", 1.0, float)
        loss["disc_loss"] = node.take("disc_loss", "hinge", str)
        loss["disc_start"] = node.take("disc_start", kind=int)
        if node.program == "ldm":
            node.must("perceptual_loss", "lpips", "lpips", "no other is known here")
            node.must("pixel_loss", "l1", "l1", "no other is known here")
            node.leave("n_classes", "its loss only measures with it")
    else:
        known = "VQLPIPSWithDiscriminator, VQLPIPS, BCELossWithQuant, DummyLoss"
        raise ValueError(f"{node.where}: the loss {kind} is not supported; known: {known}")
    node.close()
    if kind not in ("DummyLoss", "Identity") and (kind == "BCELossWithQuant") != (content == "segmentation"):
        raise ValueError(f"{node.where}: the loss {kind} is not supported for a first stage that reads {content}")
    return loss, discriminator


def _reconstruction_loss(node: Node) -> dict[str, Any]:
    weight = node.take("pixelloss_weight", 1.0, float)
    if weight != 1:
        node.notes.append(
            f"{node.where}.pixelloss_weight={weight}: the original does not heed it, so pixel_weight is 1 here"
        )
    return {
        "codebook_weight": node.take("codebook_weight", 1.0, float),
        "pixel_weight": 1.0,
        "perceptual_weight": node.take("perceptual_weight", 1.0, float),
    }


def _discriminator_of(state: Mapping[str, np.ndarray], prefix: str) -> DiscriminatorConfig | None:
    """The settings of the discriminator in a checkpoint, by the shapes of its arrays."""
    found = {name.removeprefix(prefix): array.shape for name, array in state.items() if name.startswith(prefix)}
    first = found.get("0.weight", ())
    convolutions = sum(len(shape) == 4 and name.endswith(".weight") for name, shape in found.items())
    if len(first) != 4 or convolutions < 3:
        return None
    actnorm = any(name.endswith(".loc") for name in found)
    config = DiscriminatorConfig(in_channels=first[1], ndf=first[0], n_layers=convolutions - 2)
    return replace(config, norm="actnorm") if actnorm else config
