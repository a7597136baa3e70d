"""Checkpoints of LlamaGen, latent-diffusion and diffusers through the command: the numbers of PyTorch doubles of them,
and of LlamaGen itself; the way back bit for bit into their strict loading; and what is refused."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import GOLDENS
from golden import close, weights
from safetensors.numpy import load_file, save_file
from torch_stages import Diffusers, LatentDiffusion, LlamaGen, Stage

import taming_jax
from taming_jax.convert.__main__ import main
from taming_jax.convert.formats import diffusers, llamagen_sizes, llamagen_tokenizer, llamagen_transformer
from taming_jax.convert.reader import read_state
from taming_jax.convert.writer import write_checkpoint
from taming_jax.nn.attention import swiglu_width
from taming_jax.nn.quantizers import NormalizedQuantizer

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from llamagen_peer import Transformer


def made(network, seed=0):
    """A network with weights that let neither norms nor codes be trivial."""
    torch.manual_seed(seed)
    for name, value in network.named_parameters():
        if value.ndim == 1:
            value.data += 0.1 * torch.randn_like(value)
        elif "embedding" in name:
            value.data = 0.2 * torch.randn_like(value)
    return network.eval()


def arrays_of(network):
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


def numbers_agree(network, folder, sides=(32, 48)):
    images = np.random.RandomState(1).uniform(-1, 1, (2, *sides, 3)).astype(np.float32)
    ids, reconstruction = network(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    ours = taming_jax.load(str(folder))
    found = np.asarray(ours.encode(images))
    assert len(np.unique(found)) > 3
    np.testing.assert_array_equal(found, ids.numpy())
    close(ours.decode(found), reconstruction.numpy().transpose(0, 2, 3, 1), 1e-4)


def same(before, after):
    assert set(before) == set(after)
    for name, array in before.items():
        assert after[name].dtype == array.dtype, name
        np.testing.assert_array_equal(after[name], array, err_msg=name)


TOKENIZERS = {  # widths, blocks, z, dim, codes
    "f4": ((32, 64, 64), 2, 64, 8, 50),
    "f2": ((64, 32 * 6), 1, 32, 4, 40),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("entry", ["model", "state_dict", "bare"])
def test_a_tokenizer_of_llamagen(tmp_path, capsys, name, entry):
    if (name, entry) == ("f2", "bare"):
        pytest.skip("one of each is enough")
    widths, *sizes = TOKENIZERS[name]
    network = made(Stage(LlamaGen, widths, *sizes, attended=(len(widths) - 1,), normalized=True))
    network.get_submodule("quantize").codebook_used[:5] = torch.arange(5.0)
    state = network.state_dict()
    torch.save(state if entry == "bare" else {entry: state}, tmp_path / "vq.pt")
    main([str(tmp_path / "vq.pt"), str(tmp_path / "out")])
    assert "format: llamagen" in capsys.readouterr().out
    numbers_agree(network, tmp_path / "out")
    main(["--export", str(tmp_path / "out"), str(tmp_path / "back.pt")])
    same(arrays_of(network), read_state(tmp_path / "back.pt")[0])
    loaded = torch.load(tmp_path / "back.pt", weights_only=True)["model"]
    Stage(LlamaGen, widths, *sizes, attended=(len(widths) - 1,), normalized=True).load_state_dict(loaded, strict=True)


def test_averages_in_an_entry_of_their_own(tmp_path, capsys):
    first, second = (made(Stage(LlamaGen, (32, 32), 1, 32, 4, 40, (1,), normalized=True), seed) for seed in (1, 2))
    args = argparse.Namespace(image_size=128, vocab_size=40, cloud=None)
    tree = {"model": first.state_dict(), "ema": second.state_dict(), "steps": 7, "args": args}
    torch.save(tree, tmp_path / "vq.pt")
    main([str(tmp_path / "vq.pt"), str(tmp_path / "out")])
    assert "note: taken: the arrays of 'model'; left out: ema" in capsys.readouterr().out
    main([str(tmp_path / "vq.pt"), str(tmp_path / "ema"), "--ema"])
    for folder, network in (("out", first), ("ema", second)):
        loaded = taming_jax.load(str(tmp_path / folder))
        assert loaded.config.resolution == 128 and loaded.config.attn_resolutions == (64,)
        np.testing.assert_array_equal(
            loaded.params["quantizer"]["codebook"], arrays_of(network)["quantize.embedding.weight"]
        )


@pytest.mark.parametrize("middle", [True, False])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_directory_of_diffusers(tmp_path, capsys, middle, ending):
    widths, attended = (32, 64, 128), (2,) if middle and ending == "bin" else ()
    network = made(Stage(Diffusers, widths, 1, 6, 5, 40, attended, middle))
    settings = {
        "_class_name": "VQModel",
        "_diffusers_version": "0.42.1",
        "block_out_channels": list(widths),
        "down_block_types": ["AttnDownEncoderBlock2D" if i in attended else "DownEncoderBlock2D" for i in range(3)],
        "up_block_types": ["AttnUpDecoderBlock2D" if i in attended else "UpDecoderBlock2D" for i in (2, 1, 0)],
        "latent_channels": 6,
        "num_vq_embeddings": 40,
        "vq_embed_dim": 5,
        "mid_block_add_attention": middle,
        "scaling_factor": 0.18215,
    }
    folder = tmp_path / "vqvae"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    if ending == "bin":
        torch.save(network.state_dict(), folder / "diffusion_pytorch_model.bin")
    else:
        save_file(arrays_of(network), folder / "diffusion_pytorch_model.safetensors")
    main([str(folder), str(tmp_path / "out")])
    assert "format: diffusers" in capsys.readouterr().out
    numbers_agree(network, tmp_path / "out", (32, 40))
    main(["--export", str(tmp_path / "out"), str(tmp_path / "back")])
    file = tmp_path / "back" / f"diffusion_pytorch_model.{ending}"
    same(arrays_of(network), read_state(file)[0])
    assert json.loads((tmp_path / "back/config.json").read_text(encoding="utf-8")) == settings
    state = torch.load(file, weights_only=True) if ending == "bin" else None
    state = state or {name: torch.from_numpy(array) for name, array in load_file(file).items()}
    Stage(Diffusers, widths, 1, 6, 5, 40, attended, middle).load_state_dict(state, strict=True)


def test_attention_of_diffusers_under_its_old_names(tmp_path):
    network = made(Stage(Diffusers, (32, 32), 1, 4, 4, 30))
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, array in arrays_of(network).items():
        for new, before in renamed.items():
            name = name.replace(f".{new}.", f".{before}.")
        old[name] = array
    (tmp_path / "old").mkdir()
    settings = {"block_out_channels": [32, 32], "latent_channels": 4, "num_vq_embeddings": 30}
    settings |= {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    (tmp_path / "old/config.json").write_text(json.dumps({"_class_name": "VQModel", **settings}), encoding="utf-8")
    write_checkpoint(tmp_path / "old/diffusion_pytorch_model.bin", old)
    main([str(tmp_path / "old"), str(tmp_path / "out")])
    numbers_agree(network, tmp_path / "out")
    main(["--export", str(tmp_path / "out"), str(tmp_path / "back")])
    same(old, read_state(tmp_path / "back/diffusion_pytorch_model.bin")[0])


def ldm_settings(widths, attended, z, dim, codes, kind="VQModel", **more):
    network = {"double_z": False, "z_channels": z, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": widths[0]}
    network |= {"ch_mult": [width // widths[0] for width in widths], "num_res_blocks": 1, "dropout": 0.0}
    network |= {"attn_resolutions": [64 // 2**level for level in attended]}
    network |= {"attn_type": "none"} if more.pop("without", False) else {}
    params = {"embed_dim": dim, "n_embed": codes, "ddconfig": network, "lossconfig": {"target": "torch.nn.Identity"}}
    return {"target": f"ldm.models.autoencoder.{kind}", "params": {**params, "monitor": "val/rec_loss", **more}}


MORE = {"batch_resize_range": [256, 384], "lr_g_factor": 2.0, "use_ema": True}
MORE["scheduler_config"] = {"target": "ldm.lr_scheduler.LambdaLinearScheduler", "params": {"warm_up_steps": [1]}}


@pytest.mark.parametrize("without", [True, False])
def test_a_first_stage_of_latent_diffusion(tmp_path, capsys, without):
    widths, attended = (32, 64), () if without else (1,)
    build = lambda: Stage(LatentDiffusion, widths, 1, 4, 4, 40, attended, not without)
    network, averages = made(build()), made(build(), 5)
    own = arrays_of(network)
    ema = {f"model_ema.{name.replace('.', '')}": array for name, array in arrays_of(averages).items()}
    ema |= {"model_ema.decay": np.array(0.9999, np.float32), "model_ema.num_updates": np.array(3, np.int32)}
    kind = "VQModel" if without else "VQModelInterface"
    settings = ldm_settings(widths, attended, 4, 4, 40, kind, without=without, **MORE)
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"model": {"base_learning_rate": 4.5e-6, **settings}}), encoding="utf-8"
    )
    write_checkpoint(tmp_path / "model.ckpt", {"state_dict": own | ema, "global_step": 9})
    main([str(tmp_path / "model.ckpt"), str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "format: latent-diffusion" in printed and "averages (model_ema.*) are left out; --ema" in printed
    numbers_agree(network, tmp_path / "out")
    main([str(tmp_path / "model.ckpt"), str(tmp_path / "ema"), "--ema"])
    np.testing.assert_array_equal(
        taming_jax.load(str(tmp_path / "ema")).params["quantizer"]["codebook"],
        arrays_of(averages)["quantize.embedding.weight"],
    )
    main(["--export", str(tmp_path / "out"), str(tmp_path / "back.ckpt")])
    same(own, read_state(tmp_path / "back.ckpt")[0])
    build().load_state_dict(torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"], strict=True)
    back = yaml.safe_load((tmp_path / "back-project.yaml").read_text(encoding="utf-8"))["model"]
    assert back["target"] == settings["target"]
    assert back["params"]["ddconfig"] == settings["params"]["ddconfig"]
    (tmp_path / "back-project.yaml").rename(tmp_path / "again.yaml")
    main([str(tmp_path / "back.ckpt"), str(tmp_path / "again"), "--config", str(tmp_path / "again.yaml")])


def test_the_first_stage_out_of_a_latent_diffusion_model(tmp_path, capsys):
    network = made(Stage(LatentDiffusion, (32, 32), 1, 4, 4, 40, (), False))
    below = {f"first_stage_model.{name}": array for name, array in arrays_of(network).items()}
    others = {"model.diffusion_model.out.2.weight": np.zeros((3, 3), np.float32), "betas": np.zeros(4, np.float32)}
    stage = ldm_settings((32, 32), (), 4, 4, 40, "VQModelInterface", without=True)
    whole = {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {"first_stage_config": stage}}
    whole["params"] |= {"timesteps": 1000, "unet_config": {"target": "ldm.modules.x.UNetModel"}}
    (tmp_path / "project.yaml").write_text(yaml.safe_dump({"model": whole}), encoding="utf-8")
    write_checkpoint(tmp_path / "last.ckpt", {"state_dict": below | others})
    main([str(tmp_path / "last.ckpt"), str(tmp_path / "out")])
    assert "2 arrays outside of the first stage" in capsys.readouterr().out
    numbers_agree(network, tmp_path / "out")
    main(["--export", str(tmp_path / "out"), str(tmp_path / "back.ckpt")])
    same(below, read_state(tmp_path / "back.ckpt")[0])


def test_the_losses_of_codes_of_length_1_are_llamagens():
    with np.load(GOLDENS / "llamagen_quantizer.npz") as arrays:
        arrays = dict(arrays)
    import jax

    quantizer = NormalizedQuantizer(256, 8, beta=0.25, entropy_weight=0.1)
    loss_of = lambda codes: (lambda q: (q.loss, q))(
        quantizer.apply({"params": {"codebook": codes}}, arrays["pre_quant"])
    )
    (_, found), gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(arrays["embedding"])
    np.testing.assert_array_equal(found.ids, arrays["indices"])
    close(found.z, arrays["quant"], 1e-5)
    names = {"codebook_loss": "vq_loss", "commit_loss": "commit_loss", "entropy_loss": "entropy_loss"}
    for ours, theirs in names.items():
        np.testing.assert_allclose(found.metrics[ours], arrays[theirs], rtol=1e-4)
    close(gradient, arrays["grad_embedding"], 1e-3)


@pytest.fixture(scope="module")
def drawing(golden, tmp_path_factory):
    """(folder of LlamaGen's small transformer with a tokenizer around it, its arrays)."""
    folder, arrays = tmp_path_factory.mktemp("c2i"), golden("llamagen_c2i")
    network = made(Stage(LlamaGen, (32, 32, 32), 1, 32, 8, 256, (2,), normalized=True))
    torch.save({"model": network.state_dict()}, folder / "vq.pt")
    write_checkpoint(folder / "gpt.pt", {"model": weights(arrays)})
    (folder / "sizes.yaml").write_text(yaml.safe_dump({"block_size": 64, "n_head": 4}), encoding="utf-8")
    main([str(folder / "vq.pt"), str(folder / "vq")])
    command = [str(folder / "gpt.pt"), str(folder / "out"), "--first-stage", str(folder / "vq"), "--n-head", "4"]
    main([*command, "--config", str(folder / "sizes.yaml")])
    return folder, arrays


def test_a_transformer_of_llamagen_draws_its_codes(drawing):
    folder, arrays = drawing
    model, labels = taming_jax.load(str(folder / "out")), arrays["class_label"]
    assert model.training_pixels == (32, 32) and model.model.condition_dropout == 0.1
    options = {"greedy": {}, "greedy_cfg": {"guidance": 2.5}}
    options["greedy_cfg_interval"] = {"guidance": 4.0, "guidance_interval": (0, 22)}
    for name, given in options.items():
        ids = model.sample_ids(3, class_label=labels, temperature=0, **given)
        np.testing.assert_array_equal(ids, arrays[name], err_msg=name)
    likelihood = model.log_likelihood(arrays["tokens"].reshape(3, 8, 8), class_label=labels)
    np.testing.assert_allclose(-np.mean(likelihood) / 64, arrays["loss"], rtol=1e-4)


def test_its_transformer_goes_back_bit_for_bit(drawing, tmp_path):
    folder, arrays = drawing
    main(["--export", str(folder / "out"), str(tmp_path / "back.pt")])
    same(weights(arrays), read_state(tmp_path / "back.pt")[0])
    Transformer(3, 4, 64, 256, 8, 10).load_state_dict(torch.load(tmp_path / "back.pt", weights_only=True)["model"])


def test_a_transformer_alone_knows_classes_and_codes(drawing, tmp_path):
    folder, arrays = drawing
    main([str(folder / "gpt.pt"), str(tmp_path / "alone"), "--n-head", "4", "--config", str(folder / "sizes.yaml")])
    model = taming_jax.load(str(tmp_path / "alone"))
    ids = np.concatenate([arrays["class_label"][:, None], arrays["tokens"][:, :-1]], axis=1)
    close(model.logits(ids), arrays["logits"], 1e-4)
    drawn = model.extend(arrays["class_label"][:, None], 64, temperature=0)
    np.testing.assert_array_equal(drawn, arrays["greedy"].reshape(3, 64))
    with pytest.raises(ValueError, match=r"ids of the condition reach from 11 to 11; this transformer knows 0..10"):
        model.logits([[11, 200]])


def test_grouped_heads_and_half_precision(tmp_path):
    net = Transformer(2, 4, 32, 50, 4, 6, kv_heads=2, hidden=96)
    net = made(net).half()
    torch.save({"module": {f"module.{name}": value for name, value in net.state_dict().items()}}, tmp_path / "c2i.pt")
    (tmp_path / "sizes.json").write_text(
        json.dumps({"block_size": 16, "n_layer": 2, "dim": 32, "vocab_size": 50}), encoding="utf-8"
    )
    main([str(tmp_path / "c2i.pt"), str(tmp_path / "out"), "--n-head", "4"])
    model = taming_jax.load(str(tmp_path / "out"))
    config = model.model.config
    assert (config.kv_heads, config.grid, swiglu_width(32, config.mlp_multiple)) == (2, (4, 4), 96)
    label, ids = torch.tensor([1, 6]), torch.randint(0, 50, (2, 15))
    with torch.no_grad():
        expected = net.float()(label, ids).numpy()
    close(model.logits(np.concatenate([label[:, None], ids], axis=1)), expected, 1e-4)
    main(["--export", str(tmp_path / "out"), str(tmp_path / "back.pt")])
    same(arrays_of(net.half()), read_state(tmp_path / "back.pt")[0])


@pytest.mark.parametrize(
    ("told", "state", "name", "stage", "side"),
    [
        ({}, {}, "c2i_B_384.pt", {}, 24),
        ({}, {}, "gpt.pt", {}, 16),
        ({"image_size": 384, "downsample_size": 8}, {}, "gpt.pt", {}, 48),
        ({"block_size": 64}, {}, "c2i_B_384.pt", {}, 8),
        ({}, {"freqs_cis": np.zeros((26, 8, 2))}, "gpt.pt", {}, 5),
        ({}, {}, "gpt.pt", {"model": {"ch_mult": [1, 1, 1]}, "data": {"size": 32}}, 8),
    ],
)
def test_where_the_grid_is_found(told, state, name, stage, side):
    assert llamagen_sizes.grid_side(told, state, name, stage) == side


def test_text_conditional_transformers_are_refused_with_the_reason(tmp_path):
    state = arrays_of(Transformer(1, 2, 16, 20, 2, 3))
    del state["cls_embedding.embedding_table.weight"]
    state["cls_embedding.uncond_embedding"] = np.zeros((120, 16), np.float32)
    state["cls_embedding.cap_proj.fc1.weight"] = np.zeros((16, 2048), np.float32)
    write_checkpoint(tmp_path / "t2i.pt", {"model": state})
    with pytest.raises(SystemExit, match="text-conditional transformer of LlamaGen: it reads the features of a T5"):
        main([str(tmp_path / "t2i.pt"), str(tmp_path / "out")])


def refused_transformer(change=None, **arguments):
    state = arrays_of(Transformer(2, 4, 32, 20, 2, 3))
    if change:
        change(state)
    sizes = llamagen_transformer.sizes_of(state)
    return llamagen_transformer.config_of(sizes, arguments.get("told", {}), arguments.get("n_head", 4), 2)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda: refused_transformer(n_head=0),
            "it is no published size; give --n-head N",
        ),
        (lambda: refused_transformer(n_head=5), "--n-head 5 does not divide the width 32"),
        (lambda: refused_transformer(told={"norm_eps": 1e-6}), "norm_eps=1e-06 is not supported"),
        (lambda: refused_transformer(lambda s: s.pop("layers.0.feed_forward.w1.weight")), "make no transformer"),
        (lambda: llamagen_tokenizer.config_of({}, {}), "make no tokenizer of LlamaGen"),
        (lambda: diffusers.config_of({"_class_name": "AutoencoderKL"}, "x"), "_class_name='AutoencoderKL'"),
        (lambda: diffusers.config_of({"norm_type": "spatial"}, "x"), "norm_type='spatial' is not supported"),
        (lambda: diffusers.config_of({"novel": 1}, "x"), "the settings novel are unknown"),
        (lambda: diffusers.config_of({"up_block_types": ["AttnUpDecoderBlock2D"]}, "x"), "attend in the encoder alone"),
        (lambda: diffusers.config_of({"down_block_types": ["Down2D"]}, "x"), "are not supported for 1 levels"),
    ],
)
def test_what_is_not_supported_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()


