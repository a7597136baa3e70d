"""A saved configuration of this project as the original's project.yaml: the reverse of settings.py."""

from collections.abc import Mapping
from typing import Any

from taming_jax.conditioning import KINDS, ConditionConfig
from taming_jax.convert.original.condition import OBJECTS
from taming_jax.convert.original.names import Networks, StageNetworks
from taming_jax.convert.original.settings import PERMUTERS
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.settings import from_dict

# The original's name of a condition, where there is no class of its own.
CONDITION_KEYS = {"low_res": "LR", "pose": "keypoints"}


def project_of(
    networks: Networks,
    configs: Mapping[str, Mapping[str, Any]],
    remaps: Mapping[str, str],
    notes: list[str],
    ldm: bool = False,
) -> dict[str, Any]:
    """configs: the saved configurations by folder, "" being the model's own. remaps: folder -> the file with its remap.
    ldm: as latent-diffusion has it, whose first stages are the original's with a few more settings.

    Raises ValueError for what the original cannot do; `notes` collects what it does differently in training.
    """
    if networks.first_stage is None:
        assert networks.transformer is not None
        return {"transformer_config": _gpt(networks.transformer)}
    own = configs[""]
    if networks.transformer is None:
        body = _first_stage(networks.first_stage, own, remaps.get("", ""), notes)
        if ldm:
            body = _as_ldm(networks.first_stage, own, body)
        elif networks.first_stage.config.attention == "none":
            raise ValueError("attention='none', but the original always attends; --format latent-diffusion knows it")
    else:
        body = _two_stage(networks, configs, remaps, notes)
    rate = own.get("optimizer", {}).get("learning_rate", 4.5e-6)
    project = {"model": {"base_learning_rate": rate, **body}}
    condition = own.get("condition", {})
    data = {"size": _square(own, networks, notes)}
    if condition.get("kind") in OBJECTS.values():
        data = {"target_image_size": data["size"], "no_tokens": condition["n_codes"]}
        data |= {"max_objects_per_image": condition["max_objects"], "encode_crop": condition["encode_crop"]}
        data |= {"use_group_parameter": condition["group_flag"], "use_additional_parameters": condition["more_flags"]}
    project["data"] = {"target": "main.DataModuleFromConfig", "params": {"train": {"params": data}}}
    return project


def _square(own: Mapping[str, Any], networks: Networks, notes: list[str]) -> int:
    """The side of the training images. Raises ValueError where the sequences are those of rectangles."""
    assert networks.first_stage is not None
    resolution = networks.first_stage.config.resolution
    size = own.get("data", {}).get("size", resolution)
    if isinstance(size, int):
        return size
    if networks.transformer is not None:
        raise ValueError(f"data.size={tuple(size)}: the original's second stages are of squares alone")
    notes.append(f"data.size={tuple(size)} has no place in the original, which trains on squares: size={resolution}")
    return resolution


