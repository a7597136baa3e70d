"""The original's project.yaml: what each setting becomes, what is only named, and what is refused."""

import copy

import numpy as np
import pytest
import yaml

from taming_jax.conditioning import ConditionConfig
from taming_jax.convert.original.settings import load_project, translate
from taming_jax.models.discriminator import DiscriminatorConfig
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.settings import from_dict

FIRST_STAGE = """
target: taming.models.vqgan.VQModel
params:
  embed_dim: 256
  n_embed: 1024
  ddconfig: {double_z: false, z_channels: 256, resolution: 256, in_channels: 3, out_ch: 3, ch: 128,
             ch_mult: [1, 1, 2, 2, 4], num_res_blocks: 2, attn_resolutions: [16], dropout: 0.0}
  lossconfig:
    target: taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator
    params: {disc_conditional: false, disc_in_channels: 3, disc_start: 250001, disc_weight: 0.8, codebook_weight: 1.0}
"""
DUMMY = {"target": "taming.modules.losses.DummyLoss"}


def vqgan(loss=None, target="VQModel", dd=None, **params):
    model = yaml.safe_load(FIRST_STAGE)
    model["target"] = f"taming.models.vqgan.{target}"
    model["params"] |= {"lossconfig": loss} if loss else {}
    model["params"]["ddconfig"] |= dd or {}
    model["params"] |= params
    return model


def project(model, **others):
    return {"model": {"base_learning_rate": 4.5e-6, **copy.deepcopy(model)}, **others}


def faces(**params):
    """The published model of faces, with other parameters of its second stage."""
    gpt = {"vocab_size": 1024, "block_size": 512, "n_layer": 24, "n_head": 16, "n_embd": 1024}
    values = {
        "cond_stage_key": "coord",
        "cond_stage_config": part("modules.misc.coord.CoordStage", n_embed=1024, down_factor=16),
        "first_stage_config": vqgan(DUMMY, ckpt_path="logs/last.ckpt"),
        "transformer_config": part("modules.transformer.mingpt.GPT", **gpt),
    }
    return project(part("models.cond_transformer.Net2NetTransformer", **{**values, **params}))


def part(target, **params):
    return {"target": f"taming.{target}", "params": params}


def gpt(**params):
    return part("modules.transformer.mingpt.GPT", **{"vocab_size": 1024, "block_size": 512, **params})


def test_the_published_first_stage():
    plan = translate(project(vqgan(), data={"target": "main.DataModuleFromConfig"}), {})
    config = plan.configs[""]
    assert from_dict(VQGANConfig, config["model"]) == VQGANConfig()
    assert from_dict(DiscriminatorConfig, config["discriminator"]) == DiscriminatorConfig()
    assert config["loss"] == {
        "codebook_weight": 1.0,
        "pixel_weight": 1.0,
        "perceptual_weight": 1.0,
        "disc_weight": 0.8,
        "disc_loss": "hinge",
        "disc_start": 250001,
    }
    assert config["data"] == {"size": 256}
    assert plan.notes == ["the checkpoint holds no discriminator: a fine-tuning starts a new one"]


def test_the_published_gumbel_first_stage_with_the_discriminator_that_its_file_holds():
    schedule = {"warm_up_steps": 0, "max_decay_steps": 1000001, "lr_start": 0.9, "lr_max": 0.9, "lr_min": 1e-6}
    schedule = part("lr_scheduler.LambdaWarmUpCosineScheduler", **schedule)
    shape = {"ch_mult": [1, 1, 2, 4], "attn_resolutions": [32]}
    model = vqgan(DUMMY, "GumbelVQ", shape, n_embed=8192, kl_weight="1e-8", temperature_scheduler_config=schedule)
    main = "loss.discriminator.main."
    state = {f"{main}{i}.weight": np.zeros((64 * i + 8, 3, 4, 4)) for i in (0, 2, 5, 8)}
    plan = translate(project(model), state)
    config = from_dict(VQGANConfig, plan.configs[""]["model"])
    assert (config.quantizer, config.kl_weight, config.factor, config.n_embed) == ("gumbel", 1e-8, 8, 8192)
    assert plan.configs[""]["loss"]["temperature_start"] == 0.9
    assert plan.networks.first_stage.discriminator == DiscriminatorConfig(ndf=8, n_layers=2)
    assert any("names no discriminator, but the checkpoint holds one" in note for note in plan.notes)
    with pytest.raises(ValueError, match="GumbelVQ needs embed_dim equal to z_channels, here 128 and 256"):
        translate(project({**model, "params": {**model["params"], "embed_dim": 128}}), {})


