"""From files to pixels: depth of bits, alpha, palettes, turns, sizes and channels, in photographs, maps and masks."""

import io
import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from taming_jax.data.config import DataConfig
from taming_jax.data.map_files import read_depth, read_label_map, write_depth
from taming_jax.data.opening import BrokenImage, opened
from taming_jax.data.pipeline import make_batches, num_examples, skipped
from taming_jax.data.pixels import decode, read_mask
from taming_jax.data.transforms import choose_window, cut_photo

Y, X = np.mgrid[:48, :64]


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(values):
    """uint16 (H, W, c) as a PNG of 16 bits."""
    height, width, c = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values, apart=False, order="<", rows=1000):
    """(H, W, c) of any type as an uncompressed TIFF, its bands together or one after the other, in strips of `rows`."""
    bands = np.moveaxis(values, -1, 0)[..., None] if apart else [values]
    strips = [
        b[i : i + rows].astype(b.dtype.newbyteorder(order)).tobytes() for b in bands for i in range(0, len(b), rows)
    ]
    (height, width, c), size = values.shape, values.dtype.itemsize
    lengths = [len(strip) for strip in strips]
    starts = [8 + sum(lengths[:i]) for i in range(len(strips))]
    tags = {256: [width], 257: [height], 258: [8 * size] * c, 259: [1], 262: [1], 273: starts, 277: [c], 278: [rows]}
    tags |= {279: lengths, 284: [2 if apart else 1], 339: [3 if values.dtype.kind == "f" else 1] * c}
    place = 8 + sum(lengths)
    lists, behind, entries = place + 2 + 12 * len(tags) + 4, b"", b""
    for name, numbers in tags.items():
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, behind = struct.pack(f"{order}I", lists + len(behind)), behind + packed
        entries += struct.pack(f"{order}HHI", name, 4, len(numbers)) + packed
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, place)
    return head + b"".join(strips) + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + behind


def values_of(photo):
    """Whole, float32 (H, W, c)."""
    assert photo.width == photo.height
    whole = (photo.height, photo.width)
    return cut_photo(photo, choose_window(photo, whole, None), whole)


NOISE = np.random.default_rng(0).integers(0, 1 << 16, (40, 40, 4), np.uint16)
SQUARE = np.random.default_rng(1).integers(0, 256, (40, 40, 4), np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_sixteen_bits_are_kept(channels):
    values = values_of(decode(deep_png(NOISE[..., :channels]), channels=channels))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, NOISE[..., :channels] / 32767.5 - 1, atol=2e-7)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 13])
def test_tiff_of_any_number_of_channels(channels, dtype, apart, order):
    values = np.random.default_rng(0).integers(0, 256, (20, 20, channels)).astype(dtype)
    top = 255 if dtype != "uint16" else 65535
    if dtype == "float32":
        values = values / np.float32(127.5) - 1
    found = values_of(decode(tiff(values, apart, order, rows=7), channels=channels))
    np.testing.assert_allclose(found, values if dtype == "float32" else values / (top / 2) - 1, atol=2e-7)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_packed_tiff(compression, predictor):
    data = encoded(Image.fromarray(SQUARE), "TIFF", compression=compression, tiffinfo={317: predictor})
    np.testing.assert_allclose(values_of(decode(data, channels=4)), SQUARE / 127.5 - 1, atol=2e-7)


def test_a_turned_tiff_is_turned_once():
    stored = np.zeros((40, 40, 3), np.uint8)
    stored[:10, :10] = 255
    data = encoded(Image.fromarray(stored), "TIFF", tiffinfo={274: 6})  # the first row is on the right
    for photo in (
        decode(data),
        decode(encoded(Image.fromarray(stored[..., 0]), "TIFF", tiffinfo={274: 6}), channels=1),
    ):
        image = np.asarray(photo.parts[0])
        assert image[:10, -10:].min() == 255 and image[:, :-10].max() == 0