def _two_stage(
    networks: Networks, configs: Mapping[str, Mapping[str, Any]], remaps: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:
    own = configs[""]
    assert networks.first_stage is not None and networks.transformer is not None
    params: dict[str, Any] = {
        "transformer_config": _gpt(networks.transformer),
        "first_stage_config": _first_stage(
            networks.first_stage, configs["first_stage"], remaps.get("first_stage", ""), notes
        ),
        "pkeep": own["pkeep"],
    }
    condition = from_dict(ConditionConfig, own["condition"], "config.condition")
    kind = condition.kind
    if condition.class_names:
        notes.append("class names have no place in the original and are left out")
    if condition.n_classes and kind in KINDS:
        raise ValueError("config.condition.n_classes: the original has no maps with a class beside them")
    if kind == "none":
        params |= {"cond_stage_key": "image", "cond_stage_config": "__is_unconditional__", "unconditional": True}
    elif kind == "class_label":
        target = "taming.modules.util.Labelator"
        params |= {"cond_stage_key": kind, "cond_stage_config": _part(target, n_classes=condition.n_classes)}
    elif kind == "coordinate":
        target, values = "taming.modules.misc.coord.CoordStage", {"n_embed": condition.n_codes}
        values["down_factor"] = condition.factor
        params |= {"cond_stage_key": "coord", "cond_stage_config": _part(target, **values)}
    elif kind in OBJECTS.values():
        key = next(theirs for theirs, ours in OBJECTS.items() if ours == kind)
        target = "taming.models.dummy_cond_stage.DummyCondStage"
        params |= {"cond_stage_key": key, "cond_stage_config": _part(target, conditional_key=key)}
    else:
        stage: Any = "__is_first_stage__"
        if networks.condition_stage is not None:
            remap = remaps.get("condition_stage", "")
            stage = _first_stage(networks.condition_stage, configs["condition_stage"], remap, notes)
        params |= {"cond_stage_key": CONDITION_KEYS.get(kind, kind), "cond_stage_config": stage}
        if condition.size:
            params["downsample_cond_size"] = condition.size
    if networks.order != "row_major":
        name = next(theirs for theirs, ours in PERMUTERS.items() if ours == networks.order)
        height, width = networks.grid
        params["permuter_config"] = _part(f"taming.modules.transformer.permuter.{name}", H=height, W=width)
    return _part("taming.models.cond_transformer.Net2NetTransformer", **params)


def _gpt(config: GPTConfig) -> dict[str, Any]:
    names: tuple[str, ...] = ("norm", "mlp", "bias", "positions", "qk_norm", "condition_table", "factors")
    later = {name: getattr(config, name) for name in names}
    changed = [f"{name}={value!r}" for name, value in later.items() if value != getattr(GPTConfig, name)]
    if changed or config.kv_heads not in (0, config.n_head):
        raise ValueError(f"transformer: {', '.join(changed) or 'kv_heads'} is unknown to the original")
    names = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_unmasked")
    values = {name: getattr(config, name) for name in names}
    for name, ours in (("embd_pdrop", "embedding"), ("resid_pdrop", "residual"), ("attn_pdrop", "attention")):
        values[name] = getattr(config, f"{ours}_dropout")
    return _part("taming.modules.transformer.mingpt.GPT", **values)


def _first_stage(stage: StageNetworks, saved: Mapping[str, Any], remap: str, notes: list[str]) -> dict[str, Any]:
    config = stage.config.settled
    if config.quantizer == "normalized":
        raise ValueError("quantizer='normalized': the original has no codes of length 1; --format llamagen knows them")
    if config.quantizer not in ("vq", "ema", "gumbel"):
        raise ValueError(f"quantizer={config.quantizer!r}: the original has none of this kind and cannot load this")
    if config.norm_groups != 32:
        raise ValueError(f"norm_groups={config.norm_groups}, but the original always has 32 and cannot load this")
    if config.remap and config.unknown != "random":
        raise ValueError(f"unknown={config.unknown!r}, but the original sends unknown codes to random ones only")
    if config.quantizer == "ema":
        notes.append("the moving-average codebook becomes a plain one: the original would train it by gradient")
    elif config.quantizer == "vq" and (config.beta, config.legacy_beta) != (0.25, True):
        notes.append(f"beta={config.beta}, legacy_beta={config.legacy_beta}: the original trains with 0.25 and legacy")
    network = {
        "double_z": False,
        "z_channels": config.z_channels,
        "resolution": config.resolution,
        "in_channels": config.in_channels,
        "out_ch": config.out_channels,
        "ch": config.ch,
        "ch_mult": list(config.ch_mult),
        "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": list(config.attn_resolutions),
        "dropout": config.dropout,
    }
    values: dict[str, Any] = {"embed_dim": config.embed_dim, "n_embed": config.n_embed, "ddconfig": network}
    loss = saved.get("loss", {})
    values["lossconfig"] = _loss(stage, loss)
    values |= {"remap": remap} if remap else {}
    if stage.colours and config.content != "segmentation":
        values["colorize_nlabels"] = stage.colours
    if config.quantizer == "gumbel":
        values |= {"kl_weight": config.kl_weight, "temperature_scheduler_config": _temperature(loss)}
        return _part("taming.models.vqgan.GumbelVQ", **_keyed(config, values))
    if config.content == "segmentation":
        values |= {"n_labels": config.in_channels, "image_key": "segmentation"}
        return _part("taming.models.vqgan.VQSegmentationModel", **values)
    return _part("taming.models.vqgan.VQModel", **_keyed(config, values))


def _as_ldm(stage: StageNetworks, own: Mapping[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """A first stage of the original as latent-diffusion's. Raises ValueError for what is none there."""
    kind = body["target"].rsplit(".", 1)[1]
    if kind != "VQModel":
        raise ValueError(f"latent-diffusion has no {kind}; export with --format original")
    params = body["params"]
    if stage.config.attention == "none":
        params["ddconfig"]["attn_type"] = "none"
    loss = params["lossconfig"]
    name = loss["target"].rsplit(".", 1)[1]
    if name == "DummyLoss":
        params["lossconfig"] = {"target": "torch.nn.Identity"}
    else:
        params["lossconfig"] = {**loss, "target": f"ldm.modules.losses.vqperceptual.{name}"}
    made = own.get("original", {}).get("class", "VQModel")
    return {"target": f"ldm.models.autoencoder.{made}", "params": params}


def _keyed(config: VQGANConfig, values: dict[str, Any]) -> dict[str, Any]:
    if config.content == "image":
        return values
    return {**values, "image_key": CONDITION_KEYS.get(config.content, config.content)}


def _loss(stage: StageNetworks, loss: Mapping[str, Any]) -> dict[str, Any]:
    disc = stage.discriminator
    if disc is not None:
        if disc.spectral or disc.norm == "none":
            raise ValueError(
                f"discriminator.norm={disc.norm!r}, spectral={disc.spectral}: the original's has batch or actnorm alone"
            )
        names = {"codebook_weight": "codebook_weight", "perceptual_weight": "perceptual_weight"}
        names |= {name: name for name in ("disc_weight", "disc_loss")}
        values = {theirs: loss[ours] for theirs, ours in names.items() if ours in loss}
        if loss.get("disc_loss") == "non_saturating":
            values["disc_loss"] = "vanilla"  # which it is, but for the generator
        values |= {"disc_start": loss.get("disc_start", 0), "disc_in_channels": disc.in_channels, "disc_ndf": disc.ndf}
        values |= {"disc_num_layers": disc.n_layers, "use_actnorm": disc.norm == "actnorm", "disc_conditional": False}
        return _part("taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator", **values)
    if stage.config.content == "segmentation" and "codebook_weight" in loss:
        target = "taming.modules.losses.segmentation.BCELossWithQuant"
        return _part(target, codebook_weight=loss["codebook_weight"])
    return {"target": "taming.modules.losses.DummyLoss"}


def _temperature(loss: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {"start": 1.0, "max": 1.0, "min": 1e-6, "warmup": 5000, "steps": 1_000_001}
    found = {name: loss.get(f"temperature_{name}", default) for name, default in defaults.items()}
    values = {"warm_up_steps": found["warmup"], "max_decay_steps": found["steps"]}
    values |= {f"lr_{name}": found[name] for name in ("start", "max", "min")}
    return _part("taming.lr_scheduler.LambdaWarmUpCosineScheduler", **values)


def _part(target: str, **params: Any) -> dict[str, Any]:
    return {"target": target, "params": params}