def test_the_published_second_stage_of_faces():
    plan = translate(faces(), {})
    config = plan.configs[""]
    assert from_dict(GPTConfig, config["transformer"]) == GPTConfig(vocab_size=1024, block_size=512)
    assert from_dict(ConditionConfig, config["condition"]) == ConditionConfig("coordinate", n_codes=1024, factor=16)
    assert (config["order"], config["pkeep"], config["data"]) == ("row_major", 1.0, {"size": 256})
    assert config["optimizer"]["weight_decay"] == 0.01
    assert set(plan.configs) == {"", "first_stage"}
    assert any("ckpt_path='logs/last.ckpt'" in note for note in plan.notes)


def test_defaults_are_the_originals():
    short = faces(transformer_config=gpt())
    short["model"]["params"]["first_stage_config"]["params"]["ddconfig"].pop("ch_mult")
    plan = translate(short, {})
    small = from_dict(GPTConfig, plan.configs[""]["transformer"])
    assert (small.n_layer, small.n_head, small.n_embd, small.n_unmasked) == (12, 8, 256, 0)
    assert plan.configs["first_stage"]["model"]["ch_mult"] == [1, 2, 4, 8]
    loss = part("modules.losses.vqperceptual.VQLPIPSWithDiscriminator", disc_start=0)
    assert translate(project(vqgan(loss)), {}).configs[""]["loss"]["disc_weight"] == 1.0


ONE = {"in_channels": 1, "out_ch": 1}
LABELS = {"in_channels": 182, "out_ch": 182}


@pytest.mark.parametrize(
    ("key", "stage", "content"),
    [
        ("segmentation", vqgan(DUMMY, dd=LABELS, image_key="segmentation", colorize_nlabels=182), "segmentation"),
        ("segmentation", vqgan(DUMMY, "VQSegmentationModel", LABELS, n_labels=182), "segmentation"),
        ("depth", vqgan(DUMMY, dd=ONE), "depth"),
        ("edges", vqgan(DUMMY, dd=ONE), "edges"),
        ("LR", vqgan(DUMMY), "low_res"),
        ("stickman", vqgan(DUMMY, dd={"in_channels": 17, "out_ch": 17}), "pose"),
    ],
)
def test_conditions_that_are_maps(key, stage, content):
    plan = translate(faces(cond_stage_key=key, cond_stage_config=stage, downsample_cond_size=256), {})
    condition = from_dict(ConditionConfig, plan.configs[""]["condition"])
    assert (condition.kind, condition.stage, condition.size) == (content, "condition_stage", 256)
    assert plan.configs["condition_stage"]["model"]["content"] == content.replace("low_res", "image")


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"cond_stage_config": "__is_unconditional__"}, "none"),
        ({"unconditional": True}, "none"),
        ({"cond_stage_config": part("modules.util.SOSProvider", sos_token=0)}, "none"),
        ({"cond_stage_config": part("modules.util.Labelator", n_classes=1000)}, "class_label"),
        ({"cond_stage_config": "__is_first_stage__", "cond_stage_key": "image"}, "image"),
    ],
)
def test_other_conditions(params, kind):
    plan = translate(faces(**params), {})
    assert plan.configs[""]["condition"]["kind"] == kind
    assert plan.networks.shared == (kind == "image")


