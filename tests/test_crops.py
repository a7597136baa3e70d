"""Crops lie on whole pixels: what keeps its size is cut bit for bit, and annotations fit to the pixel."""

import dataclasses
import importlib
import json

import numpy as np
import pytest
from PIL import Image

from taming_jax.data import pipeline
from taming_jax.data.channels import to_float
from taming_jax.data.config import DataConfig
from taming_jax.data.listing import Figures, Listing, ObjectTable
from taming_jax.data.map_files import write_depth, write_label_map
from taming_jax.data.pixels import Photo, stored_again
from taming_jax.data.reader import Reader
from taming_jax.data.transforms import choose_window, cut_photo
from taming_jax.quality.images import of_data
from taming_jax.settings import from_dict, to_dict
from taming_jax.training.changes import compare


def noise(random, height, width):
    return random.integers(0, 256, (height, width, 3), np.uint8)


def photo_of(pixels):
    image = Image.fromarray(pixels)
    return Photo((image,), *image.size, image.size, 1)


def drawn_shapes(random, short, n):
    """Heights and widths, lying and standing, whose smaller side is `short`, with odd and even rests."""
    longs = [*range(short, short + 6), *random.integers(short, 3 * short, n).tolist()]
    return [shape for long in longs for shape in ((short, long), (long, short))]


