"""The original's checkpoints: the same numbers from the converted files, the exact way back, and what is refused."""

import copy
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import yaml
from conftest import GOLDENS
from golden import (
    close,
    discriminator_variables,
    first_stage_params,
    gpt_params,
    lpips_params,
    vqgan_params,
    weights,
)
from projects import PROJECTS, adversarial, gpt, network, part, project, two_stage, vq

import taming_jax
from taming_jax import checkpoint
from taming_jax.checkpoint.portable import PACKAGED
from taming_jax.convert.__main__ import check_training, main
from taming_jax.convert.conversion import unwrapped
from taming_jax.convert.engine import bring
from taming_jax.convert.original import convert_checkpoint, export_checkpoint
from taming_jax.convert.original.names import SIGN, Networks, StageNetworks, lpips_arrays, lpips_sources, table_of
from taming_jax.convert.original.settings import translate
from taming_jax.convert.reader import read_state
from taming_jax.convert.writer import write_checkpoint
from taming_jax.models.discriminator import Discriminator, DiscriminatorConfig
from taming_jax.nn import orders
from taming_jax.settings import from_dict


@pytest.fixture(scope="module")
def converted(tmp_path_factory, golden):
    """converted(name): the directory made of the golden of that name; its state dict is `state.ckpt` beside."""
    done = {}

    def convert(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            tree = {"state_dict": weights(golden(name)), "global_step": 1234, "epoch": 3, "callbacks": {}}
            write_checkpoint(folder / "state.ckpt", tree)
            (folder / "project.yaml").write_text(yaml.safe_dump(PROJECTS[name]), encoding="utf-8")
            convert_checkpoint(folder / "state.ckpt", folder / "out", folder / "project.yaml", check=check_training)
            done[name] = folder
        return done[name] / "out"

    return convert


@pytest.mark.parametrize("name", ["vqgan_f4", "vqgan_gumbel_f4", "vqgan_segmentation_f4"])
def test_a_first_stage_gives_the_originals_ids_and_reconstruction(converted, golden, name):
    expected = golden(name)
    stage = taming_jax.load(str(converted(name)))
    ids = stage.encode(expected["labels"] if "labels" in expected else expected["image"])
    np.testing.assert_array_equal(ids, expected["indices"].reshape(ids.shape))
    close(stage.decode(ids), expected["reconstruction"], 1e-4)


def test_the_parameters_are_those_that_the_tests_of_the_networks_use(converted, golden):
    """So what those tests find of the goldens holds for the converted files."""
    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    for name in ("vqgan_f4", "vqgan_gumbel_f4", "vqgan_segmentation_f4"):
        same(checkpoint.load_params(str(converted(name))), vqgan_params(weights(golden(name))))
    state = weights(golden("vqgan_f4"))
    same(checkpoint.load_discriminator(str(converted("vqgan_f4"))), discriminator_variables(state))
    for name, stage in (("class_conditional", "first"), ("segmentation_conditional", "cond")):
        state, workdir = weights(golden(name)), str(converted(name))
        same(checkpoint.load_params(workdir), gpt_params(state))
        folder = {"first": "first_stage", "cond": "condition_stage"}[stage]
        same(checkpoint.load_params(f"{workdir}/{folder}"), first_stage_params(state, f"{stage}_stage_model."))


def test_the_discriminator_comes_along(converted, golden):
    expected, workdir = golden("vqgan_f4"), str(converted("vqgan_f4"))
    config = checkpoint.load_config(workdir)
    disc = Discriminator(from_dict(DiscriminatorConfig, config["discriminator"]))
    variables = checkpoint.load_discriminator(workdir)
    logits = jax.jit(lambda v, x: disc.apply(v, x, train=False))(variables, expected["image"])
    close(logits, expected["disc_logits_real_eval"], 1e-4)
    assert config["loss"]["disc_start"] == 2
    assert config["loss"]["disc_weight"] == 0.8
    assert config["optimizer"] == {"learning_rate": 4.5e-06, "per_sample": True, "b1": 0.5, "b2": 0.9}
    assert checkpoint.find_step(workdir).name == "1234"


def test_a_two_stage_model_draws_the_originals_tokens(converted, golden):
    expected = golden("class_conditional")
    model = taming_jax.load(str(converted("class_conditional")))
    ids = model.sample_ids(2, class_label=expected["class_label"], temperature=0)
    np.testing.assert_array_equal(ids.reshape(2, -1), expected["greedy_tokens"])
    given = expected["indices"].reshape(2, 16, 16)
    likelihood = model.log_likelihood(given, class_label=expected["class_label"])
    np.testing.assert_allclose(-np.mean(likelihood) / 256, expected["loss"], rtol=1e-4)


def test_a_condition_stage_and_a_transformer_alone_open(converted, golden):
    expected = golden("segmentation_conditional")
    model = taming_jax.load(str(converted("segmentation_conditional")))
    ids = model.condition_stage.encode(expected["segmentation"])
    np.testing.assert_array_equal(ids.reshape(1, -1), expected["cond_indices"])
    alone, expected = taming_jax.load(str(converted("gpt_n_unmasked"))), golden("gpt_n_unmasked")
    close(alone.logits(expected["tokens"]), expected["logits"], 1e-4)


@pytest.mark.parametrize("name", sorted(PROJECTS))
def test_the_way_back_is_exact_and_its_yaml_means_the_same(converted, tmp_path, name):
    source = converted(name)
    export_checkpoint(source, tmp_path / "back.ckpt")
    before, extras = read_state(source.parent / "state.ckpt")
    after, extras_after = read_state(tmp_path / "back.ckpt")
    assert (extras_after["global_step"], extras_after["epoch"]) == (extras["global_step"], extras["epoch"])
    missing = {key for key in after if key not in before}
    # The goldens lack the masks, which carry nothing.
    assert set(before) == set(after) - {key for key in missing if key.endswith("attn.mask")}
    for key, array in before.items():
        assert after[key].dtype == array.dtype
        np.testing.assert_array_equal(after[key], array)
    back = yaml.safe_load((tmp_path / "back-project.yaml").read_text(encoding="utf-8"))
    assert translate(back, before).configs == translate(PROJECTS[name], before).configs


def random_state(networks, seed=0):
    """Arrays for every entry of a checkpoint, under the original's names."""
    rs, table = np.random.RandomState(seed), table_of(networks)
    state = {}
    for entry in table.entries:
        array = np.asarray(rs.randn(*entry.source_shape), np.float32)
        state[entry.source] = np.asarray(array > 0, np.uint8) if entry.dtype == np.bool_ else array
    return state | {p.source: p.like for p in table.passive if p.use == "exact"}


def convert(tmp_path, state, settings, name="made", **options):
    write_checkpoint(tmp_path / f"{name}.ckpt", {"state_dict": state, "global_step": 5})
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    convert_checkpoint(tmp_path / f"{name}.ckpt", tmp_path / name, tmp_path / f"{name}.yaml", **options)
    return str(tmp_path / name)


@pytest.mark.parametrize("started", [0, 1])
def test_actnorm_vanilla_loss_and_lpips_inside(tmp_path, golden, started):
    changes = {"use_actnorm": True, "disc_loss": "vanilla", "disc_num_layers": 1, "disc_factor": 0.5}
    settings = project(vq(loss=adversarial(**changes, pixelloss_weight=3)))
    stage = translate(settings, {}).networks.first_stage
    disc = DiscriminatorConfig(ndf=16, n_layers=1, norm="actnorm")
    state = random_state(Networks(StageNetworks(stage.config, disc)))
    main = "loss.discriminator.main."
    assert state[f"{main}3.loc"].shape == (1, 32, 1, 1)
    state[f"{main}3.initialized"] = np.array(started, np.uint8)
    lpips = lpips_params(golden("lpips_linears"))
    workdir = convert(tmp_path, state | lpips_arrays(lpips), settings)
    variables = checkpoint.load_discriminator(workdir)
    assert bool(variables["batch_stats"]["norm_1"]["started"]) == bool(started)
    x = np.random.RandomState(1).randn(1, 32, 32, 3).astype(np.float32)
    logits = Discriminator(disc).apply(variables, x, train=False)

    def conv(x, i, stride):
        x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (4, 4), (2, 3))[:, :, ::stride, ::stride]
        y = np.einsum("bchwyx,ocyx->bohw", windows, state[f"{main}{i}.weight"])
        return y + state[f"{main}{i}.bias"][:, None, None]

    leaky = lambda x: np.where(x > 0, x, 0.2 * x)
    y = conv(leaky(conv(x.transpose(0, 3, 1, 2), 0, 2)), 2, 1)
    y = state[f"{main}3.scale"] * (y + state[f"{main}3.loc"])
    close(logits, conv(leaky(y), 5, 1).transpose(0, 2, 3, 1), 1e-4)

    loss = checkpoint.load_config(workdir)["loss"]
    assert (loss["disc_loss"], loss["pixel_weight"]) == ("vanilla", 1.0)
    np.testing.assert_allclose(loss["disc_weight"], 0.4)
    np.savez(tmp_path / "lpips.npz", **flat(lpips))
    export_checkpoint(workdir, tmp_path / "back.ckpt", lpips=tmp_path / "lpips.npz")
    back, _ = read_state(tmp_path / "back.ckpt")
    assert set(back) == set(state) | set(lpips_sources())
    for key, array in (state | lpips_arrays(lpips)).items():
        np.testing.assert_array_equal(back[key], array)


def flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for name, child in tree.items() for k, v in flat(child, f"{prefix}{name}/").items()}


NAMES = {"Subsample": "subsample", "ZCurve": "z_curve", "SpiralIn": "spiral_in", "SpiralOut": "spiral_out"}
NAMES |= {"Random": "random", "AlternateParsing": "alternate_parsing"}


@pytest.mark.parametrize("theirs", sorted(NAMES))
def test_token_orders_are_compared_with_the_checkpoints(tmp_path, theirs):
    order = part(f"modules.transformer.permuter.{theirs}", H=8, W=8)
    first = vq(dd=network(ch_mult=[1, 1, 1], attn_resolutions=[]))
    settings = two_stage(first, gpt(block_size=64), permuter_config=order)
    plan = translate(settings, {})
    assert plan.configs[""]["order"] == NAMES[theirs]
    assert plan.configs[""]["data"]["size"] == 32
    state = random_state(plan.networks)
    walk = orders.order(NAMES[theirs], 8, 8)
    np.testing.assert_array_equal(state["permuter.forward_shuffle_idx"], walk)
    np.testing.assert_array_equal(state["permuter.backward_shuffle_idx"], np.argsort(walk))
    bring(table_of(plan.networks), state)
    state["permuter.forward_shuffle_idx"] = np.arange(64)
    with pytest.raises(ValueError, match=r"permuter\.forward_shuffle_idx .* is not what the configuration makes it"):
        bring(table_of(plan.networks), state)


