"""The original's project.yaml of each golden, and the parts of which such a file is made."""

from typing import Any

Settings = dict[str, Any]

DUMMY = {"target": "taming.modules.losses.DummyLoss"}


def part(name: str, **params: Any) -> Settings:
    return {"target": f"taming.{name}", "params": params}


def network(**changes: Any) -> Settings:
    values = {"double_z": False, "z_channels": 32, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32}
    values |= {"ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [16], "dropout": 0.0}
    return values | changes


def vq(
    embed_dim: int = 16,
    n_embed: int = 64,
    loss: Settings = DUMMY,
    kind: str = "VQModel",
    dd: Settings | None = None,
    **params: Any,
) -> Settings:
    shared = {"embed_dim": embed_dim, "n_embed": n_embed, "ddconfig": dd or network(), "lossconfig": loss}
    return part(f"models.vqgan.{kind}", **shared, **params)


def adversarial(**changes: Any) -> Settings:
    values = {"disc_conditional": False, "disc_start": 2, "disc_weight": 0.8, "disc_num_layers": 2, "disc_ndf": 16}
    return part("modules.losses.vqperceptual.VQLPIPSWithDiscriminator", **{**values, **changes})


def gpt(**changes: Any) -> Settings:
    values = {"vocab_size": 64, "block_size": 257, "n_layer": 2, "n_head": 4, "n_embd": 64}
    return part("modules.transformer.mingpt.GPT", **{**values, **changes})


def two_stage(first: Settings | None = None, transformer: Settings | None = None, **params: Any) -> Settings:
    defaults = {"cond_stage_key": "image", "cond_stage_config": "__is_unconditional__"}
    stages = {"first_stage_config": first or vq(), "transformer_config": transformer or gpt()}
    return project(part("models.cond_transformer.Net2NetTransformer", **stages, **{**defaults, **params}))


def project(model: Settings, **data: Any) -> Settings:
    return {"model": {"base_learning_rate": 4.5e-06, **model}, **data}


F4 = network(z_channels=64, resolution=64, ch_mult=[1, 2, 2])
LABELS = network(in_channels=12, out_ch=12, ch_mult=[1, 1, 2], attn_resolutions=[8])
GUMBEL = network(z_channels=96, ch_mult=[1, 1, 2], attn_resolutions=[8])
BCE = part("modules.losses.segmentation.BCELossWithQuant")
TEMPERATURE = part(
    "lr_scheduler.LambdaWarmUpCosineScheduler",
    **{"warm_up_steps": 5000, "max_decay_steps": 1000001, "lr_start": 1.0, "lr_max": 1.0, "lr_min": "1e-6"},
)
CLASSES = {"cond_stage_key": "class_label", "cond_stage_config": part("modules.util.Labelator", n_classes=10)}
WIDE = network(resolution=64, ch_mult=[1, 1, 2])
PROJECTS = {
    "vqgan_f4": project(vq(32, 128, adversarial(), dd=F4)),
    "vqgan_gumbel_f4": project(
        vq(96, 128, kind="GumbelVQ", dd=GUMBEL, kl_weight=0.001, temperature_scheduler_config=TEMPERATURE)
    ),
    "vqgan_segmentation_f4": project(vq(loss=BCE, kind="VQSegmentationModel", dd=LABELS, n_labels=12)),
    "gpt_n_unmasked": {"transformer_config": gpt(vocab_size=96, block_size=65, n_unmasked=17)},
    "class_conditional": two_stage(**CLASSES),
    "segmentation_conditional": two_stage(
        vq(dd=WIDE),
        gpt(block_size=512),
        cond_stage_key="segmentation",
        cond_stage_config=vq(
            n_embed=48, kind="VQSegmentationModel", dd={**WIDE, "in_channels": 12, "out_ch": 12}, n_labels=12
        ),
    ),
}
