"""Label maps, depth and crops: the same geometry as the image's, and what is refused or left out."""

import logging

import numpy as np
import pytest
from PIL import Image

from taming_jax.data.config import DataConfig
from taming_jax.data.map_files import read_depth, read_label_map, write_depth, write_label_map
from taming_jax.data.pipeline import label_names, make_batches, num_examples, num_labels, skipped
from taming_jax.data.pixels import decode, stored_again
from taming_jax.data.transforms import choose_window, cut_points, upright_points

WIDTH, HEIGHT = 96, 64
BOTH = ("segmentation", "depth")


def place_image(width=WIDTH, height=HEIGHT):
    """Red and green tell the column and the row, (height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 2, y * 2, 0 * x], axis=-1).astype(np.uint8)


def place_labels(image):
    """A label for each 16 x 16 cell, from the colours of `place_image`: what the map says where the image is whole."""
    x, y = (np.round(image[..., i] / 2).astype(int) for i in (0, 1))
    return (x // 16 + 10 * (y // 16)).astype(np.uint8)


def write_pairs(path, n=6, exif=None):
    for folder in ("images", "maps", "depths"):
        (path / folder).mkdir(parents=True)
    for i in range(n):
        image = place_image()
        Image.fromarray(image).save(path / f"images/{i}.png", **({"exif": exif} if exif else {}))
        write_label_map(str(path / f"maps/{i}.png"), place_labels(image))
        write_depth(str(path / f"depths/{i}.png"), 5 + np.arange(WIDTH) * np.ones((HEIGHT, 1)))
    settings = {"source": "folder", "path": str(path / "images"), "maps": str(path / "maps"), "n_labels": 36}
    settings |= {"depths": str(path / "depths"), "size": 32, "batch_size": 6, "workers": 2, "val_share": 0.34}
    return {**settings, "annotations": BOTH}


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path)


def as_bytes(batch):
    return np.round((batch["image"] + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize("settings", [{}, {"resize": 48}, {"random_scale": True}, {"size": 64}, {"size": 16}])
def test_maps_move_with_the_image(pairs, settings):
    batches = make_batches(DataConfig(**{**pairs, **settings}), "train")
    mirrored = []
    for _ in range(3):
        batch = next(batches)
        images = as_bytes(batch)
        assert batch["segmentation"].dtype == np.int32 and batch["depth"].dtype == np.float32
        # a pixel of a map on a border between cells may take the neighbour's label
        assert (batch["segmentation"] == place_labels(images)).mean() > 0.85
        assert set(np.unique(batch["segmentation"])) <= set(np.unique(place_labels(place_image())))
        column = images[..., 0] / 2
        np.testing.assert_allclose(batch["depth"], 2 * column / (WIDTH - 1) - 1, atol=0.03)
        mirrored += (images[:, 8, 1, 0] > images[:, 8, -2, 0]).tolist()
    assert {True, False} == set(mirrored)


def test_no_map_unless_it_is_asked_for(pairs):
    batch = next(make_batches(DataConfig(**{**pairs, "annotations": ()}), "train"))
    assert set(batch) == {"image", "class_label"}
    with pytest.raises(ValueError, match="'folder' with these settings has no objects; it has segmentation, depth"):
        make_batches(DataConfig(**{**pairs, "annotations": (*BOTH, "objects")}), "train")
    with pytest.raises(ValueError, match="has no class_label; it has segmentation"):
        make_batches(DataConfig(**{**pairs, "annotations": (*BOTH, "class_label")}), "train")
    with pytest.raises(ValueError, match=r"has no segmentation; it has crop; label maps .* are named by `maps`"):
        make_batches(DataConfig(**{**pairs, "annotations": ("segmentation",), "maps": ""}), "train")


def test_resume_and_processes_with_maps(pairs):
    cfg = DataConfig(**{**pairs, "batch_size": 2, "annotations": (*BOTH, "crop")})
    whole = make_batches(cfg, "train")
    batches = [next(whole) for _ in range(6)]
    later = make_batches(cfg, "train", start_step=4)
    parts = [make_batches(cfg, "train", start_step=4, process_index=i, process_count=2) for i in range(2)]
    for batch in batches[4:]:
        again, halves = next(later), [next(part) for part in parts]
        assert set(batch) == {"image", "class_label", "segmentation", "depth", "crop", "flip"}
        for key, value in batch.items():
            np.testing.assert_array_equal(again[key], value)
            np.testing.assert_array_equal(np.concatenate([half[key] for half in halves]), value)


def test_crop_says_where_the_square_lies(pairs):
    cfg = DataConfig(**{**pairs, "annotations": ("crop",), "resize": 64})  # 1:1, so pixels can be compared
    batch = next(make_batches(cfg, "train"))
    assert batch["crop"].dtype == np.int32 and batch["flip"].dtype == bool and len(set(batch["crop"][:, 1])) > 1
    for image, (top, left, height, width), flip in zip(as_bytes(batch), batch["crop"], batch["flip"]):
        assert (height, width) == (HEIGHT, WIDTH) and 0 <= top <= HEIGHT - 32 and 0 <= left <= WIDTH - 32
        upright = image[:, ::-1] if flip else image
        assert abs(upright[0, 0, 0] / 2 - left) <= 1 and abs(upright[0, 0, 1] / 2 - top) <= 1
    val = next(make_batches(cfg, "val"))
    np.testing.assert_array_equal(val["crop"][val["valid"]], [[16, 32, 64, 96]] * 2)
    assert not val["flip"].any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_maps_belong_to_the_stored_pixels_and_turn_with_the_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pairs = write_pairs(tmp_path, n=3, exif=exif)
    batch = next(make_batches(DataConfig(**{**pairs, "batch_size": 2}), "train"))
    assert (batch["segmentation"] == place_labels(as_bytes(batch))).mean() > 0.85
    photo = decode(str(tmp_path / "images/0.png"))
    window = choose_window(photo, (32, 32), None)
    stored = np.array([[0.4, 0.6], [0.52, 0.3]], np.float32)
    places = cut_points(upright_points(stored, photo), window) * 32
    colours = as_bytes(next(make_batches(DataConfig(**{**pairs, "val_share": 0.4}), "val")))[0]
    for (x, y), (column, row) in zip(places, stored * (WIDTH, HEIGHT)):
        np.testing.assert_allclose(colours[int(y), int(x), :2] / 2, [column, row], atol=2)
    np.testing.assert_array_equal(np.asarray(stored_again(photo.rgb, orientation)), place_image())


def test_large_photographs_are_decoded_small_and_still_fit(tmp_path):
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    image = np.kron(place_image(), np.ones((9, 9, 1), np.uint8))[:570, :859]  # odd sizes, no multiples of 8
    Image.fromarray(image).save(tmp_path / "images/a.jpg", quality=98)
    write_label_map(str(tmp_path / "maps/a.png"), place_labels(image))
    settings = {"path": str(tmp_path / "images"), "maps": str(tmp_path / "maps"), "n_labels": 36, "val_share": 0}
    cfg = DataConfig("folder", 32, 4, ("segmentation",), **settings)
    assert decode(str(tmp_path / "images/a.jpg"), 64).rgb.size[0] < 859 / 7
    batches = make_batches(cfg, "train")
    for batch in (next(batches), next(batches)):
        assert (batch["segmentation"] == place_labels(as_bytes(batch))).mean() > 0.85


def test_label_map_files(tmp_path):
    path = str(tmp_path / "map.png")
    values = np.array([[0, 3], [255, 2]], np.uint8)
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(read_label_map(path, 256), values)
    np.testing.assert_array_equal(read_label_map(path, 5, unlabelled=255), [[1, 4], [0, 3]])
    with pytest.raises(ValueError, match=r"map.png' has the value 255, but there are 4 labels.*below 4"):
        read_label_map(path, 4)
    with pytest.raises(ValueError, match=r"has the value 3, but there are 4 labels and 255 for unlabelled.*below 3"):
        read_label_map(path, 4, unlabelled=255)
    palette = Image.new("P", (2, 2))
    palette.putdata([0, 1, 2, 3])
    palette.putpalette([9, 9, 9, 200, 0, 0, 9, 9, 9, 0, 0, 200])  # two indices of one colour: indices count
    for bits in (2, 8):
        palette.save(path, bits=bits)
        np.testing.assert_array_equal(read_label_map(path, 4), [[0, 1], [2, 3]])
    for wrong in (np.uint16([[1, 2]]), np.uint8([[[1, 2, 3]]]), np.zeros((2, 2, 4), np.uint8)):
        Image.fromarray(wrong).save(path)
        with pytest.raises(ValueError, match=r"map.png' has pixels of the kind .*8 bits a pixel, grey or palette"):
            read_label_map(path, 256)
    Image.fromarray(values).save(path, format="JPEG")
    with pytest.raises(ValueError, match=r"L \(JPEG\).*no JPEG"):
        read_label_map(path, 256)
    with pytest.raises(ValueError, match="must be integers"):
        write_label_map(path, np.array([[300]]))


def test_depth_files(tmp_path):
    depth = np.array([[-2.5, 7.5], [2.5, 1e3]], np.float32)
    expected = 2 * (depth + 2.5) / 1002.5 - 1
    write_depth(str(tmp_path / "a.png"), depth)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "RGBA"
        assert np.asarray(image).tobytes() == depth.astype("<f4").tobytes()
    np.save(tmp_path / "b.npy", depth)
    np.save(tmp_path / "c.npy", depth[None].astype(np.float64))
    for name in ("a.png", "b.npy", "c.npy"):
        np.testing.assert_allclose(read_depth(str(tmp_path / name)), expected, atol=1e-6)
    Image.fromarray(np.uint16([[0, 500], [1000, 250]])).save(tmp_path / "d.png")
    np.testing.assert_allclose(read_depth(str(tmp_path / "d.png")), [[-1, 0], [1, -0.5]], atol=1e-6)
    np.save(tmp_path / "e.npy", np.full((2, 2), 3.0))
    np.testing.assert_array_equal(read_depth(str(tmp_path / "e.npy")), -np.ones((2, 2)))
    np.save(tmp_path / "f.npy", np.zeros((2, 2, 2)))
    Image.new("RGB", (2, 2)).save(tmp_path / "g.png")
    for name in ("f.npy", "g.png"):
        with pytest.raises(ValueError, match=f"the depth map .*{name}"):
            read_depth(str(tmp_path / name))
    with pytest.raises(ValueError, match="must be finite"):
        write_depth(str(tmp_path / "h.png"), np.array([[np.nan]]))


@pytest.mark.parametrize("kind", ["maps", "depths"])
def test_a_map_of_another_size_stops_and_names_both_files(tmp_path, pairs, kind):
    (write_label_map if kind == "maps" else write_depth)(str(tmp_path / kind / "3.png"), np.zeros((HEIGHT, 40), int))
    batches = make_batches(DataConfig(**pairs), "train")
    with pytest.raises(ValueError, match=rf"{kind}/3.png' is 40 x 64 pixels, but its image .*images/3.png' is 96 x 64"):
        for _ in range(3):
            next(batches)


def test_a_label_out_of_range_stops(pairs):
    batches = make_batches(DataConfig(**{**pairs, "n_labels": 30}), "train")
    with pytest.raises(ValueError, match=r"maps/\d.png' has the value 35, but there are 30 labels"):
        next(batches)
    with pytest.raises(ValueError, match=r"how many labels have the maps.*`n_labels`"):
        make_batches(DataConfig(**{**pairs, "n_labels": 0}), "train")
    assert num_labels(DataConfig(**pairs)) == 36 and label_names(DataConfig(**pairs)) is None


def test_damaged_maps_are_skipped_and_counted(tmp_path, pairs, caplog):
    broken = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    np.save(tmp_path / "depths/1.npy", broken)
    (tmp_path / "depths/1.png").unlink()
    (tmp_path / "maps/2.png").write_bytes(b"\x89PNG nothing")
    cfg = DataConfig(**{**pairs, "val_path": pairs["path"]})
    with caplog.at_level(logging.WARNING):
        batches = list(make_batches(cfg, "val"))
        train = make_batches(cfg, "train")
        shown = [next(train) for _ in range(3)]
    np.testing.assert_array_equal(batches[0]["valid"], [1, 0, 0, 1, 1, 1])
    assert (batches[0]["segmentation"][1:3] == 0).all() and all(batch["depth"].max() > 0 for batch in shown)
    assert skipped(cfg, "val") == {"unreadable files": 2}
    text = caplog.text
    assert "depths/1.npy' has no depth" in text and "maps/2.png': it begins like no picture" in text


def test_images_and_maps_without_each_other_are_counted(tmp_path, pairs):
    (tmp_path / "maps/1.png").unlink()
    (tmp_path / "depths/4.png").unlink()
    write_label_map(str(tmp_path / "maps/stray.png"), np.zeros((4, 4), int))
    cfg = DataConfig(**{**pairs, "val_path": pairs["path"]})
    assert num_examples(cfg, "train") == num_examples(cfg, "val") == 4
    assert skipped(cfg, "train") == {
        "images without a label map": 1, "images without a depth map": 1, "label maps without an image": 1
    }  # fmt: skip
    plain = DataConfig(**{**pairs, "annotations": (), "val_path": pairs["path"]})
    assert num_examples(plain, "train") == 6 and skipped(plain, "train") == {}
    with pytest.raises(ValueError, match=r"none of the 6 images .* has a label map .* should be called '0.png'"):
        (tmp_path / "empty").mkdir()
        num_examples(DataConfig(**{**pairs, "maps": str(tmp_path / "empty"), "val_path": pairs["path"]}), "train")
    with pytest.raises(ValueError, match="no such folder of depth maps"):
        num_examples(DataConfig(**{**pairs, "depths": str(tmp_path / "gone")}), "train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"annotations": ("boxes",)}, "annotations=.*'boxes'.*known are class_label, segmentation"),
        ({"n_labels": 257}, "n_labels=257, but it must be from 0 to 256"),
        ({"resize": 16}, "resize=16, but it must be 0 or at least size=32"),
        ({"source": "ade20k", "path": ""}, "'ade20k' needs it"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**{"size": 32, **settings})