def test_half_precision_remap_and_a_condition_read_by_the_first_stage(tmp_path):
    used = np.array([5, 3, 60, 11], np.int64)
    settings = two_stage(
        vq(remap="/data/used.npy", sane_index_shape=True, monitor="val/rec_loss"),
        gpt(vocab_size=4, block_size=512),
        cond_stage_config="__is_first_stage__",
    )
    plan = translate(settings, {"first_stage_model.quantize.used": used})
    state = random_state(plan.networks)
    np.testing.assert_array_equal(state["first_stage_model.quantize.used"], used)
    state = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in state.items()}
    copies = {k.replace("first_stage_model", "cond_stage_model"): v for k, v in state.items() if k.startswith("first")}
    workdir = convert(tmp_path, state | copies, settings)
    first = taming_jax.load(workdir).first_stage
    assert first.config.remap == (5, 3, 60, 11)
    codes = taming_jax.load(workdir).first_stage.params["quantizer"]["codebook"]
    np.testing.assert_array_equal(codes, state["first_stage_model.quantize.embedding.weight"].astype(np.float32))
    export_checkpoint(workdir, tmp_path / "back.ckpt")
    back, _ = read_state(tmp_path / "back.ckpt")
    assert set(back) == set(state | copies)
    assert all(back[k].dtype == v.dtype and np.array_equal(back[k], v) for k, v in (state | copies).items())
    np.testing.assert_array_equal(np.load(tmp_path / "back-first_stage-remap.npy"), used)
    copies["cond_stage_model.quant_conv.bias"] = copies["cond_stage_model.quant_conv.bias"] + 1
    with pytest.raises(ValueError, match=r"cond_stage_model\.quant_conv\.bias is not the first stage's"):
        convert(tmp_path, state | copies, settings, "other")


