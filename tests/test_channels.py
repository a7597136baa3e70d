"""Images of other channels than three, through the programs' own functions: both stages, and drawing from files."""

import importlib

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

import train_transformer
import train_vqgan
from taming_jax import encode_dataset, evaluate, pictures
from taming_jax.data.config import DataConfig
from taming_jax.data.pipeline import make_batches
from taming_jax.drawing.completion import read_mask, read_picture
from taming_jax.drawing.drawing import draw
from taming_jax.drawing.reproduction import reproduce
from taming_jax.experiment import SampleConfig, TransformerExperiment, VQGANExperiment
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.settings import from_dict
from taming_jax.trained.loading import load
from taming_jax.trained.stages import _check_channels

SIDE = 16


def values(channels, i):
    """uint8, or uint16 where there is one channel, (SIDE, SIDE, channels)."""
    rng = np.random.default_rng(i)
    kind, top = (np.uint16, 1 << 16) if channels == 1 else (np.uint8, 1 << 8)
    return rng.integers(0, top, (SIDE, SIDE, channels)).astype(kind)


def write(folder, channels, i):
    """One file of the folder, and its name."""
    pixels = values(channels, i)
    if channels > 4:
        np.save(folder / f"{i}.npy", pixels)
        return str(folder / f"{i}.npy")
    Image.fromarray(pixels.squeeze()).save(folder / f"{i}.png")
    return str(folder / f"{i}.png")


def experiment(name, path, channels, **sections):
    config = importlib.import_module(f"configs.{name}").get_config("tiny").to_dict()
    config["data"] |= {"source": "folder", "path": path, "channels": channels, "size": SIDE, "batch_size": 2}
    config["data"] |= {"val_share": 0.5, "workers": 1, "annotations": ()}
    config["train"] |= {"steps": 2, "log_every": 1, "eval_every": 2, "image_every": 2, "save_every": 2}
    config["mesh"] |= {"data": 1}
    for section, settings in sections.items():
        config[section] = config[section] | settings if isinstance(settings, dict) else settings
    return from_dict(TransformerExperiment if "transformer" in config else VQGANExperiment, config)


def first_stage(path, channels, **sections):
    sections["model"] = {"in_channels": channels, "out_channels": channels, "ch": 8, "ch_mult": (1, 2)}
    sections["model"] |= {"attn_resolutions": (), "z_channels": 8, "embed_dim": 8, "norm_groups": 4}
    sections["discriminator"] = {"in_channels": channels} | sections.get("discriminator", {})
    sections["loss"] = {"disc_learn_start": 0, "disc_start": 0} | sections.get("loss", {})
    return experiment("folder_vqgan", path, channels, **sections)


@pytest.mark.parametrize("channels", [1, 4])
def test_both_stages_and_drawing(tmp_path, channels):
    data, first, second = tmp_path / "data", str(tmp_path / "first"), str(tmp_path / "second")
    data.mkdir()
    files = [write(data, channels, i) for i in range(6)]
    loss = {} if channels == 4 else {"disc_weight": 0.0}  # what costs time is done for one of them
    assert train_vqgan.train_and_evaluate(first_stage(str(data), channels, loss=loss), first)
    stage = load(first)
    truth = read_picture(files[0], 2, channels)
    np.testing.assert_allclose(truth, values(channels, 0) / (127.5 if channels > 1 else 32767.5) - 1, atol=1e-6)
    assert stage.reconstruct(truth[None]).shape == (1, SIDE, SIDE, channels)

    condition = {"kind": "low_res", "stage": "first_stage", "scale": 2}
    sections = {"first_stage": first, "condition": condition, "transformer": {"n_layer": 1, "n_embd": 16}}
    settings = experiment("demo_low_res", str(data), channels, **sections)
    assert train_transformer.train_and_evaluate(settings, second)
    ask = {"n": 2, "batch_size": 2, "out": str(tmp_path / "out")}
    out = draw(SampleConfig(**ask, condition=files[1], complete=files[0], keep="top", animate=True), second)
    name = f"00000_{1}"
    with Image.open(out / f"{name}.png") as picture:
        assert picture.mode == {1: "L", 4: "RGBA"}[channels] and picture.size == (SIDE, SIDE)
    assert not (out / f"{name}.npy").exists()
    if channels == 4:
        draw(SampleConfig(**{**ask, "out": str(tmp_path / "held_out")}), second)
        assert reproduce(str(out / f"{name}.png"))
        assert "reconstruction/psnr" in evaluate.evaluate(second, str(tmp_path / "report"), 0, 8)
        encode_dataset.encode(settings, str(tmp_path / "codes"))
        sections["data"] = {"source": "codes", "path": str(tmp_path / "codes")}
        again = experiment("demo_low_res", "", 3, **sections)
        assert train_transformer.train_and_evaluate(again, str(tmp_path / "third"))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA"), (6, "RGB")])
