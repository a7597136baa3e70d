"""Images of (height, width): the setting, what is cut out of files, tokens of each condition, and both stages."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from PIL import Image
from tiny import TINY, untrained

import taming_jax
import train_transformer
import train_vqgan
from taming_jax import checkpoint, encode_dataset
from taming_jax.conditioning import CONDITIONS, KINDS, ConditionConfig, make_condition
from taming_jax.convert.original.names import Networks, StageNetworks
from taming_jax.convert.original.project import _square
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig
from taming_jax.data.demo import DemoScenes
from taming_jax.data.listing import Figures, Listing, ObjectTable
from taming_jax.data.map_files import write_depth, write_label_map
from taming_jax.data.pixels import Photo
from taming_jax.data.reader import Reader
from taming_jax.data.transforms import choose_window, cut_points
from taming_jax.drawing.drawing import draw
from taming_jax.experiment import SampleConfig, TransformerExperiment, VQGANExperiment, saved_form
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.vqgan import VQGAN
from taming_jax.settings import from_dict, plain_size, to_dict
from taming_jax.trained.fingerprint import describe
from taming_jax.trained.loading import two_stage
from taming_jax.training.changes import compare

SIDES = (96, 160)


# The setting


def test_a_size_is_a_side_or_height_and_width_and_a_square_is_always_a_side():
    assert [plain_size(size) for size in (64, (64, 64), [96, 160])] == [64, 64, (96, 160)]
    data = DataConfig(size=[96, 160])
    assert data.size == SIDES == data.sides and hash(data) == hash(DataConfig(size=SIDES))
    assert DataConfig(size=(64, 64)) == DataConfig(size=64) and DataConfig(size=64).sides == (64, 64)
    saved = json.loads(json.dumps(to_dict(data)))
    assert saved["size"] == [96, 160] and from_dict(DataConfig, saved) == data
    assert to_dict(DataConfig(size=(64, 64)))["size"] == 64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": (1, 2, 3)}, r"config.size=\(1, 2, 3\), but it must be one whole number, or \(height, width\)"),
        ({"size": ()}, r"size=\(\), but it must be one whole number"),
        ({"size": True}, r"size is True"),
        ({"size": 64.0}, r"size is 64.0"),
        ({"size": (8, 64)}, r"size=\(8, 64\), but it must be from 16 to 4096"),
        ({"size": 5000}, r"size=5000, but it must be from 16 to 4096"),
        ({"size": (96, 160), "resize": 95}, r"resize=95, but it must be 0 or at least size=96"),
    ],
)
def test_other_sizes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(DataConfig, values)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (["=256"], 256),
        (["", "48"], 48),
        (["=(96,160)"], SIDES),
        (["=96,160"], SIDES),
        (["=(64, 64)"], 64),
        (["=1,2,3"], r"it must be one whole number, or \(height, width\)"),
        (["=abc"], "'abc' is not a whole number, or several with commas"),
        (["=9.5"], "'9.5' is not a whole number, or several with commas"),
    ],
)
@pytest.mark.filterwarnings("ignore:the load_module")  # how ml_collections reads the file
@pytest.mark.parametrize("name", ["folder_vqgan", "demo_class:tiny"])
def test_flags_set_it(name, given, size, monkeypatch):
    path, _, words = name.partition(":")
    path = str(Path(__file__).parent.parent / "configs" / f"{path}.py") + (f":{words}" if words else "")
    argv = ["program", f"--config={path}", *[f"--config.data.size{given[0]}", *given[1:]], "--config.data.path=x"]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, flag_values=values)
    monkeypatch.setattr(sys, "argv", argv)

    def parsed():
        values(argv)
        config = holder.value.to_dict()
        return from_dict(TransformerExperiment if "transformer" in config else VQGANExperiment, config)

    if isinstance(size, str):
        with pytest.raises((ValueError, flags.Error), match=size):
            parsed()
    else:
        assert parsed().data.size == size


def test_what_has_changed_since_a_training_was_saved():
    settings = importlib.import_module("configs.demo_class").get_config("tiny").to_dict()

    def saved(size):
        settings["data"]["size"] = size
        return json.loads(json.dumps(saved_form(from_dict(TransformerExperiment, settings))))

    assert not any(compare(saved(64), saved((64, 64))).values())
    assert not any(compare(saved((32, 64)), saved([32, 64])).values())
    assert compare(saved(64), saved((32, 64)))["model"] == ["config.data.size: saved 64, given [32, 64]"]


# What is cut out


def photo_of(width, height):
    return Photo(None, width, height, (width, height), 1)


def test_a_square_begins_at_a_whole_pixel_of_the_resized_image():
    random = np.random.default_rng(0)
    for seed in range(2000):
        width, height, size = (int(n) for n in (*random.integers(8, 3000, 2), random.integers(16, 600)))
        resize, random_scale = int(random.choice([0, size + random.integers(0, 500)])), bool(seed % 2)
        rng = np.random.default_rng(seed)
        short = min(width, height)
        side = short * size / max(resize, size)
        (x, y), flip = rng.random(2), bool(rng.random() < 0.5)
        if random_scale:
            side = min(size, side) + rng.random() * (side - min(size, side))
        options = {"resize": resize, "random_scale": random_scale}
        window = choose_window(photo_of(width, height), (size, size), np.random.default_rng(seed), **options)
        across, down = (length * size / side + 1e-9 for length in (width, height))  # the whole, resized
        left, top = int(x * (int(across) - size + 1)), int(y * (int(down) - size + 1))
        expected = (width, height, left * side / size, top * side / size, side, side)
        np.testing.assert_allclose(window[:6], expected, rtol=1e-12)
        assert window.flip == flip and window.crop((size, size))[:2].tolist() == [top, left]


@pytest.mark.parametrize("options", [{}, {"resize": 120}, {"random_scale": True}])
def test_windows_have_the_shape_and_lie_inside(options):
    random = np.random.default_rng(1)
    for seed in range(500):
        width, height, *sides = (int(n) for n in (*random.integers(8, 3000, 2), *random.integers(16, 120, 2)))
        window = choose_window(photo_of(width, height), tuple(sides), np.random.default_rng(seed), **options)
        assert np.isclose(window.down / window.across, sides[0] / sides[1])
        assert 0 <= window.left <= window.left + window.across <= width * (1 + 1e-12)
        assert 0 <= window.top <= window.top + window.down <= height * (1 + 1e-12)
        top, left, full_height, full_width = window.crop(tuple(sides)).tolist()
        assert 0 <= top <= full_height - sides[0] and 0 <= left <= full_width - sides[1]
        if not options:
            assert np.isclose(window.across, width) or np.isclose(window.down, height)


def test_resize_is_the_smaller_side_of_the_whole_image():
    window = choose_window(photo_of(800, 600), SIDES, None, resize=300)  # half as large
    assert window[2:6] == (240, 204, 320, 192)
    np.testing.assert_array_equal(window.crop(SIDES), [102, 120, 300, 400])
    narrow = choose_window(photo_of(100, 600), SIDES, None, resize=150)  # the most that it has
    assert (narrow.across, narrow.down) == (100, 60)


@pytest.fixture
def listing(tmp_path):
    """One photograph whose red and green tell column and row, with maps, an object and key points that do so too."""
    random, kinds = np.random.default_rng(2), {}

    def make(width, height):
        y, x = np.mgrid[:height, :width]
        image = np.stack([x * 255 / (width - 1), y * 255 / (height - 1), 0 * x], axis=-1)
        paths = [str(tmp_path / name) for name in ("image.png", "map.png", "depth.png")]
        Image.fromarray(np.round(image).astype(np.uint8)).save(paths[0])
        write_label_map(paths[1], (y * 8 // height * 8 + x * 8 // width).astype(np.uint8))
        write_depth(paths[2], x.astype(np.float32) / (width - 1))
        corner = random.uniform(0, 0.5, (1, 2))
        boxes = np.concatenate([corner, random.uniform(0.2, 0.5, (1, 2))], axis=1).astype(np.float32)
        points = np.concatenate([random.random((1, 2, 2)), np.ones((1, 2, 1))], axis=-1).astype(np.float32)
        start, none = np.array([0, 1]), np.zeros(1, np.int32)
        kinds["objects"] = ObjectTable(boxes, none, none, start)
        kinds["figures"] = Figures(points, start, (0, 1))
        return Listing([paths[0]], maps=[paths[1]], n_labels=64, depths=[paths[2]], **kinds)

    return make


@pytest.mark.parametrize("settings", [{}, {"resize": 64}, {"random_scale": True}])
def test_a_window_cuts_image_maps_boxes_and_points_alike(listing, settings):
    random = np.random.default_rng(3)
    annotations = ("segmentation", "depth", "crop", "objects", "keypoints")
    flips, seen = [], 0
    for seed in range(30):
        width, height = random.integers(60, 200, 2).tolist()
        sides = tuple(random.integers(16, 60, 2).tolist())
        found = listing(width, height)
        config = DataConfig("folder", path="x", size=sides, annotations=annotations, min_visible=0, **settings)
        record = Reader(config, found).read("", found.images[0], 0, np.random.default_rng(seed), 0)
        assert record["valid"] and record["image"].shape == (*sides, 3)
        assert record["segmentation"].shape == record["depth"].shape == sides
        x, y = (record["image"][..., i] / 255 for i in (0, 1))  # shares of the whole photograph
        np.testing.assert_allclose(record["depth"], 2 * x - 1, atol=0.06)
        labels = (y * 8).astype(int).clip(0, 7) * 8 + (x * 8).astype(int).clip(0, 7)
        assert (record["segmentation"] == labels).mean() > 0.6  # neighbours of a border may have the other label
        inner = (np.abs(y * 8 % 1 - 0.5) < 0.2) & (np.abs(x * 8 % 1 - 0.5) < 0.2)
        np.testing.assert_array_equal(record["segmentation"][inner], labels[inner])

        top, left, full_height, full_width = record["crop"].tolist()
        upright = record["image"][:, ::-1] if record["flip"] else record["image"]
        rows, columns = upright[:, 0, 1] / 255, upright[0, :, 0] / 255
        np.testing.assert_allclose(rows, (top + np.arange(sides[0]) + 0.5) / full_height, atol=0.04)
        np.testing.assert_allclose(columns, (left + np.arange(sides[1]) + 0.5) / full_width, atol=0.04)
        low, extent = np.array([left / full_width, top / full_height]), np.array([sides[1], sides[0]])
        high = low + extent / [full_width, full_height]
        box = found.objects.boxes[0]
        corners = np.clip([box[:2], box[:2] + box[2:]], low, high)
        if (corners[1] - corners[0]).min() > 0.03:
            shown = record["object_boxes"][0]
            np.testing.assert_allclose([shown[:2], shown[:2] + shown[2:]], corners, atol=0.03)
            seen += 1
        for (px, py, there), (ox, oy, _) in zip(record["keypoints"][0], found.figures.points[0]):
            if there and 0.02 < min(px, py) <= max(px, py) < 0.98:
                pixel = record["image"][int(py * sides[0]), int(px * sides[1])] / 255
                np.testing.assert_allclose(pixel[:2], [ox, oy], atol=0.06)
                seen += 1
        flips.append(bool(record["flip"]))
    assert seen > 20 and {True, False} == set(flips)


def test_points_at_the_corners_of_a_window():
    window = choose_window(photo_of(300, 100), (20, 30), None)
    assert window[2:6] == (75, 0, 150, 100)
    np.testing.assert_allclose(cut_points(np.array([[0.25, 0.0], [0.75, 1.0]]), window), [[0, 0], [1, 1]])
    mirrored = window._replace(flip=True)
    np.testing.assert_allclose(cut_points(np.array([[0.25, 0.0], [0.75, 1.0]]), mirrored), [[1, 0], [0, 1]])


def test_batches_of_a_folder_and_of_the_demo(tmp_path):
    for i in range(6):
        Image.fromarray(np.full((50 + i, 70, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    data = DataConfig("folder", path=str(tmp_path), size=(24, 40), batch_size=7, val_share=0.9, workers=1)
    (batch,) = [batch for batch in pipeline.make_batches(data, "val") if batch["valid"].any()]
    assert batch["image"].shape == (7, 24, 40, 3)
    demo = DataConfig(size=(24, 40), batch_size=2, annotations=("segmentation", "depth", "crop", "objects"))
    batch = next(pipeline.make_batches(demo, "train"))
    assert batch["image"].shape == (2, 24, 40, 3) and batch["depth"].shape == batch["segmentation"].shape == (2, 24, 40)
    np.testing.assert_array_equal(batch["crop"], [[0, 0, 24, 40]] * 2)


def test_scenes_are_stretched_with_their_boxes():
    wide, square = DemoScenes((48, 96), 4, 5), DemoScenes(48, 4, 5)
    for a, b in zip((wide[i] for i in range(4)), (square[i] for i in range(4))):
        assert a["class_label"] == b["class_label"] and a["image"].shape == (48, 96, 3)
        np.testing.assert_array_equal(a["boxes"], b["boxes"])
        assert (a["segmentation"][:, ::2] == b["segmentation"]).mean() > 0.97
        rows, columns = np.nonzero(a["segmentation"] == a["box_labels"][0])
        x, y, w, h = a["boxes"][0] * (96, 48, 96, 48)
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        np.testing.assert_allclose(found, [x, y, x + w, y + h], atol=1.5)


# Conditions


def network(content="image", channels=3):
    return VQGAN(dataclasses.replace(TINY, content=content, in_channels=channels, out_channels=channels))


@pytest.mark.parametrize("kind", CONDITIONS)
def test_each_condition_of_a_rectangle(kind):
    h, w = 24, 40
    contents = {"segmentation": ("segmentation", 12), "depth": ("depth", 1), "edges": ("edges", 1), "pose": ("pose", 5)}
    stage = network(*contents.get(kind, ("image", 3)))
    config = ConditionConfig(kind, 10, stage="own", factor=4, max_objects=4, scale=2)
    condition = make_condition(config, network(), (h, w), stage)
    data = DataConfig(size=(h, w), batch_size=2, max_objects=4, annotations=condition.annotations)
    batch = next(pipeline.make_batches(data, "train"))
    params = {}
    if kind in KINDS:
        params = untrained(stage, jnp.zeros((1, 16, 16, stage.config.in_channels)))
    tokens = np.asarray(condition.tokens(batch, 2, {"condition_stage": params}))
    assert tokens.reshape(2, -1).shape == (2, condition.length) and tokens.max() < condition.vocabulary
    if condition.grid:
        factor = 4 if kind == "coordinate" else 2
        assert condition.grid == tokens.shape[1:] == (h // factor, w // factor)
    picture = condition.picture(batch, 2, (h, w))
    assert picture is None or np.shape(picture) == (2, h, w, 3)


def test_a_coordinate_is_the_pixels_number_in_the_whole_rectangle():
    condition = make_condition(ConditionConfig("coordinate", n_codes=1000, factor=8), network(), (16, 40))
    assert condition.grid == (2, 5)
    whole = condition.tokens(condition.parse({}, 1, (16, 40)), 1, {})
    crop = {"crop": jnp.asarray([[0, 0, 16, 40]]), "image": jnp.zeros((1, 16, 40, 3))}
    np.testing.assert_array_equal(condition.tokens(crop, 1, {}), whole)
    with pytest.raises(ValueError, match=r"factor=8 does not divide the images' \(16, 36\) pixels"):
        make_condition(ConditionConfig("coordinate", factor=8), network(), (16, 36))


def test_a_smaller_map_of_a_rectangle():
    stage = network("segmentation", 12)
    config = ConditionConfig("segmentation", stage="own", size=(12, 20))
    condition = make_condition(config, network(), (24, 40), stage)
    assert condition.grid == (6, 10)
    params = untrained(stage, jnp.zeros((1, 16, 16, 12)))
    labels = np.random.default_rng(0).integers(0, 12, (2, 24, 40))
    tokens = condition.tokens({"segmentation": labels}, 2, {"condition_stage": params})
    small = make_condition(ConditionConfig("segmentation", stage="own"), network(), (12, 20), stage)
    expected = small.tokens({"segmentation": labels[:, ::2, ::2]}, 2, {"condition_stage": params})
    np.testing.assert_array_equal(tokens, expected)
    larger = np.zeros((1, 48, 40), np.int32)  # as a sliding window reads it
    assert condition.tokens({"segmentation": larger}, 1, {"condition_stage": params}).shape == (1, 12, 10)
    with pytest.raises(ValueError, match=r"condition.size=12 is the side of a square, but the images are \(24, 40\)"):
        make_condition(dataclasses.replace(config, size=12), network(), (24, 40), stage)


def test_a_box_is_a_share_of_the_rectangle():
    config = ConditionConfig("boxes", 3, n_codes=101 * 101, max_objects=1)
    condition = make_condition(config, network(), (24, 40))
    batch = {"object_boxes": np.array([[[0.5, 0.5, 0.25, 0.25]]]), "object_category": np.zeros((1, 1), int)}
    batch |= {"crop": np.array([[12, 20, 48, 80]]), "image": np.zeros((1, 24, 40, 3)), "flip": np.array([False])}
    # of 80 x 48 pixels the crop shows those from (20, 12) to (60, 36): the box covers its lower right quarter
    assert condition.tokens(batch, 1, {})[0].tolist() == [0, 50 * 101 + 50, 100 * 101 + 100]
    rows, columns = np.nonzero((condition.picture(batch, 1, (24, 40))[0] > -0.9).any(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 23, 20, 39)


# Both stages


SMALL = (24, 40)


def experiment(name, size=SMALL, **sections):
    """A tiny experiment whose codes stand for 4 x 4 pixels."""
    config = importlib.import_module(f"configs.{name}").get_config("tiny").to_dict()
    config["data"] |= {"size": size, "batch_size": 4, "n_train": 8, "n_val": 4}
    config["train"] |= {"steps": 4, "log_every": 1, "eval_every": 4, "image_every": 4, "save_every": 4}
    config["mesh"] |= {"data": 1}
    if "model" in config:
        config["model"] |= {"ch": 8, "ch_mult": (1, 1, 1), "attn_resolutions": (), "n_embed": 32}
        config["model"] |= {"z_channels": 8, "embed_dim": 8}
    for section, values in sections.items():
        config[section] = config[section] | values if isinstance(values, dict) else values
    return from_dict(TransformerExperiment if "transformer" in config else VQGANExperiment, config)


def save_stage(settings, path):
    """A first stage as it begins, saved as a trained one."""
    params = untrained(VQGAN(settings.model), jnp.zeros((1, *settings.data.sides, settings.model.in_channels)))
    checkpoint.save_model(path, params=params, config=saved_form(settings))


def test_a_rectangle_through_both_stages_and_sampling(tmp_path):
    first, second, codes, third = (str(tmp_path / name) for name in ("first", "second", "codes", "third"))
    assert train_vqgan.train_and_evaluate(experiment("demo_vqgan", loss={"disc_weight": 0.0}), first)
    vqgan = taming_jax.load(first)
    images = next(pipeline.make_batches(experiment("demo_vqgan").data, "val"))["image"]
    assert images.shape == (4, *SMALL, 3) and vqgan.encode(images).shape == (4, 6, 10)
    assert vqgan.reconstruct(images).shape == images.shape

    settings = experiment("demo_class", first_stage=first)
    assert train_transformer.train_and_evaluate(settings, second)
    saved = checkpoint.open_saved(second).config
    assert saved["data"]["size"] == [24, 40] and saved["transformer"]["block_size"] == 60
    lines = [
        json.loads(line) for line in (tmp_path / "second" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["step"] for line in lines if "val/nll" in line] == [4]
    with pytest.raises(ValueError, match=r"config.data.size: saved \[24, 40\], given 24"):
        train_transformer.train_and_evaluate(
            dataclasses.replace(settings, data=experiment("demo_class", 24).data), second
        )

    generator = taming_jax.load(second)
    assert generator.training_pixels == SMALL and generator.steps(SMALL) == 60
    assert generator.sample(2, class_label=1).shape == (2, *SMALL, 3)
    for size in ((), SMALL):
        out = draw(SampleConfig(n=2, batch_size=2, size=size, out=str(tmp_path / f"out{len(size)}")), second)
        pictures = [np.asarray(Image.open(path)) for path in sorted(out.glob("0*.png"))]
        assert [picture.shape for picture in pictures] == [(*SMALL, 3)] * 2
    wide = draw(SampleConfig(n=1, batch_size=1, size=(24, 48), out=str(tmp_path / "wide")), second)
    assert np.asarray(Image.open(next(wide.glob("0*.png")))).shape == (24, 48, 3)  # by a sliding window

    encode_dataset.encode(settings, codes)
    info = json.loads(Path(codes, "info.json").read_text(encoding="utf-8"))
    assert info["grid"] == [6, 10] and info["tokens_of"]["size"] == [24, 40]
    data = dataclasses.replace(settings.data, source="codes", path=codes)
    assert train_transformer.train_and_evaluate(dataclasses.replace(settings, data=data), third)
    with pytest.raises(ValueError, match=r"do not fit this configuration \(config.size: \[24, 40\] there, 24 here"):
        data = dataclasses.replace(data, size=24)
        train_transformer.train_and_evaluate(dataclasses.replace(settings, data=data), str(tmp_path / "fourth"))


def test_the_original_has_squares_alone():
    first, own, notes = StageNetworks(dataclasses.replace(TINY, resolution=32), None), {"data": {"size": [96, 160]}}, []
    assert _square(own, Networks(first), notes) == 32 and "(96, 160) has no place in the original" in notes[0]
    assert _square({"data": {"size": 48}}, Networks(first), []) == 48
    with pytest.raises(ValueError, match=r"data.size=\(96, 160\): the original's second stages are of squares alone"):
        _square(own, Networks(first, transformer=GPTConfig(32, 60)), [])


def test_held_out_conditions_of_a_rectangle(tmp_path):
    """A second stage under label maps, whose pictures are drawn for held-out maps, and from a file."""
    paths = [str(tmp_path / name) for name in ("first", "maps", "second")]
    train = {"steps": 1, "eval_every": 1, "image_every": 1, "save_every": 1}
    size = (16, 32)
    for name, path in zip(("demo_vqgan", "demo_segmentation_vqgan"), paths):
        save_stage(experiment(name, size), path)
    condition = {"stage": paths[1], "size": (8, 16)}
    settings = experiment("demo_segmentation", size, first_stage=paths[0], condition=condition, train=train)
    assert train_transformer.train_and_evaluate(settings, paths[2])
    assert taming_jax.load(paths[2]).model.condition.grid == (2, 4)
    out = draw(SampleConfig(n=2, batch_size=2, out=str(tmp_path / "out")), paths[2])
    assert {np.asarray(Image.open(path)).shape for path in out.glob("0*.png")} >= {(*size, 3)}
    write_label_map(str(tmp_path / "map.png"), np.zeros(size, np.uint8))
    asked = SampleConfig(n=1, batch_size=1, condition=str(tmp_path / "map.png"), out=str(tmp_path / "file"))
    assert {np.asarray(Image.open(path)).shape for path in draw(asked, paths[2]).glob("0*.png")} >= {(*size, 3)}


@pytest.mark.parametrize(("order", "message"), [("row_major", ""), ("spiral_in", ""), ("z_curve", "square grid")])
def test_orders_walk_a_rectangle_where_they_can(order, message):
    first = VQGAN(dataclasses.replace(TINY, n_embed=32))
    config = {**saved_form(experiment("demo_class", (24, 40), order=order)), "condition": {"kind": "none"}}
    if message:
        with pytest.raises(ValueError, match=message):
            two_stage(config, first)
        return
    model = two_stage(config, first)
    assert model.grid == (12, 20) and sorted(model.tokens.walk.tolist()) == list(range(240))


def test_the_description_of_a_squares_tokens_is_what_it_was(tmp_path, monkeypatch):
    stage = VQGAN(dataclasses.replace(TINY, n_embed=32))
    monkeypatch.setattr("taming_jax.trained.fingerprint._network", lambda *_: "network")
    described = []
    for size in (32, (32, 32)):
        condition = {"kind": "depth", "stage": "first_stage", "size": 16}
        settings = experiment("demo_class", size, condition=condition)
        found = describe(settings, two_stage(saved_form(settings), stage))
        assert found["size"] == 32 and found["condition"]["training_size"] == 32 and found["condition"]["size"] == 16
        described.append(found)
    assert described[0] == described[1]