@pytest.mark.parametrize(
    ("sides", "short", "options"),
    [
        ((64, 64), 64, {}),
        ((64, 64), 104, {"resize": 104}),
        ((64, 64), 64, {"random_scale": True}),
        ((64, 64), 70, {"resize": (70, 70), "crop_from": "center"}),
        ((64, 64), 104, {"resize": 104, "resampling": "adm"}),
        ((48, 64), 64, {"resize": 64}),
    ],
)
def test_what_keeps_its_size_is_a_slice_of_the_file(sides, short, options):
    random = np.random.default_rng(0)
    resampling = options.get("resampling", "bicubic")
    for height, width in drawn_shapes(random, short, 6):
        pixels, places, flips = noise(random, height, width), set(), set()
        for seed in (None, *range(8)):
            rng = None if seed is None else np.random.default_rng(seed)
            if rng is None and isinstance(options.get("resize"), tuple):
                continue  # the middle has the least size
            window = choose_window(photo_of(pixels), sides, rng, **options)
            found = cut_photo(photo_of(pixels), window, sides, resampling)
            top, left, *whole = window.crop(sides).tolist()
            assert whole == [height, width]
            expected = pixels[top : top + sides[0], left : left + sides[1]]
            np.testing.assert_array_equal(found, expected[:, ::-1] if window.flip else expected)
            if seed is None:
                assert (top, left) == ((height - sides[0]) // 2, (width - sides[1]) // 2) and not window.flip
            places.add((top, left))
            flips.add(window.flip)
        assert flips == {True, False} and (len(places) > 1 or (height, width) == sides)


def test_every_place_is_drawn_about_as_often():
    rng, photo = np.random.default_rng(1), Photo((), 37, 32, (37, 32), 1)
    counts = np.bincount([choose_window(photo, (32, 32), rng).crop((32, 32))[1] for _ in range(3000)], minlength=6)
    assert len(counts) == 6 and counts.min() > 400


@pytest.mark.parametrize("options", [{}, {"resize": 90}, {"random_scale": True}, {"resize": (64, 80)}])
@pytest.mark.parametrize("sides", [(64, 64), (48, 64), (64, 56)])
def test_adm_slices_the_whole_resized(options, sides):
    random = np.random.default_rng(2)
    for seed in range(24):
        height, width = random.integers(40, 300, 2).tolist()
        photo = photo_of(noise(random, height, width))
        window = choose_window(photo, sides, np.random.default_rng(seed), resampling="adm", **options)
        found = cut_photo(photo, window._replace(flip=False), sides, "adm")
        top, left, *whole = window.crop(sides).tolist()
        image = photo.rgb
        while min(image.size) >= 2 * min(whole):
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        resized = np.asarray(image.resize(whole[::-1], Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(found, resized[top : top + sides[0], left : left + sides[1]])


def test_windows_of_whole_scales_are_slices_of_the_whole_resized():
    random = np.random.default_rng(6)
    for seed, times in enumerate([2, 3, 2, 5]):
        height, width = (times * random.integers(64, 90, 2)).tolist()
        photo = photo_of(noise(random, height, width))
        short = min(width, height) // times
        window = choose_window(photo, (60, 60), np.random.default_rng(seed), resize=short, flip=False)
        top, left, *whole = window.crop((60, 60)).tolist()
        assert whole == [height // times, width // times]
        resized = photo.rgb.resize(whole[::-1], Image.Resampling.BICUBIC)
        expected = np.asarray(resized, int)[top : top + 60, left : left + 60]
        assert np.abs(cut_photo(photo, window, (60, 60)) - expected).max() <= 1  # two passes, each rounded


def adm_centre(image, size):
    """ADM's centre crop: halved while twice as large, bicubic, sliced."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.size[0] // 2, image.size[1] // 2), Image.Resampling.BOX)
    share = size / min(image.size)
    pixels = np.asarray(image.resize((round(image.size[0] * share), round(image.size[1] * share)), Image.BICUBIC))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def test_the_centre_is_cut_as_adm_cuts_it():
    random = np.random.default_rng(3)
    for _ in range(40):
        height, width, size = (*random.integers(20, 500, 2).tolist(), int(random.integers(16, 80)))
        photo = photo_of(noise(random, height, width))
        window = choose_window(photo, (size, size), None, resampling="adm")
        np.testing.assert_array_equal(cut_photo(photo, window, (size, size), "adm"), adm_centre(photo.rgb, size))


def test_a_zoom_draws_the_smaller_side_and_a_center_bounds_the_place():
    rng, photo = np.random.default_rng(4), Photo((), 640, 427, (640, 427), 1)
    config = DataConfig("folder", path="x", size=64, zoom=(1.0, 1.25))
    assert config.zoomed == (64, 80) and dataclasses.replace(config, size=384).zoomed == (384, 480)
    found = [choose_window(photo, (64, 64), rng, resize=config.zoomed).crop((64, 64)) for _ in range(400)]
    shorts = {int(crop[2]) for crop in found}
    assert shorts == set(range(64, 81)) and all(crop[3] == round(crop[2] * 640 / 427) for crop in found)
    assert max(crop[1] / (crop[3] - 64) for crop in found) > 0.95
    near = [
        choose_window(photo, (64, 64), rng, resize=(67, 70), crop_from="center").crop((64, 64)).tolist()
        for _ in range(400)
    ]
    for top, left, height, _ in near:
        assert 0 <= top <= height - 64 and 0 <= left - int((height * 640 / 427 - height) / 2) <= height - 64
    for i in (0, 1):
        assert len({crop[i] for crop in near if crop[2] == 70}) == 7


# Annotations, at the scale of the file


@pytest.fixture
def drawn(tmp_path):
    """A listing of one image of noise with what is drawn into it: a box and points in pure colours, and maps of it."""

    def make(seed, height, width, orientation=1):
        random = np.random.default_rng(seed)
        pixels = random.integers(0, 200, (height, width, 3), np.uint8)
        (x0, x1), (y0, y1) = (np.sort(random.choice(np.arange(1, n), 2, replace=False)) for n in (width, height))
        pixels[y0:y1, x0:x1] = (250, 0, 0)
        points = np.stack([random.choice(width, 3, replace=False), random.integers(0, height, 3)], axis=-1)
        pixels[points[:, 1], points[:, 0]] = [(0, 251, k) for k in range(3)]
        labels = (pixels[..., 2] // 8).astype(np.uint8)
        stored = lambda array: np.asarray(stored_again(Image.fromarray(array), orientation))
        exif = Image.Exif()
        exif[0x0112] = orientation
        paths = [str(tmp_path / f"{seed}{name}.png") for name in ("image", "map", "depth")]
        Image.fromarray(stored(pixels)).save(paths[0], exif=exif)
        write_label_map(paths[1], stored(labels))
        write_depth(paths[2], stored(pixels[..., 2].astype(np.float32)))
        extent = np.array([width, height])
        box = np.array([[x0, y0, x1 - x0, y1 - y0]]) / np.tile(extent, 2)
        shares = np.concatenate([(points + 0.5) / extent, np.ones((3, 1))], axis=-1)[None]
        start, none = np.array([0, 1]), np.zeros(1, np.int32)
        objects = ObjectTable(box.astype(np.float32), none, none, start)
        figures = Figures(shares.astype(np.float32), start, (0, 1, 2))
        depths = {"maps": [paths[1]], "n_labels": 32, "depths": [paths[2]]}
        return Listing([paths[0]], objects=objects, figures=figures, **depths), pixels

    return make


@pytest.mark.parametrize("settings", [{}, {"resize": 64}, {"random_scale": True}, {"zoom": (1.0, 1.0)}])
def test_annotations_fit_to_the_pixel(drawn, settings):
    annotations, seen = ("segmentation", "depth", "crop", "objects", "keypoints"), 0
    size = 64 if settings.get("resize") is None else 40
    for seed in range(16):
        height, width = drawn_shapes(np.random.default_rng(seed), 64, 3)[seed]
        listing, pixels = drawn(seed, height, width)
        config = DataConfig("folder", path="x", size=size, annotations=annotations, min_visible=0, **settings)
        rng = None if seed % 4 == 0 else np.random.default_rng(seed)
        record = Reader(config, listing).read("", listing.images[0], 0, rng, 0)
        top, left, full_height, full_width = record["crop"].tolist()
        assert (full_height, full_width) == (height, width)
        here = pixels[top : top + size, left : left + size]
        shown = here[:, ::-1] if record["flip"] else here
        np.testing.assert_array_equal(record["image"], shown)
        np.testing.assert_array_equal(record["segmentation"], shown[..., 2] // 8)
        blue = pixels[..., 2].astype(float)
        depth = (shown[..., 2] - blue.min()) / (blue.max() - blue.min()) * 2 - 1
        np.testing.assert_allclose(record["depth"], depth, atol=1e-4)

        red = (shown == (250, 0, 0)).all(-1)
        if red.any() and record["object_category"][0] == 0:
            x, y, w, h = record["object_boxes"][0] * np.tile([full_width, full_height], 2)
            corners = np.array([x - left, y - top, x + w - left, y + h - top])
            if record["flip"]:
                corners[[0, 2]] = size - corners[[2, 0]]
            rows, columns = np.nonzero(red)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            overdrawn = (shown[..., 1] == 251).any()  # a point may lie on an edge of the box
            np.testing.assert_allclose(corners, edges, atol=1.01 if overdrawn else 1e-3)
            seen += not overdrawn
        for k, (px, py, there) in enumerate(record["keypoints"][0]):
            dot = np.argwhere((shown == (0, 251, k)).all(-1))
            assert bool(there) == bool(len(dot))
            if there:
                np.testing.assert_allclose([py * size - 0.5, px * size - 0.5], dot[0], atol=1e-3)
                seen += 1
    assert seen > 8


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_files_are_cut_to_the_pixel_with_their_maps(drawn, orientation):
    for seed, (height, width) in enumerate([(64, 71), (70, 64)]):
        listing, pixels = drawn(seed, height, width, orientation)
        config = DataConfig("folder", path="x", size=64, annotations=("segmentation", "crop"))
        for rng in (None, np.random.default_rng(orientation)):
            record = Reader(config, listing).read("", listing.images[0], 0, rng, 0)
            top, left = record["crop"][:2]
            here = pixels[top : top + 64, left : left + 64]
            shown = here[:, ::-1] if record["flip"] else here
            np.testing.assert_array_equal(record["image"], shown)
            np.testing.assert_array_equal(record["segmentation"], shown[..., 2] // 8)


# The settings


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(5)
    for i, (height, width) in enumerate([(48, 64), (32, 45), (90, 41), (32, 32), (33, 77), (100, 150)]):
        Image.fromarray(noise(random, height, width)).save(tmp_path / f"{i}.png")
    settings = {"source": "folder", "path": str(tmp_path), "val_path": str(tmp_path), "size": 32, "batch_size": 2}
    return {**settings, "workers": 1, "annotations": ("crop",)}


def crops(config, split, n=3):
    return np.concatenate([batch["crop"] for _, batch in zip(range(n), pipeline.make_batches(config, split))])


@pytest.mark.parametrize("name", ["coco", "coco_vqgan", "coco_vqgan:segmentation", "ade20k", "ade20k_vqgan"])
def test_label_maps_validate_on_the_largest_square(name):
    path, _, words = name.partition(":")
    data = from_dict(DataConfig, importlib.import_module(f"configs.{path}").get_config(words).to_dict()["data"])
    photo = Photo((), 640, 480, (640, 480), 1)
    assert data.resize == 296
    window = choose_window(photo, data.sides, None, resize=data.validating().resize)
    assert window.across == window.down == 480 and abs(window.left - 80) < 480 / 256


def test_validation_has_a_size_of_its_own_and_saved_settings_mean_what_they_meant(folder):
    zoomed = DataConfig(**folder, resize=40)
    whole, other = (dataclasses.replace(zoomed, val_resize=side) for side in (0, 36))
    shorts = lambda config, split: crops(config, split)[:, 2:].min(axis=1).tolist()
    assert shorts(zoomed, "val") == [40] * 6 and shorts(whole, "val") == [32] * 6 and shorts(other, "val") == [36] * 6
    for config in (whole, other):
        np.testing.assert_array_equal(crops(config, "train"), crops(zoomed, "train"))
    saved = to_dict(zoomed)
    del saved["val_resize"], saved["zoom"], saved["crop_from"], saved["resampling"]
    assert from_dict(DataConfig, json.loads(json.dumps(saved))) == zoomed
    forms = [{"kind": "vqgan", "data": to_dict(config)} for config in (zoomed, whole)]
    assert [bool(found) for found in compare(*forms).values()] == [True, False, False]
    several = dataclasses.replace(other, sizes=(32, 40))  # 40 is above val_resize, which is for `size`
    assert next(pipeline.make_batches(several, "train"))["image"].shape[1] == 32 and shorts(several, "val") == [36] * 6


@pytest.mark.parametrize("settings", [{"zoom": (1.0, 1.5)}, {"zoom": (1.1, 1.3), "crop_from": "center"}, {}])
@pytest.mark.parametrize("resampling", ["bicubic", "adm"])
def test_going_on_processes_and_encoded_crops_are_cut_alike(folder, settings, resampling):
    config = DataConfig(**folder, resampling=resampling, **settings)
    whole = pipeline.make_batches(config, "train")
    batches = [next(whole) for _ in range(5)]
    parts = [pipeline.make_batches(config, "train", start_step=3, process_index=i, process_count=2) for i in range(2)]
    for batch in batches[3:]:
        halves = [next(part) for part in parts]
        for key, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([half[key] for half in halves]), value)
    encoded = {  # epoch 0, in the order of the listing
        tuple(crop): image
        for batch in pipeline.make_crops(config, "train", 0, 6, 0, 2)
        for crop, image in zip(batch["crop"].tolist(), batch["image"])
    }
    for batch in batches[:3]:
        for crop, image in zip(batch["crop"].tolist(), batch["image"]):
            np.testing.assert_array_equal(encoded[tuple(crop)], image)
    least, most = config.zoomed or (32, 32)
    assert all(least <= min(crop[2:]) <= most for batch in batches for crop in batch["crop"].tolist())
    assert crops(config, "val")[:, 2:].min(axis=1).tolist() == [32] * 6


def test_validation_and_references_follow_adm(folder):
    config = DataConfig(**folder, resampling="adm", zoom=(1.0, 1.5))
    files = [f"{folder['path']}/{i}.png" for i in range(6)]
    expected = np.stack([adm_centre(Image.open(path), 32) for path in files])
    found = np.concatenate([batch["image"] for batch in pipeline.make_batches(config, "val")])
    np.testing.assert_array_equal(found, to_float(expected))
    for split in ("train", "val"):
        images = of_data(config, split)
        np.testing.assert_array_equal(np.stack(list(images.read(0, 6))), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"val_resize": 31}, r"config.val_resize=31, but it must be None, 0 or from size=32 to 65536\."),
        ({"val_resize": -1}, r"config.val_resize=-1, but it must be None, 0"),
        ({"zoom": (1.2,)}, r"config.zoom=\(1.2,\), but it must be \(least, most\), from 1 to 16 times `size`"),
        ({"zoom": (1.2, 1.1)}, r"config.zoom=\(1.2, 1.1\), but it must be \(least, most\)"),
        ({"zoom": (0.9, 1.1)}, r"config.zoom=\(0.9, 1.1\), but"),
        ({"zoom": (1.0, float("nan"))}, r"config.zoom=\(1.0, nan\), but"),
        ({"zoom": (1.0, 1.1), "resize": 64}, r"it takes the place of `resize`, which must be 0"),
        ({"zoom": (1.0, 1.1), "random_scale": True}, r"and of `random_scale`"),
        ({"crop_from": "centre"}, r"config.crop_from='centre' is unknown; known: image, center"),
        ({"resampling": "area"}, r"config.resampling='area' is unknown; known: bicubic, adm"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    with pytest.raises(ValueError, match=message) as refusal:
        from_dict(DataConfig, {"size": 32, **values})
    assert "\n" not in str(refusal.value)


def test_landscapes_have_no_zoom():
    with pytest.raises(ValueError, match=r"config.data.zoom=\(1.0, 2.0\).*landscapes"):
        pipeline.make_batches(DataConfig("landscapes", size=32, zoom=(1.0, 2.0)), "train")
