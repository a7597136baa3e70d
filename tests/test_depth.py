"""Depth maps with holes: what counts for the range, what holes become, and what is said of them before training."""

import numpy as np
import pytest
from PIL import Image

from taming_jax.conditioning import ConditionConfig, make_condition
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig
from taming_jax.data.map_files import read_depth, write_depth
from taming_jax.data.opening import BrokenImage
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.trained.loading import with_missing

H, W = 40, 56


def scene(seed, low=1500, high=4000):
    """(depth of a slope, holes here and there, the sky above), drawn."""
    rng = np.random.default_rng(seed)
    depth = np.round(np.linspace(high, low, H)[:, None] + rng.uniform(0, 30, (H, W)))
    sky = np.zeros((H, W), bool)
    sky[: int(rng.integers(4, 12))] = True
    holes = (rng.random((H, W)) < rng.uniform(0.02, 0.2)) & ~sky
    return depth, holes, sky


def save(path, depth, holes, sky, hole, far, kind):
    """With the values `hole` and `far` in a file of this kind."""
    values = np.where(holes, hole, np.where(sky, far, depth))
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "rgba":
        Image.fromarray(values.astype("<f4").view(np.uint8).reshape(H, W, 4)).save(path.with_suffix(".png"))
    elif kind == "png":
        Image.fromarray(values.astype(np.uint16)).save(path.with_suffix(".png"))
    else:
        np.save(path.with_suffix(".npy"), values.astype(kind))
    return str(path.with_suffix(".png" if kind in ("rgba", "png") else ".npy"))


CASES = [
    ("png", 0, 65535, (0.0, 65535.0)),
    ("uint16", 0, 65535, (65535.0, 0.0)),
    ("int32", -1, 2**31 - 1, (-1.0, 2.0**31 - 1)),
    ("float32", np.nan, np.inf, ()),
    ("float64", -np.inf, np.inf, ()),
    ("float32", -9999.0, 3.4028235e38, (-9999.0, 3.4028235e38)),
    ("float16", np.nan, np.inf, ()),
    ("rgba", np.nan, np.inf, ()),
    ("rgba", 0, np.inf, (0.0,)),
]


@pytest.mark.parametrize(("kind", "hole", "far", "missing"), CASES)
def test_real_depth_takes_the_whole_range(tmp_path, kind, hole, far, missing):
    depth, holes, sky = scene(len(kind))
    read = read_depth(save(tmp_path / "a", depth, holes, sky, hole, far, kind), missing=missing)
    real = ~holes & ~sky
    low, high = depth[real].min(), depth[real].max()
    np.testing.assert_allclose(read[real], 2 * (depth[real] - low) / (high - low) - 1, atol=2e-3)
    assert read[real].min() == -1 and read[real].max() == 1 and (read[sky] == 1).all()
    y, x = np.mgrid[:H, :W]
    for i, j in np.argwhere(holes)[:20]:  # each is one of the measured pixels that are nearest to it
        distance = np.where(real, (y - i) ** 2 + (x - j) ** 2, np.inf)
        assert read[i, j] in read[distance == distance.min()]


def test_without_holes_nothing_changes(tmp_path):
    depth, holes, sky = scene(3)
    write_depth(str(tmp_path / "a.png"), depth)
    whole = read_depth(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(whole, (2 * (depth - depth.min()) / np.ptp(depth) - 1).astype(np.float32))
    np.testing.assert_array_equal(read_depth(str(tmp_path / "a.png"), missing=(0.0, 65535.0)), whole)
    assert (read_depth(save(tmp_path / "b", depth * 0 + 7, holes, sky, 0, 0, "png"), missing=(0.0,)) == -1).all()
    with pytest.raises(BrokenImage, match=r"has no depth: all 2240 are .* `missing`, \(7\.0,\)"):
        read_depth(save(tmp_path / "c", depth * 0 + 7, holes, sky, 7, 7, "png"), missing=(7.0,))


def photos(folder, n, **options):
    for i in range(n):
        picture = Image.fromarray(np.random.default_rng(i).integers(0, 255, (H, W, 3), np.uint8))
        (folder / "photos").mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"photos/{i}.png")
        save(folder / "depth" / str(i), *scene(i), **options)
    settings = {"path": str(folder / "photos"), "depths": str(folder / "depth"), "annotations": ("depth",)}
    return lambda **more: DataConfig("folder", size=16, batch_size=2, val_share=0.4, workers=1, **settings, **more)