def test_pictures_are_made_to_the_channels_that_are_asked_for():
    colour, grey = Image.fromarray(SQUARE[..., :3]), Image.fromarray(SQUARE[..., 0])
    as_bytes = lambda image, channels: np.round((values_of(decode(encoded(image), channels=channels)) + 1) * 127.5)
    np.testing.assert_array_equal(as_bytes(grey, 1), SQUARE[..., :1])
    np.testing.assert_allclose(as_bytes(colour, 1)[..., 0], np.asarray(colour.convert("L")), atol=1)
    np.testing.assert_array_equal(as_bytes(colour, 4), np.dstack([SQUARE[..., :3], np.full((40, 40), 255)]))
    np.testing.assert_array_equal(as_bytes(Image.fromarray(SQUARE), 4), SQUARE)
    np.testing.assert_array_equal(as_bytes(grey, 4)[..., :3], SQUARE[..., :1].repeat(3, axis=-1))
    np.testing.assert_array_equal(as_bytes(Image.fromarray(SQUARE[..., :2], "LA"), 2), SQUARE[..., :2])
    clear = Image.new("RGBA", (20, 20), (10, 20, 30, 0))
    assert (as_bytes(clear, 1) == 255).all() and as_bytes(clear, 4)[0, 0].tolist() == [10, 20, 30, 0]
    with pytest.raises(ValueError, match=r"a picture, which cannot have the 6 channels of config.data.channels"):
        decode(encoded(grey), channels=6)


def test_arrays_of_values(tmp_path):
    path = str(tmp_path / "a.npy")
    for values, channels in ((SQUARE, 4), (NOISE[..., 0], 1), (SQUARE.transpose(2, 0, 1), 4), (X[:40, :40] / 64, 1)):
        np.save(path, values)
        assert values_of(decode(path, channels=channels)).shape == (40, 40, channels)
    for values, error, message in (
        (np.zeros((40, 40, 6), np.uint8), ValueError, r"a.npy': it has 6 channel\(s\); expected the 4 of config.data"),
        (np.full((40, 40, 4), 200.0), ValueError, r"floats from 200 to 200; scale them to \[-1, 1\]"),
        (np.zeros((40, 40, 4), np.int32), ValueError, r"holds int32; expected uint8, uint16, or floats"),
        (np.full((40, 40, 4), np.nan), BrokenImage, "6400 values that are not finite"),
        (np.zeros((0, 4, 4)), BrokenImage, "ValueError|it holds"),
    ):
        np.save(path, values)
        with pytest.raises(error, match=message):
            decode(path, channels=4)
    np.savez(tmp_path / "b.npz", a=SQUARE)
    (tmp_path / "b.npz").rename(path)
    with pytest.raises(BrokenImage, match="several arrays"):
        decode(path, channels=4)


def test_a_large_jpeg_is_read_at_a_reduced_scale():
    data = encoded(Image.new("L", (20_000, 10_000), 100), "JPEG")
    photo = decode(data, enough=64)
    assert photo.rgb.size == (2500, 1250) and (photo.width, photo.height) == (20_000, 10_000)
    with pytest.raises(BrokenImage, match=r"20000 x 10000 pixels, more than the 100000000 .*config.data.max_pixels"):
        decode(data)
    assert opened(data, lambda image, size: size, max_pixels=1 << 28) == (20_000, 10_000)
    with pytest.raises(BrokenImage, match="max_pixels"):
        decode(data, enough=64, max_pixels=1 << 20)


def texts(name):
    """What a PNG may carry beside its picture."""
    info, options = PngImagePlugin.PngInfo(), {}
    if name == "text":
        info.add_text("prompt", "x" * 3_000_000, zip=True)
    elif name == "international":
        info.add_itxt("notes", "y" * 3_000_000, zip=True)
    else:
        options["icc_profile"] = bytes(3_000_000)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"pnginfo": info, "exif": exif, **options}


@pytest.mark.parametrize("name", ["text", "international", "profile"])
def test_a_png_with_megabytes_beside_its_picture_is_read(name):
    data = encoded(Image.fromarray(SQUARE[:20]), **texts(name))
    plain = encoded(Image.fromarray(SQUARE[:20]), exif=texts(name)["exif"])
    np.testing.assert_array_equal(np.asarray(decode(data).rgb), np.asarray(decode(plain).rgb))