@pytest.mark.parametrize(
    ("block_size", "data", "side"),
    [(512, {}, 256), (512, {"crop_size": 192}, 192), (300, {}, 192), (512, {"config": {"size": 128}}, 128)],
)
def test_the_training_side_fits_the_transformer(block_size, data, side):
    settings = faces(transformer_config=gpt(block_size=block_size))
    settings["data"] = {"params": {"train": {"params": data}}}
    plan = translate(settings, {})
    assert plan.configs[""]["data"]["size"] == side
    assert plan.networks.grid == (side // 16, side // 16)
    assert any(f"data.size={side}" in note for note in plan.notes) == (side != 256)


def test_a_token_order_decides_the_training_side():
    order = part("modules.transformer.permuter.SpiralOut", H=12, W=12)
    plan = translate(faces(permuter_config=order), {})
    assert (plan.configs[""]["order"], plan.configs[""]["data"]["size"]) == ("spiral_out", 192)
    with pytest.raises(ValueError, match=r"grid of 8 x 16; only square"):
        translate(faces(permuter_config=part("modules.transformer.permuter.AlternateParsing", H=8, W=16)), {})
    with pytest.raises(ValueError, match=r"no training images fit .*block_size=512.*need 2047"):
        translate(faces(permuter_config=part("modules.transformer.permuter.SpiralOut", H=32, W=32)), {})


def test_a_remap_comes_from_the_checkpoint():
    settings = project(vqgan(remap="data/used.npy"))
    plan = translate(settings, {"quantize.used": np.array([7, 2])})
    assert plan.networks.first_stage.config.remap == (7, 2)
    with pytest.raises(ValueError, match=r"remap is set, but the checkpoint lacks quantize\.used"):
        translate(settings, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (project(vqgan(target="EMAVQ")), "EMAVQ is not supported; it cannot be constructed in the original"),
        (project(vqgan(target="AutoencoderKL")), "class AutoencoderKL is not supported; known: VQModel"),
        (project({"target": "some.models.VQModel"}), "is no class of the original"),
        (project(vqgan(dd={"double_z": True})), r"ddconfig\.double_z=True is not supported, only False"),
        (project(vqgan(dd={"resamp_with_conv": False})), r"resamp_with_conv=False is not supported"),
        (project(vqgan(dd={"tanh_out": True})), r"tanh_out=True is not supported"),
        (project(vqgan(dd={"ch": "x"})), r"ddconfig\.ch of the configuration is 'x', but it must be of type int"),
        (project(vqgan(dd={"num_heads": 4})), r"does not know: model\.params\.ddconfig\.num_heads=4"),
        (project(vqgan(beta=0.5)), r"does not know: model\.params\.beta=0.5"),
        (project(vqgan(part("modules.losses.vqperceptual.Other"))), "the loss Other is not supported; known: VQLPIPS"),
        (project(vqgan(part("modules.losses.segmentation.BCELossWithQuant"))), "not supported for a first stage that"),
        (project(vqgan(image_key="sound", dd={"in_channels": 5})), "image_key='sound' is unknown; known: image, segm"),
        (project(vqgan(colorize_nlabels="many")), "colorize_nlabels='many', but it must be a number of labels"),
        (faces(sos_token=3, unconditional=True), "sos_token=3 is not supported"),
        (faces(pkeep=0.0), r"pkeep=0.0 is not supported: it must be in \(0, 1\]"),
        (faces(cond_stage_config=vqgan(), cond_stage_key="audio"), "cond_stage_key='audio' is unknown; known: segm"),
        (faces(permuter_config=part("modules.transformer.permuter.Hilbert")), "order Hilbert is unknown; known: Iden"),
        (faces(first_stage_key="depth"), "first_stage_key='depth' is not supported for a first stage that reads image"),
        (faces(downsample_cond_size=8), "downsample_cond_size=8 is not supported for a condition that is no first"),
        (faces(transformer_config=gpt(n_embed=8)), r"does not know: .*transformer_config\.params\.n_embed=8"),
        (faces(transformer_config=part("modules.transformer.mingpt.CodeGPT")), "CodeGPT is not supported, only GPT"),
        (faces(transformer_config=gpt(vocab_size=1000)), "vocab_size=1000, but codes and condition need 1024 ids"),
        ({"data": {}}, r"lacks project\.model"),
    ],
)
def test_what_would_change_the_result_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        translate(settings, {})


def test_images_may_have_another_name():
    plan = translate(project(vqgan(image_key="jpg")), {})
    assert plan.networks.first_stage.config.content == "image"
    assert any("image_key='jpg' with three channels: taken for images" in note for note in plan.notes)


def test_what_has_no_meaning_here_is_named():
    model = vqgan(monitor="val/rec_loss", sane_index_shape=True, ignore_keys=["loss"])
    settings = project({**model, "project": "8k_8f"}, lightning={"trainer": {"gpus": "0,"}})
    notes = translate(settings, {}).notes
    for name in ("monitor=", "sane_index_shape=", "ignore_keys=", "model.project=", "project.lightning="):
        assert sum(name in note for note in notes) == 1, name


def test_objects_need_what_only_the_data_set_tells():
    stage = part("models.dummy_cond_stage.DummyCondStage", conditional_key="objects_bbox")
    settings = faces(cond_stage_config=stage, cond_stage_key="objects_bbox", transformer_config=gpt(block_size=348))
    with pytest.raises(ValueError, match=r"needs data\.params\.train\.params .* with no_tokens"):
        translate(settings, {})
    data = {"no_tokens": 1024, "max_objects_per_image": 30, "encode_crop": True, "use_group_parameter": True}
    settings["data"] = {"params": {"train": {"params": {**data, "target_image_size": 256}}}}
    with pytest.raises(ValueError, match="give --classes N"):
        translate(settings, {})
    config = translate(settings, {}, n_classes=171).configs[""]
    condition = from_dict(ConditionConfig, config["condition"])
    assert condition == ConditionConfig(
        "boxes", n_classes=171, n_codes=1024, max_objects=30, encode_crop=True, group_flag=True
    )
    assert config["data"] == {"size": 256}


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        load_project(tmp_path / "none.yaml")
    cases = {"a: [": "is no YAML", "[1, 2]": "must be a mapping", "!!python/object:os.x {}": "is no YAML"}
    for text, message in cases.items():
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            load_project(tmp_path / "a.yaml")