@pytest.fixture(scope="module")
def small():
    """(settings, state) of a small transformer, to be spoilt."""
    settings = {"transformer_config": gpt(block_size=9, n_layer=1)}
    return settings, random_state(translate(settings, {"transformer.": 0}).networks)


def test_everything_that_does_not_fit_is_named_at_once(tmp_path, small):
    settings, state = small
    state = {**state, "transformer.head.bias": np.zeros(3, np.float32)}
    state["transformer.ln_f.bias"] = np.zeros(5, np.float32)
    del state["transformer.tok_emb.weight"]
    state["transformer.blocks.0.attn.mask"] = np.ones((1, 1, 9, 9), np.float32)
    state["transformer.pos_emb"] = np.zeros((1, 9, 64), np.int64)
    with pytest.raises(ValueError) as error:
        convert(tmp_path, state, settings)
    for note in (
        r"made.ckpt with",
        "transformer.head.bias (3,) is unknown",
        "transformer.ln_f.bias has shape (5,), but the configuration makes it (64,)",
        "transformer.tok_emb.weight is missing",
        "transformer.blocks.0.attn.mask (1, 1, 9, 9) is not what the configuration makes it",
        "transformer.pos_emb is of type int64",
    ):
        assert note in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.ckpt", "made.yaml"]


def test_masks_and_counters_may_be_missing_and_stay_so(tmp_path, small):
    settings, state = small
    state = {k: v for k, v in state.items() if not k.endswith("mask")}
    bare = {k.removeprefix("transformer."): v for k, v in state.items()}
    for name, given in (("full", state), ("bare", bare)):
        export_checkpoint(convert(tmp_path, given, settings, name), tmp_path / f"{name}_back.ckpt")
        assert set(read_state(tmp_path / f"{name}_back.ckpt")[0]) == set(given)


WRAPS = (
    "module.{}",
    "_orig_mod.{}",
    "module._orig_mod.{}",
    "_forward_module.{}",
    "model.{}",
    "net.module.{}",
    "a.b.c.d.{}",
)


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_parallel_and_compiled_training_put_before_names_is_left_out(tmp_path, small, wrap):
    settings, state = small
    wrapped = {wrap.format(name): array for name, array in state.items()}
    plain = taming_jax.load(convert(tmp_path, state, settings, "plain")).params
    loaded = taming_jax.load(convert(tmp_path, wrapped, settings, "wrapped")).params
    jax.tree.map(np.testing.assert_array_equal, loaded, plain)


def test_a_part_that_was_compiled_by_itself(tmp_path, small):
    settings, state = small
    state = {name.replace("transformer.", "transformer._orig_mod."): array for name, array in state.items()}
    assert checkpoint.load_config(convert(tmp_path, state, settings))["kind"] == "transformer"


@pytest.mark.parametrize("wrap", ["", "model.", "a.b.", "transformer.", "vqvae.module.", "ema."])
@pytest.mark.parametrize(
    "own", ["encoder.conv_in.weight", "first_stage_model.encoder.conv_in.weight", "tok_emb.weight"]
)
def test_what_stands_before_all_names(wrap, own):
    names = (own, "quantize.embedding.weight", "cond_stage_model.encoder.conv_in.weight", "decoder.module.conv.weight")
    bare = own == "tok_emb.weight" and wrap == "transformer."  # which is the original's own
    state, notes, _ = unwrapped({wrap + name: np.zeros(1) for name in names}, SIGN)
    assert list(state) == [(wrap if bare else "") + name.replace(".module", "") for name in names]
    assert any(f"all names begin with '{wrap[:3]}" in note for note in notes) == (wrap != "" and not bare)