def test_what_says_how_a_png_is_turned_is_kept_among_large_texts():
    info, exif = PngImagePlugin.PngInfo(), Image.Exif()
    exif[0x0112] = 6
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n", zip=True)
    info.add_text("prompt", "x" * 3_000_000, zip=True)
    assert decode(encoded(Image.fromarray(SQUARE[:20]), pnginfo=info)).orientation == 6


def test_what_is_too_large_is_counted_with_the_setting_that_allows_it(tmp_path, caplog):
    for i in range(3):
        Image.new("L", (300, 300), 99).save(tmp_path / f"{i}.png")
    settings = {"path": str(tmp_path), "val_path": str(tmp_path), "max_pixels": 1 << 16, "workers": 1}
    cfg = DataConfig("folder", 16, 3, **settings)
    with caplog.at_level(logging.WARNING):
        assert not next(make_batches(cfg, "val"))["valid"].any()
    assert skipped(cfg, "val") == {"unreadable files": 3} and "allow more by config.data.max_pixels" in caplog.text


HALF = X < 32


def masks():
    """Files that keep the left half."""
    image = lambda values: Image.fromarray(values)
    palette = image(HALF.astype(np.uint8)).convert("P")
    palette.putpalette([20, 20, 20, 200, 40, 40])
    indices = Image.new("P", (64, 48))
    indices.putdata((~HALF).astype(np.uint8).ravel().tolist())
    indices.putpalette([255, 255, 255, 0, 0, 0])  # the first index is the brighter one
    clear = np.where(HALF, 255, 0).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(np.rot90(clear))  # as a camera held upright stores it
    return {
        "0 and 1": encoded(image(HALF.astype(np.uint8))),
        "one bit": encoded(image(HALF)),
        "two bits": encoded(image(clear), bits=2),
        "8 bits": encoded(image(clear)),
        "7 and 9": encoded(image(np.where(HALF, 9, 7).astype(np.uint8))),
        "16 bits": encoded(image(np.where(HALF, 65535, 0).astype(np.uint16))),
        "16 bits, dark": encoded(image(np.where(HALF, 300, 200).astype(np.uint16))),
        "floats": encoded(image(np.where(HALF, 0.5, -2).astype(np.float32)), "TIFF"),
        "palette": encoded(palette),
        "palette, the other way round": encoded(indices),
        "palette with a clear colour": encoded(indices, transparency=1),
        "black and clear": encoded(image(np.dstack([clear * 0] * 3 + [clear]))),
        "white and clear": encoded(image(np.dstack([clear * 0 + 255] * 3 + [clear]))),
        "grey and alpha": encoded(Image.fromarray(np.dstack([clear * 0, clear]), "LA")),
        "opaque": encoded(image(np.dstack([clear] * 3 + [clear * 0 + 255]))),
        "all half clear": encoded(image(np.dstack([clear] * 3 + [clear * 0 + 128]))),
        "jpeg": encoded(image(clear), "JPEG"),
        "cmyk": encoded(image(clear).convert("CMYK"), "JPEG"),
        "turned": encoded(image(turned), "JPEG", exif=exif),
        "turned png": encoded(image(turned), exif=exif),
        "animation": encoded(image(clear), "GIF", save_all=True, append_images=[image(255 - clear)]),
    }


@pytest.mark.parametrize("name", masks())
def test_one_rule_for_all_masks(name, tmp_path):
    (tmp_path / "mask").write_bytes(masks()[name])
    np.testing.assert_array_equal(read_mask(str(tmp_path / "mask")), HALF)


@pytest.mark.parametrize("value", [0, 1, 255])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_mask_of_one_value_is_refused(tmp_path, value, kind):
    noise = np.random.default_rng(0).integers(0, 2, (48, 64)) * (kind == "JPEG")
    Image.fromarray(np.clip(value - noise, 0, 255).astype(np.uint8)).save(tmp_path / "mask", kind)
    with pytest.raises(ValueError, match=r"all of it is alike .* give one with two values"):
        read_mask(str(tmp_path / "mask"))