def said(config):
    return " ".join(sentence for sentence in pipeline.warnings(config) if "depth maps" in sentence)


@pytest.mark.parametrize(("hole", "far"), [(0, 65535), (0, None), (None, 65535), (65535, 65535)])
def test_holes_are_warned_of_until_they_are_set(tmp_path, hole, far, caplog):
    own = lambda value, i: scene(i)[0] if value is None else value
    data = photos(tmp_path, 5, hole=0 if hole is None else hole, far=0 if far is None else far, kind="png")
    for i in range(5):  # anew, without what is not asked for
        depth, holes, sky = scene(i)
        save(tmp_path / "depth" / str(i), depth, holes, sky, own(hole, i), own(far, i), "png")
    values = ",".join(str(value) for value in sorted({hole, far} - {None}))
    text = said(data())
    assert "in 5 of 5 depth maps" in text and text.endswith(f"config.data.missing={values}")
    shares = [[np.mean(m) for m in (scene(i)[1], scene(i)[2])] for i in range(5)]
    expected = {value: 0.0 for value in {hole, far} - {None}}
    for value, share in zip((hole, far), np.mean(shares, axis=0)):
        if value is not None:
            expected[value] += share
    assert all(f"{value} ({share:.1%} of the pixels)" in text for value, share in expected.items())
    pipeline.check(data(), pipeline.AS_SET)
    assert "a likely mistake: in 5 of 5 depth maps" in caplog.text
    assert said(data(missing=values)) == ""
    for part in ("train", "val"):
        batch = next(pipeline.make_batches(data(missing=values, random_crop=False), part))
        assert np.ptp(batch["depth"][0]) > 1.5


@pytest.mark.parametrize("levels", [4, 256])
def test_depth_of_few_bits_is_no_mistake(tmp_path, levels):
    data = photos(tmp_path, 3, hole=0, far=0, kind="png")
    for i in range(3):
        depth = scene(i)[0]
        grey = np.floor((depth - depth.min()) / np.ptp(depth) * (levels - 1e-6)) * (255 // (levels - 1))
        Image.fromarray(grey.astype(np.uint8)).save(tmp_path / f"depth/{i}.png")
    assert said(data()) == ""


def test_outliers_and_maps_of_one_value_are_said(tmp_path):
    data = photos(tmp_path, 4, hole=0, far=0, kind="float32")
    for i in range(4):
        depth = scene(i)[0]
        depth[0, 0] = 1e6
        np.save(tmp_path / f"depth/{i}.npy", depth if i else np.full((H, W), 3.0))
    text = said(data())
    assert "in 3 of 4 depth maps that were read, 98 % of the pixels take 0% of the range" in text
    assert "1 of 4 depth maps that were read hold one value alone" in text


@pytest.mark.parametrize("wrong", ["zero", "0;1", "0,,1"])
def test_what_is_no_list_of_values_is_refused(wrong):
    with pytest.raises(ValueError, match=r"missing='.*it must be numbers with commas"):
        DataConfig(missing=wrong)


def test_conditions_are_read_as_the_training_read_its_maps(tmp_path):
    """Its setting comes with the model, and codes know it from the maps that they were made of."""
    stage = VQGAN(VQGANConfig(content="depth", in_channels=1, out_channels=1, ch_mult=(1, 1, 2), norm_groups=4))
    image = VQGAN(VQGANConfig(ch_mult=(1, 1, 2), norm_groups=4))
    path = save(tmp_path / "a", *scene(5), 0, 65535, "png")
    condition = make_condition(ConditionConfig("depth", stage="own"), image, 16, stage)
    missing = pipeline.missing_depths({"source": "folder", "missing": "0,65535"})
    given = with_missing(condition, missing).read(tmp_path / "a.png", 4, None)
    np.testing.assert_array_equal(given["depth"], read_depth(path, missing=(0.0, 65535.0)))
    np.testing.assert_array_equal(condition.read(tmp_path / "a.png", 4, None)["depth"], read_depth(path))
    assert pipeline.missing_depths({"source": "codes", "path": str(tmp_path)}) == ()  # they are gone
    assert pipeline.missing_depths({}) == ()  # a model of before