def test_averages_below_a_name_of_their_own(tmp_path, small, capsys):
    settings, state = small
    marked = lambda prefix, value: {
        prefix + name: np.full_like(array, value) if name.endswith("tok_emb.weight") else array
        for name, array in state.items()
    }
    counts = {"initted": np.array(True), "step": np.array(4)}
    for plain in ("online_model.", "", "model."):
        both = marked(plain, 1) | marked("ema_model.", 2) | (counts if plain else {})
        write_checkpoint(tmp_path / "both.ckpt", both)
        (tmp_path / "both.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        for flags, value in (([], 1), (["--ema"], 2)):
            out = tmp_path / f"{plain}{value}"
            main([str(tmp_path / "both.ckpt"), str(out), "--config", str(tmp_path / "both.yaml"), *flags])
            assert "others are left out: " in capsys.readouterr().out
            assert float(checkpoint.load_params(str(out))["token"]["embedding"][0, 0]) == value
    with pytest.raises(ValueError, match=r"it holds several networks, below 'a\.', 'b\.c\.'; save the one to convert"):
        convert(tmp_path, marked("a.", 1) | marked("b.c.", 2), settings, "ambiguous")


def test_a_date_a_step_or_a_commit_in_a_name_is_no_hash(tmp_path, small, capsys):
    settings, state = small
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for name, noted in (("vqgan-20210412", False), ("run-00120000", False), ("exp-1a2b3c4d", True)):
        write_checkpoint(tmp_path / f"{name}.pth", state)
        main([str(tmp_path / f"{name}.pth"), str(tmp_path / name), "--config", str(tmp_path / "a.yaml")])
        assert ("if 1a2b3c4d is to be its SHA-256" in capsys.readouterr().out) == noted
    write_checkpoint(tmp_path / "vgg16-397923af.pth", state)  # which its publisher calls so
    with pytest.raises(SystemExit, match=r"is damaged: its SHA-256 .* does not begin as its name says"):
        main([str(tmp_path / "vgg16-397923af.pth"), str(tmp_path / "out"), "--config", str(tmp_path / "a.yaml")])


def test_biases_that_no_convolution_has_are_told_in_one(tmp_path):
    settings = project(vq())
    state = random_state(translate(settings, {}).networks)
    without = {name: a for name, a in state.items() if not name.endswith(".bias") or "norm" in name}
    with pytest.raises(ValueError, match=r"do not fit: all \d\d biases of convolutions are missing$"):
        convert(tmp_path, without, settings)
    without = {name: a for name, a in state.items() if not name.endswith(".bias")}
    with pytest.raises(ValueError, match=r": all \d\d biases of \w+ are missing; all \d\d biases of \w+ are missing$"):
        convert(tmp_path, without, settings)
    del state["decoder.conv_out.bias"]
    with pytest.raises(ValueError, match=r"do not fit: decoder\.conv_out\.bias is missing$"):
        convert(tmp_path, state, settings)


def test_the_packaged_model_is_exported_by_its_name_as_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no folder is called as it is
    for name, words in (("landscapes", "condition_table=True is unknown"), ("landscapes/first_stage", "norm_groups=8")):
        with pytest.raises(SystemExit, match=words) as by_name:
            main(["--export", name, "out.ckpt"])
        with pytest.raises(SystemExit) as by_path:
            main(["--export", str(PACKAGED / name), "out.ckpt"])
        assert str(by_name.value) == str(by_path.value)


def test_labels_that_the_original_colours_go_there_and_back(tmp_path):
    settings = project(vq(dd=network(ch=32), colorize_nlabels=9))
    state = random_state(translate(settings, {}).networks)
    state["colorize"] = np.random.RandomState(1).randn(3, 9, 1, 1).astype(np.float32)
    export_checkpoint(convert(tmp_path, state, settings), tmp_path / "back.ckpt")
    np.testing.assert_array_equal(read_state(tmp_path / "back.ckpt")[0]["colorize"], state["colorize"])
    project_back = yaml.safe_load((tmp_path / "back-project.yaml").read_text(encoding="utf-8"))
    assert project_back["model"]["params"]["colorize_nlabels"] == 9


def test_a_file_of_a_part_of_the_model_says_so(tmp_path):
    settings = two_stage()
    state = random_state(translate(settings, {"first_stage_model.": 0}).networks)
    first = {name: array for name, array in state.items() if name.startswith("first_stage_model.")}
    with pytest.raises(ValueError, match=r"nothing below 'transformer' is there, where \d+ arrays should be"):
        convert(tmp_path, first, settings)
    alone = {name.removeprefix("first_stage_model."): array for name, array in first.items()}
    with pytest.raises(ValueError, match="the file seems to hold 'first_stage_model' alone: give the configuration of"):
        convert(tmp_path, alone, settings)
    transformer = {name.removeprefix("transformer."): a for name, a in state.items() if name.startswith("transformer.")}
    below = {f"model.{name}": array for name, array in transformer.items() if not name.startswith("tok_emb")}
    with pytest.raises(ValueError, match=r"\d+ arrays below 'model' are unknown"):
        convert(tmp_path, below, {"transformer_config": gpt()})
    assert checkpoint.load_config(convert(tmp_path, first, project(vq()), "part"))["kind"] == "vqgan"


def test_a_list_of_used_codes_that_the_transformer_has_no_ids_for(tmp_path):
    settings = two_stage(first=vq(remap="used.npy"), transformer=gpt(vocab_size=8, block_size=256))
    with pytest.raises(ValueError, match="vocab_size=8"):
        convert(tmp_path, {"first_stage_model.quantize.used": np.arange(12)}, settings)


def test_a_folder_in_use_is_refused_and_stays_as_it_is(tmp_path, small):
    settings, state = small
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match=r"made holds something already \(thesis.tex\); name a new directory"):
        convert(tmp_path, state, settings)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["thesis.tex"]
    workdir = convert(tmp_path, state, settings, "free")
    export_checkpoint(workdir, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt' is there already"):
        export_checkpoint(workdir, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="no folder of this machine"):
        convert_checkpoint(tmp_path / "free.ckpt", "gs://bucket/x")


def test_a_failing_check_or_write_leaves_nothing(tmp_path, small, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no")

    settings, state = small
    with pytest.raises(ValueError, match="no"):
        convert(tmp_path, state, settings, check=refuse)
    monkeypatch.setattr(checkpoint, "save_model", refuse)
    with pytest.raises(ValueError, match="no"):
        convert(tmp_path, state, settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.ckpt", "made.yaml"]


def test_the_command_prints_digests_and_notes_and_finds_the_configuration(tmp_path, small, capsys):
    settings, state = small
    for name in ("checkpoints", "configs"):
        (tmp_path / "logs" / name).mkdir(parents=True)
    write_checkpoint(tmp_path / "logs/checkpoints/last.ckpt", state)
    text = yaml.safe_dump({**settings, "lightning": {"trainer": {"gpus": 1}}})
    (tmp_path / "logs/configs/2020-11-09T13-31-51-project.yaml").write_text(text, encoding="utf-8")
    main([str(tmp_path / "logs/checkpoints/last.ckpt"), str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "last.ckpt\n" in printed
    assert "project.yaml\n" in printed
    assert "note: project.lightning=" in printed
    assert f"wrote {tmp_path / 'out'} (transformer)" in printed
    main(["--export", str(tmp_path / "out"), str(tmp_path / "back.ckpt")])
    assert "back.ckpt (transformer)" in capsys.readouterr().out
    assert set(read_state(tmp_path / "back.ckpt")[0]) == set(state)
    (tmp_path / "other-project.yaml").write_text("{}", encoding="utf-8")  # of another export in the same folder
    main([str(tmp_path / "back.ckpt"), str(tmp_path / "again")])
    assert "back-project.yaml\n" in capsys.readouterr().out
    (tmp_path / "other-project.yaml").unlink()
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "logs/checkpoints/last.ckpt"), str(tmp_path / "out")])
    assert str(stopped.value).startswith("error: ")
    shutil.copy(tmp_path / "back.ckpt", tmp_path / "configs-nowhere.ckpt")
    (tmp_path / "back-project.yaml").unlink()
    with pytest.raises(SystemExit, match=r"no \*project.yaml lies with .*name it with --config"):
        main([str(tmp_path / "configs-nowhere.ckpt"), str(tmp_path / "new")])


def test_the_command_ends_with_the_error_alone_and_needs_no_torch():
    program = "import sys; sys.modules['torch'] = None; from taming_jax.convert.__main__ import main; main()"
    command = [sys.executable, "-c", program, str(GOLDENS / "lightning.ckpt"), "out", "--config", "none.yaml"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, encoding="utf-8")
    assert result.returncode == 1
    assert result.stderr.strip() == "error: there is no file none.yaml"


def test_copies_of_the_settings_are_not_changed_by_reading_them():
    settings = copy.deepcopy(PROJECTS["class_conditional"])
    translate(settings, {})
    assert settings == PROJECTS["class_conditional"]