DEPTHS = {
    "ramp": 5 + X,
    "shares": X / 64 + Y / 500,
    "whole over 255": (128 + X) / 255,
    "minus whole over 255": -(128 + X) / 255,
    "whole over 65535": (40_000 + 9 * X + Y) / 65535,
    "millimetres": (900 + 3 * X + Y) / 1000,
    "over 256": (900 + 3 * X + Y) / 256,
    "from -1 to 1": 2 * (X + Y) / 255 - 1,
    "disparity": 800 + 300 * np.sin(X / 20) * np.cos(Y / 30),
    "steps": (X // 16) * 1.37 + 2.1,
    "far": np.where(X < 20, 1e10, 2 + X / 10),
    "half floats": (X * 0.01 + Y * 0.02).astype(np.float16),
    "all alike": np.full(X.shape, 3.3),
    "zero": np.zeros(X.shape),
    "noise": np.random.default_rng(0).random(X.shape) * 10,
}


@pytest.mark.parametrize("name", DEPTHS)
def test_depth_as_floats_is_read_to_the_bit(tmp_path, name):
    depth = DEPTHS[name].astype(np.float32)
    write_depth(str(tmp_path / "a.png"), depth)
    np.save(tmp_path / "a.npy", depth)
    np.testing.assert_array_equal(read_depth(str(tmp_path / "a.png")), read_depth(str(tmp_path / "a.npy")))


SHADE = (X + 2 * Y) / 160
COLOURS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]])
LOOKS = {
    "grey": np.dstack([255 * SHADE] * 3),
    "dark": np.dstack([100 * SHADE] * 3),
    "colours": np.dstack([np.interp(SHADE, np.linspace(0, 1, 5), COLOURS[:, i]) for i in range(3)]),
}


@pytest.mark.parametrize("alpha", [255, 254, 200, 191, 128, 64, 51, 1, "fading", "cut out"])
@pytest.mark.parametrize("look", LOOKS)
def test_depth_as_a_picture_with_alpha_is_refused(tmp_path, look, alpha):
    path, clear = str(tmp_path / "a.png"), (X - 30) ** 2 + (Y - 20) ** 2 > 400
    alpha = {"fading": 255 * SHADE, "cut out": np.where(clear, 0, 255)}.get(alpha, np.full(X.shape, alpha))
    Image.fromarray(np.dstack([LOOKS[look], alpha]).astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"a.png' is a picture .*not the float32 form; give .* grey PNG"):
        read_depth(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_depth_is_no_picture(tmp_path, value):
    depth = np.where(X < 50, value, 2 + X / 10).astype("<f4")
    Image.fromarray(depth.view(np.uint8).reshape(*X.shape, 4)).save(tmp_path / "a.png")
    read = read_depth(str(tmp_path / "a.png"))
    np.testing.assert_allclose(read[X < 50], 1 if value == np.inf else -1)  # the sky is far
    assert read[X >= 50].min() == -1 and read.max() == 1


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_label_maps_of_few_bits_have_the_values_that_are_stored(tmp_path, bits):
    labels = ((X + Y) % (1 << bits)).astype(np.uint8)
    image = Image.fromarray(labels.astype(bool)) if bits == 1 else Image.fromarray(labels * (255 // ((1 << bits) - 1)))
    image.save(tmp_path / "a.png", **({} if bits == 1 else {"bits": bits}))
    np.testing.assert_array_equal(read_label_map(str(tmp_path / "a.png"), 1 << bits), labels)
    assert read_depth(str(tmp_path / "a.png")).max() == 1


def test_files_of_values_are_found_where_channels_are_set(tmp_path):
    np.save(tmp_path / "a.npy", SQUARE)
    (tmp_path / "b.tif").write_bytes(tiff(SQUARE))
    for name in ("c.png", "d.png"):
        Image.fromarray(SQUARE).save(tmp_path / name)
    count = lambda channels: num_examples(DataConfig("folder", 16, 1, path=str(tmp_path), channels=channels), "train")
    assert count(3) == 2 and count(4) == 3 and count(6) == 1  # a TIFF of four bands is a picture, too
    batch = next(make_batches(DataConfig("folder", 16, 3, path=str(tmp_path), channels=4, workers=1), "train"))
    assert batch["image"].shape == (3, 16, 16, 4) and batch["image"].dtype == np.float32
    assert -1 <= batch["image"].min() < -0.5 and 0.5 < batch["image"].max() <= 1