def test_other_errors_of_the_command(tmp_path, drawing):
    folder, _ = drawing
    state = arrays_of(made(Stage(LlamaGen, (32, 32), 1, 32, 4, 40, (1,), normalized=True)))
    write_checkpoint(tmp_path / "vq.pt", {"model": {**state, "decoder.extra": np.zeros(3, np.float32)}})
    gpt, out = str(folder / "gpt.pt"), str(tmp_path / "out")
    cases = (
        ([str(tmp_path / "vq.pt"), out], r"decoder.extra \(3,\) is unknown"),
        ([str(tmp_path / "vq.pt"), out, "--ema"], "--ema: .* holds no averages"),
        ([gpt, out, "--n-head", "4", "--first-stage", str(folder / "out")], "holds no first stage"),
        (["--export", str(folder / "out"), str(tmp_path / "x.pt"), "--format", "diffusers"], "is a first stage, and"),
        (
            ["--export", str(folder / "out"), str(tmp_path / "x.ckpt"), "--format", "original"],
            "to the original",
        ),
        (["--export", str(folder / "vq"), str(tmp_path / "x"), "--format", "diffusers"], "cannot be this: quantizer"),
        ([str(folder), out], "holds several checkpoints; name one of them: gpt.pt, vq.pt"),
        ([str(folder / "vq"), out], "is a model of this project already"),
    )
    for command, message in cases:
        with pytest.raises(SystemExit, match=message):
            main(command)
    assert not (tmp_path / "out").exists()
