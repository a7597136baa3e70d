"""What a file is by its first bytes: pictures under any name, others called what they are."""

import sys
import types

import numpy as np
import pytest
from PIL import Image
from test_pixels import encoded

from taming_jax.conditioning.files import LABEL_MAP
from taming_jax.data import kinds
from taming_jax.data.config import DataConfig
from taming_jax.data.map_files import read_depth, read_label_map
from taming_jax.data.opening import BrokenImage
from taming_jax.data.pipeline import num_examples, opened, summary
from taming_jax.data.pixels import decode
from taming_jax.data.walk import walk
from taming_jax.drawing.condition_files import find_files
from taming_jax.page.uploads import check_file
from taming_jax.quality.images import of_files

Y, X = np.mgrid[:24, :24]
PICTURE = Image.fromarray(np.stack([9 * X, 9 * Y, 5 * (X + Y)], axis=-1).astype(np.uint8))
LABELS = (X // 6 + 4 * (Y // 12)).astype(np.uint8)

# Of the kinds that Pillow reads: how it calls them, and endings that such files have.
WRITTEN = {
    "JPEG": ("JPEG", ("jpg", "jpeg", "jpe", "jfif", "JPG", "JFIF")),
    "PNG": ("PNG", ("png", "apng")),
    "WebP": ("WEBP", ("webp",)),
    "GIF": ("GIF", ("gif",)),
    "BMP": ("BMP", ("bmp", "dib", "BMP")),
    "TIFF": ("TIFF", ("tif", "tiff")),
    "AVIF": ("AVIF", ("avif",)),
    "JPEG 2000": ("JPEG2000", ("jp2", "jpx")),
    "PNM": ("PPM", ("ppm", "pnm")),
    "QOI": ("QOI", ("qoi",)),
}
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
XL = bytes.fromhex("0000000c4a584c200d0a870a") + bytes(300)


@pytest.mark.parametrize("kind", WRITTEN)
def test_pictures_of_any_ending_are_found_and_read(tmp_path, kind):
    data = encoded(PICTURE, WRITTEN[kind][0])
    assert kinds.kind_of(data[: kinds.START]) == kind
    names = [f"a.{ending}" for ending in WRITTEN[kind][1]] + ["without", "another.0001", "b.picture", "c.jpg", "d.png"]
    for name in names:
        (tmp_path / name).write_bytes(data)
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8")
    for name in ("notes.txt", "x.json", "x.csv", "x.npy", "x.md"):  # whatever they hold
        (tmp_path / name).write_bytes(data)
    found = walk(tmp_path, kinds.ENDINGS)
    assert found.names == sorted(names)
    assert sorted(found.passed_over) == [".csv", ".json", ".md", ".npy", ".txt"]
    of_list = DataConfig("folder", 16, 1, path=str(tmp_path / "list.txt"), val_path=str(tmp_path))
    assert num_examples(of_list, "train") == num_examples(of_list, "val") == of_files(str(tmp_path)).n == len(names)
    pixels = [np.asarray(decode(str(tmp_path / name)).rgb) for name in names]
    assert all(np.array_equal(one, pixels[0]) for one in pixels) and pixels[0].shape == (24, 24, 3)
    assert kinds.PICTURES[kind] == check_file(data, kinds.ENDINGS)[0]


OTHERS = {
    "heic": (HEIC, r"it is HEIC, as phones save photographs: pip install pillow-heif, or export it as JPEG"),
    "heif": (HEIC.replace(b"heic", b"mif1", 1), r"it is HEIC"),
    "jpeg xl": (XL, r"it is JPEG XL, .*: pip install pillow-jxl-plugin, or export it as JPEG"),
    "bare jpeg xl": (b"\xff\x0a" + bytes(99), r"it is JPEG XL"),
    "html": (b"\n <!DOCTYPE html><title>404</title>", r"it is an HTML page, no picture: .* get the file again"),
    "text": (b"mirror is down, try later\n", r"it is a text, no picture; it begins 'mirror is down, try later'"),
    "json": (b'{"error": "not found"}', r"it is a text, .*error"),
    "pdf": (b"%PDF-1.7\n" + bytes(99), r"it is a PDF, no picture: export its pages"),
    "svg": (b"<?xml version='1.0'?><svg xmlns='x'/>", r"a drawing in SVG, no picture: export it as PNG"),
    "mp4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2" + bytes(99), r"a video \(MP4 or QuickTime\), no picture"),
    "mkv": (b"\x1a\x45\xdf\xa3" + bytes(99), r"a video \(Matroska"),
    "avi": (b"RIFF\1\1\1\1AVI LIST" + bytes(99), r"a video \(AVI\)"),
    "cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), r"it is camera RAW \(CR2\): export it as JPEG"),
    "cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(99), r"camera RAW \(CR3\)"),
    "raf": (b"FUJIFILMCCD-RAW 0201" + bytes(99), r"camera RAW \(RAF\)"),
    "zip": (b"PK\x03\x04" + bytes(99), r"a zip archive"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", r"pointer of Git LFS.*git lfs pull"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", r"a drawing in PostScript"),
    "array": (b"\x93NUMPY\1\0v\0{'descr'", r"an array of numpy"),
    "empty": (b"", r"it is empty: get it again"),
    "zeros": (bytes(5000), r"it is all zeros: it was not copied to its end"),
    "noise": (bytes(range(130, 250)), r"it begins like no picture that is known"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_picture_is_called_what_it_is(tmp_path, name, monkeypatch):
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    data, words = OTHERS[name]
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(BrokenImage, match=words):
        decode(str(tmp_path / "a.jpg"))
    if data and name not in ("noise", "array"):
        with pytest.raises(ValueError, match=words):
            check_file(data, kinds.ENDINGS)


def test_a_dng_is_no_preview():
    with pytest.raises(BrokenImage, match="it is camera RAW: export it"):
        decode(encoded(PICTURE, "TIFF", tiffinfo={50706: b"\1\4\0\0"}))


def test_heic_is_read_where_its_package_is(tmp_path, monkeypatch):
    called = []
    package = types.ModuleType("pillow_heif")
    package.__spec__ = types.SimpleNamespace(name="pillow_heif")
    package.register_heif_opener = lambda: called.append(1)
    readers = {**Image.OPEN, "HEIF": (lambda file, name: PICTURE.copy(), None)}
    monkeypatch.setattr(Image, "OPEN", readers)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a.heic", "b.HEIC", "c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(HEIC)
    config = DataConfig("folder", 16, 1, path=str(tmp_path))
    monkeypatch.setattr(kinds.importlib.util, "find_spec", lambda name: None)
    assert "passed over: 2 .heic (to be read after pip install pillow-heif)" in summary(config)
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(kinds.importlib.util, "find_spec", lambda name: package.__spec__)
    assert walk(tmp_path, kinds.ENDINGS).names == ["a.heic", "b.HEIC", "c.jpg", "d.jpg"]
    np.testing.assert_array_equal(np.asarray(decode(str(tmp_path / "a.heic")).rgb), np.asarray(PICTURE))
    assert called and check_file(HEIC, kinds.ENDINGS)[0] == ".heic"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("dtype", ["u2", "f2", "f4", "f8", "i2", "i4", "i8", "u4"])
def test_arrays_of_any_machine(tmp_path, dtype, order, fortran):
    kind = np.dtype(dtype)
    top = 1 if kind.kind == "f" else 4000
    values = (np.random.default_rng(0).integers(0, 200, (24, 30)) / 200 * top).astype(kind.newbyteorder(order))
    values = np.asfortranarray(values) if fortran else values
    path = str(tmp_path / "a.npy")
    np.save(path, values)
    low, high = float(values.min()), float(values.max())
    np.testing.assert_allclose(read_depth(path), 2 * (values.astype(float) - low) / (high - low) - 1, atol=1e-6)
    if dtype in ("u2", "f2", "f4", "f8"):
        want = values.astype(float) / 32767.5 - 1 if dtype == "u2" else values.astype(float)
        np.testing.assert_allclose(np.asarray(decode(path, channels=1).parts[0]), want, atol=1e-6)
    else:
        with pytest.raises(ValueError, match="expected uint8, uint16, or floats"):
            decode(path, channels=1)
    if kind.kind != "f":
        np.save(path, np.asarray(LABELS, kind.newbyteorder(order)))
        np.testing.assert_array_equal(read_label_map(path, 8), LABELS)


def label_files():
    full, grey = np.full_like(LABELS, 255), Image.fromarray(LABELS)
    coloured = grey.copy().convert("P")
    coloured.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    image = lambda *channels, mode=None: Image.fromarray(np.dstack(channels), mode)
    return {
        "la.png": encoded(image(LABELS, full, mode="LA")),
        "rgb.png": encoded(image(LABELS, LABELS, LABELS)),
        "rgba.png": encoded(image(LABELS, LABELS, LABELS, full)),
        "palette.png": encoded(coloured),
        "grey.bmp": encoded(grey, "BMP"),
        "rgb.bmp": encoded(image(LABELS, LABELS, LABELS), "BMP"),
        "grey.tif": encoded(grey, "TIFF"),
        "turned.tif": encoded(grey, "TIFF", tiffinfo={274: 6}),
        "rgba.tif": encoded(image(LABELS, LABELS, LABELS, full), "TIFF", compression="tiff_lzw"),
        "palette.gif": encoded(coloured, "GIF", optimize=False),
    }


@pytest.mark.parametrize("name", label_files())
def test_label_maps_of_drawing_programs(tmp_path, name):
    (tmp_path / name).write_bytes(label_files()[name])
    np.testing.assert_array_equal(read_label_map(str(tmp_path / name), 8), LABELS)
    np.testing.assert_array_equal(LABEL_MAP.read(tmp_path / name, 1, None, 8, -1), LABELS)
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(tmp_path / "photo.png")
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / f"photo{name[name.index('.') :]}").write_bytes(label_files()[name])
    settings = {"path": str(tmp_path / "photo.txt"), "maps": str(tmp_path / "maps"), "n_labels": 8}
    (tmp_path / "photo.txt").write_text("photo.png", encoding="utf-8")
    config = DataConfig("folder", 24, 1, val_path=settings["path"], annotations=("segmentation",), **settings)
    np.testing.assert_array_equal(opened(config, "val").read(0, None)["segmentation"], LABELS)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((LABELS, LABELS, LABELS, LABELS), r"'RGBA' that is not opaque everywhere; expected a PNG"),
        ((LABELS, LABELS, LABELS + 1), r"'RGB' whose colours are not grey; expected"),
        ((LABELS, LABELS + 250), r"'LA' that is not opaque everywhere"),
    ],
)
def test_other_colours_are_no_labels(tmp_path, parts, words):
    Image.fromarray(np.dstack(parts), "LA" if len(parts) == 2 else None).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=words):
        read_label_map(str(tmp_path / "a.png"), 256)