def test_a_picture_that_does_not_hold_all_has_its_values_beside_it(tmp_path, channels, mode):
    image = np.random.default_rng(0).uniform(-1, 1, (4, 6, channels)).astype(np.float32)
    path = epath.Path(tmp_path / "a.b_00000.png")
    pictures.save(image, path)
    with Image.open(path) as picture:
        assert (picture.mode, picture.size) == (mode, (6, 4))
    beside = tmp_path / "a.b_00000.npy"
    assert beside.exists() == (channels in (2, 6))
    if beside.exists():
        np.testing.assert_array_equal(np.load(beside), image)


@pytest.mark.parametrize("channels", [2, 6])
def test_a_first_stage_reads_and_draws_any_channels(channels):
    config = VQGANConfig(in_channels=channels, out_channels=channels, ch=8, ch_mult=(1,), norm_groups=4, embed_dim=4)
    image = jax.ShapeDtypeStruct((2, SIDE, SIDE, channels), np.float32)
    (x, _), _ = jax.eval_shape(VQGAN(config).init_with_output, jax.random.key(0), image)
    assert x.shape == image.shape


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"channels": 3}}, r"in_channels=4, but the data's image has 3 channels \(config.data.channels\)"),
        ({"loss": {"perceptual_weight": 1.0}}, r"LPIPS .* 3 channels or 1, and these have 4.*perceptual_weight is 1.0"),
        ({"discriminator": {"in_channels": 3}}, r"config.discriminator.in_channels=3, but the images have 4"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_setting(tmp_path, sections, message):
    for i in range(4):
        write(tmp_path, 4, i)
    with pytest.raises(ValueError, match=message):
        train_vqgan.train_and_evaluate(first_stage(str(tmp_path), 4, **sections), str(tmp_path / "out"))


def test_a_second_stage_needs_the_channels_of_its_first(tmp_path):
    settings = experiment("demo_low_res", str(tmp_path), 3)
    with pytest.raises(ValueError, match=r"config.data.channels=3, but config.first_stage reads images of 4 channels"):
        _check_channels(settings.data, VQGAN(VQGANConfig(in_channels=4, out_channels=4)))


def test_the_demo_has_as_many_channels_as_are_asked_for():
    batch = lambda channels: next(make_batches(DataConfig(size=32, batch_size=2, channels=channels), "val"))["image"]
    batches = {channels: batch(channels) for channels in (1, 2, 3, 4)}
    np.testing.assert_allclose(batches[4][..., :3], batches[3], atol=1e-6)
    np.testing.assert_allclose(batches[1][..., 0], batches[3] @ [0.299, 0.587, 0.114], atol=0.01)
    assert (batches[2][..., 1] == 1).all() and (batches[4][..., 3] == 1).all()
    with pytest.raises(ValueError, match=r"cannot have the 5 channels"):
        batch(5)


def test_a_mask_file_that_keeps_nothing_or_everything_is_refused(tmp_path):
    image = np.zeros((8, 8, 3), np.float32)
    Image.new("L", (8, 8), 255).save(tmp_path / "all.png")
    with pytest.raises(ValueError, match=r"the mask '.*all.png' cannot be used: all of it is alike"):
        read_mask(str(tmp_path / "all.png"), image, 2)