def test_label_arrays_out_of_range_are_refused(tmp_path):
    for values in (LABELS.astype(np.int16) - 1, LABELS.astype(np.int32) * 99, LABELS / 2, LABELS[None, None]):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(ValueError, match=r"expected whole numbers \(H, W\) from 0 to 255"):
            read_label_map(str(tmp_path / "a.npy"), 256)


def test_a_tiff_of_depth_of_either_order(tmp_path):
    depth = (X * 100 + Y).astype(np.uint16)
    for mode, kind in (("I;16", "<u2"), ("I;16B", ">u2")):
        Image.frombytes(mode, depth.shape, depth.astype(kind).tobytes()).save(tmp_path / "a.tif")
        found = read_depth(str(tmp_path / "a.tif"))
        np.testing.assert_allclose(found, 2 * depth / depth.max() - 1, atol=1e-6)
    Image.fromarray(depth.astype(np.float32)).save(tmp_path / "b.tif")
    np.testing.assert_array_equal(read_depth(str(tmp_path / "b.tif")), found)


def test_conditions_are_found_by_what_they_are(tmp_path):
    condition = types.SimpleNamespace(keys=("image",), suffixes=kinds.ENDINGS)
    for name in ("a.jfif", "b", "c.GIF", "d.photo"):
        (tmp_path / name).write_bytes(encoded(PICTURE, "JPEG"))
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    assert [file.name for file in find_files(str(tmp_path), condition)] == ["a.jfif", "b", "c.GIF", "d.photo"]
    assert find_files(str(tmp_path / "b"), condition)
