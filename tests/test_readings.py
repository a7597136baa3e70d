"""One way from a picture's file to pixels: training, evaluation, conditions, completions and uploads see the same."""

import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from test_pixels import chunk, deep_png, encoded

from taming_jax.conditioning.files import photograph
from taming_jax.data.config import DataConfig
from taming_jax.data.inspection import read
from taming_jax.data.pipeline import AS_SET, opened
from taming_jax.data.pixels import decode
from taming_jax.data.profiles import profile_of
from taming_jax.drawing.completion import read_picture
from taming_jax.page.uploads import check_file
from taming_jax.quality.images import of_files

SIDE = 32
Y, X = np.mgrid[:SIDE, :SIDE]
GREY = (4 * X + 3 * Y).astype(np.uint8)
COLOURS = np.stack([7 * X, 255 - 5 * Y, 3 * X + 4 * Y], axis=-1).astype(np.uint8)
TRANSPOSES = {1: None, 3: Image.Transpose.ROTATE_180, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270}


def fixed(*numbers):
    return b"".join(struct.pack(">i", round(x * 65536)) for x in numbers)


def profile(space=b"RGB ", gamma=1.4, primaries=((0.61, 0.31, 0.02), (0.21, 0.63, 0.06), (0.15, 0.06, 0.74))):
    """A color profile of a display with these primaries, or of grey, with another gamma than sRGB's."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"Wide\0" + bytes(78)}
    tags |= {b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249)}
    if space == b"RGB ":
        tags |= {
            name + b"XYZ": b"XYZ " + bytes(4) + fixed(*values)
            for name, values in zip((b"r", b"g", b"b"), primaries, strict=True)
        }
        tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    else:
        tags[b"kTRC"] = curve
    table, body, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data
    head = struct.pack(">I4sI", place + len(body), b"none", 0x02400000)
    head += b"mntr" + space + b"XYZ " + bytes(12) + b"acsp"
    head += bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


WIDE, DIM = profile(), profile(b"GRAY")
PROFILES = {"none": None, "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), "wide": WIDE}


def in_srgb(pixels, icc):
    """What the profile means, by another road: floats by its own formula, for RGB; grey alike."""
    if icc is None or icc == PROFILES["sRGB"]:
        return pixels.astype(np.float64)
    linear = (pixels / 255) ** 1.4
    if icc == WIDE:
        to_xyz = np.array([(0.61, 0.31, 0.02), (0.21, 0.63, 0.06), (0.15, 0.06, 0.74)]).T
        srgb = np.array([(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]).T
        linear = np.clip(linear @ (np.linalg.inv(srgb) @ to_xyz).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def deep(values, **options):
    """The PNG of 16 bits of what has 8, with a profile or an orientation."""
    data = deep_png(np.atleast_3d(values).astype(np.uint16) * 257)
    extra = b""
    if icc := options.get("icc_profile"):
        extra += chunk(b"iCCP", b"x\0\0" + zlib.compress(icc))
    if exif := options.get("exif"):
        extra += chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    return data[:33] + extra + data[33:]  # behind the head


CLEAR = np.where(X < 9, 0, 255).astype(np.uint8)
WITH_ALPHA = np.dstack([COLOURS, CLEAR])


def palette(image):
    return image.quantize(256, dither=Image.Dither.NONE)


# What a picture can be stored as: (its file, by options of Pillow; what is to be seen, uint8 (H, W, 3); how exactly).
FORMS = {
    "png rgb": lambda o: (encoded(Image.fromarray(COLOURS), **o), COLOURS, None),
    "png grey": lambda o: (encoded(Image.fromarray(GREY), **o), GREY, None),
    "png palette": lambda o: (
        encoded(palette(Image.fromarray(COLOURS)), **o),
        np.asarray(palette(Image.fromarray(COLOURS)).convert("RGB")),
        None,
    ),
    "png alpha": lambda o: (encoded(Image.fromarray(WITH_ALPHA), **o), COLOURS, CLEAR),
    "png grey alpha": lambda o: (encoded(Image.fromarray(np.dstack([GREY, CLEAR]), "LA"), **o), GREY, CLEAR),
    "png one bit": lambda o: (encoded(Image.fromarray(GREY > 99), **o), (GREY > 99) * np.uint8(255), None),
    "png one clear colour": lambda o: (
        encoded(Image.fromarray(COLOURS), transparency=tuple(COLOURS[5, 7].tolist()), **o),
        COLOURS,
        np.where((COLOURS[5, 7] == COLOURS).all(-1), 0, 255),
    ),
    "png 16 bits grey": lambda o: (deep(GREY, **o), GREY, None),
    "png 16 bits rgb": lambda o: (deep(COLOURS, **o), COLOURS, None),
    "png 16 bits alpha": lambda o: (deep(WITH_ALPHA, **o), COLOURS, CLEAR),
    "webp": lambda o: (encoded(Image.fromarray(COLOURS), "WEBP", lossless=True, **o), COLOURS, None),
    "tiff": lambda o: (encoded(Image.fromarray(COLOURS), "TIFF", **o), COLOURS, None),
    "tiff grey": lambda o: (encoded(Image.fromarray(GREY), "TIFF", **o), GREY, None),
    "tiff 16 bits big-endian": lambda o: (
        encoded(Image.frombytes("I;16B", GREY.shape, (GREY.astype(">u2") * 257).astype(">u2").tobytes()), "TIFF", **o),
        GREY,
        None,
    ),
    "tiff floats": lambda o: (
        encoded(Image.fromarray((GREY / 127.5 - 1).astype(np.float32)), "TIFF", **o),
        GREY,
        None,
    ),
    "jpeg": lambda o: (encoded(Image.fromarray(COLOURS), "JPEG", quality=95, **o), COLOURS, None),
    "jpeg grey": lambda o: (encoded(Image.fromarray(GREY), "JPEG", quality=95, **o), GREY, None),
}
NO_EXIF = ("bmp", "gif")


def drawn(form, orientation, icc):
    """(a file, what is to be seen of it, float (H, W, 3))."""
    options = {}
    if orientation > 1:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
        if form.startswith("tiff"):
            options = {"tiffinfo": {0x0112: orientation}}
    if icc:
        options["icc_profile"] = icc
    data, pixels, alpha = FORMS[form](options)
    seen = np.broadcast_to(np.atleast_3d(in_srgb(pixels, icc)), (SIDE, SIDE, 3))
    if alpha is not None:
        seen = np.where(alpha[..., None] > 0, seen, 255)
    turn = TRANSPOSES[orientation]
    if turn is not None:
        seen = np.stack(
            [np.asarray(Image.fromarray(seen[..., i].astype(np.float32)).transpose(turn)) for i in range(3)], axis=-1
        )
    return data, seen


def readings(folder, data, name="picture"):
    """What each of those that read pictures makes of a file, uint8 (H, W, 3)."""
    file = folder / name
    file.write_bytes(data)
    whole = lambda values: np.round((np.asarray(values) + 1) * 127.5).astype(np.uint8)
    settings = DataConfig("folder", SIDE, 1, path=str(folder), val_path=str(folder), flip=False)
    check_file(data, (".jpg", ".png", ".webp", ".tif"))
    return {
        "decode": np.asarray(decode(str(file)).rgb),
        "from bytes": np.asarray(decode(data).rgb),  # as TFDS has them
        "training": opened(settings, "train").read(0, 0)["image"],
        "validation": opened(settings, "val").read(0, None)["image"],
        "evaluation": next(iter(of_files(str(folder)).read(0, 1))),
        "condition": whole(photograph(file, 1, None)),
        "completion": whole(read_picture(str(file), 1)),
    }


GRID = [
    (form, orientation, name)
    for form, orientation, name in itertools.product(FORMS, TRANSPOSES, PROFILES)
    if orientation in (1, 6) or name == "none"
]


@pytest.mark.parametrize(("form", "orientation", "name"), GRID)
def test_every_way_to_a_picture_gives_the_same_pixels(tmp_path, form, orientation, name):
    grey = "grey" in form or ("bit" in form and "rgb" not in form and "alpha" not in form) or "floats" in form
    icc = DIM if name == "wide" and grey else PROFILES["none" if name == "sRGB" and grey else name]
    data, seen = drawn(form, orientation, icc)
    found = readings(tmp_path, data)
    for who, pixels in found.items():
        np.testing.assert_array_equal(pixels, found["decode"], err_msg=who)
    near = 24 if form.startswith("jpeg") else 0 if name in ("none", "sRGB") else 2
    assert np.abs(found["decode"] - seen).max() <= near
    assert np.abs(found["decode"] - seen).mean() <= (2 if near else 0)


def test_a_profile_of_srgb_leaves_every_bit(tmp_path):
    for form in ("png rgb", "jpeg", "webp", "tiff"):
        plain, tagged = (drawn(form, 1, PROFILES[name])[0] for name in ("none", "sRGB"))
        np.testing.assert_array_equal(np.asarray(decode(plain).rgb), np.asarray(decode(tagged).rgb))


def test_profiles_can_be_left_out(tmp_path):
    (tmp_path / "a.png").write_bytes(drawn("png rgb", 1, WIDE)[0])
    (tmp_path / "b.png").write_bytes(drawn("png rgb", 1, None)[0])
    for on in (True, False):
        settings = DataConfig("folder", SIDE, 2, path=str(tmp_path), val_path=str(tmp_path), color_profiles=on)
        wide, plain = (opened(settings, "val").read(i, None)["image"].astype(int) for i in (0, 1))
        assert (np.abs(wide - plain).max() > 20) == on


def lines(folder):
    settings = DataConfig("folder", SIDE, 1, path=str(folder), val_path=str(folder), workers=1)
    return "\n".join(read(settings, AS_SET).lines(settings, AS_SET))


def test_the_report_counts_profiles_and_animations(tmp_path):
    for i, icc in enumerate((WIDE, WIDE, DIM, PROFILES["sRGB"], None)):
        (tmp_path / f"{i}.png").write_bytes(drawn("png grey" if icc == DIM else "png rgb", 1, icc)[0])
    more = [Image.fromarray(255 - COLOURS)]
    Image.fromarray(COLOURS).save(tmp_path / "moves.webp", save_all=True, append_images=more, lossless=True)
    Image.fromarray(COLOURS).save(tmp_path / "moves.png", save_all=True, append_images=more)
    Image.fromarray(GREY).save(tmp_path / "moves.gif", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    told = lines(tmp_path)
    assert "color profiles, converted to sRGB: 6 Wide (of 16 files)" in told  # of both splits, which are one here
    assert "6 animations or files of several pages, of which the first is taken" in told
    for name in ("moves.webp", "moves.png"):
        np.testing.assert_array_equal(np.asarray(decode(str(tmp_path / name)).rgb), COLOURS)


BROKEN = {
    "cut": WIDE[:200],
    "nonsense": bytes(range(256)) * 20,
    "zeros": bytes(3_000),
    "too large": WIDE + bytes(5 << 20),
    "for printers": WIDE.replace(b"RGB XYZ", b"CMYKXYZ", 1),
    "of three billion entries": WIDE.replace(b"curv" + bytes(4) + b"\0\0\0\1", b"curv" + bytes(4) + b"\xb0\0\0\1"),
    "a chain": WIDE.replace(b"wtpt", b"D2B0", 1),
    "empty": b"",
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_profile_that_cannot_be_used_costs_no_picture(tmp_path, name, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = encoded(Image.fromarray(COLOURS), kind, **options)
    data = encoded(Image.fromarray(COLOURS), kind, icc_profile=BROKEN[name], **options)
    np.testing.assert_array_equal(np.asarray(decode(data).rgb), np.asarray(decode(plain).rgb))


def test_a_profile_that_cannot_be_used_is_counted_once(tmp_path, caplog):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(Image.fromarray(COLOURS), icc_profile=BROKEN["cut"]))
    assert "6 pictures whose color profile cannot be used" in lines(tmp_path).replace("3 pictures", "6 pictures")
    assert sum("color profile cannot be used" in record.message for record in caplog.records) <= 2  # one a split


def test_cmyk_with_a_profile_of_another_kind_is_read_without():
    data = encoded(Image.new("CMYK", (8, 8), (0, 200, 200, 0)), "JPEG", icc_profile=WIDE)  # of another kind
    plain = encoded(Image.new("CMYK", (8, 8), (0, 200, 200, 0)), "JPEG")
    np.testing.assert_array_equal(np.asarray(decode(data).rgb), np.asarray(decode(plain).rgb))


def cmyk_profile():
    """A printer's profile, in which inks take light away as in the simplest formula: four axes to Lab, of 16 bits."""
    steps = np.linspace(0, 1, 9)
    inks = np.stack(np.meshgrid(*[steps] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    rgb = (1 - inks[:, :3]) * (1 - inks[:, 3:])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([(0.4361, 0.3851, 0.1431), (0.2225, 0.7169, 0.0606), (0.0139, 0.0971, 0.7141)])
    x, y, z = np.cbrt(linear @ to_xyz.T / [0.9642, 1, 0.8249]).T
    lab = np.stack([(116 * y - 16) * 652.8, (500 * (x - y) + 128) * 256, (200 * (y - z) + 128) * 256], axis=-1)
    table = lab.clip(0, 65535).astype(">u2").tobytes()
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    line = struct.pack(">HH", 0, 65535)
    lut = b"mft2" + bytes(4) + bytes([4, 3, 9, 0]) + matrix + struct.pack(">HH", 2, 2) + line * 4 + table + line * 3
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"Inks\0" + bytes(79)
    place = 128 + 4 + 24
    head = struct.pack(">I4sI", place + len(name) + len(lut), b"none", 0x02400000) + b"prtrCMYKLab " + bytes(12)
    head += b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    tags = b"desc" + struct.pack(">II", place, len(name)) + b"A2B0" + struct.pack(">II", place + len(name), len(lut))
    return head + bytes(128 - len(head)) + struct.pack(">I", 2) + tags + name + lut


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_read_by_its_profile(kind):
    for inks in ((0, 200, 200, 0), (250, 10, 30, 60), (0, 0, 0, 200), (90, 90, 90, 0)):
        options = {"quality": 100} if kind == "JPEG" else {}
        data = encoded(Image.new("CMYK", (8, 8), inks), kind, icc_profile=cmyk_profile(), **options)
        c, m, y, k = (1 - ink / 255 for ink in inks)
        found = np.asarray(decode(data).rgb)[4, 4]
        np.testing.assert_allclose(found, 255 * k * np.array([c, m, y]), atol=8)


def test_a_table_that_a_profile_does_not_hold_takes_no_memory():
    data = bytearray(cmyk_profile())
    data[data.index(b"mft2") + 10] = 100  # a hundred steps on four axes
    assert profile_of(bytes(data)).broken.startswith("damaged")


def test_deep_grey_keeps_its_bits_under_a_profile():
    values = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE, 1).astype(np.uint16)
    data = deep_png(values)
    data = data[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(DIM)) + data[33:]
    found = np.asarray(decode(data, channels=1).parts[0])
    assert len(np.unique(found)) > 800
    np.testing.assert_allclose((found + 1) * 127.5, in_srgb(values[..., 0] / 257, DIM), atol=2)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_xmp_turns_nothing(kind):
    image, info = Image.fromarray(COLOURS[:20]), PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    make = Image.Exif()
    make[0x010F] = "camera"
    options = {"PNG": {"pnginfo": info}, "TIFF": {"tiffinfo": {700: XMP}}}.get(kind, {"xmp": XMP, "exif": make})
    photo = decode(encoded(image, kind, **options))
    assert photo.orientation == 1 and photo.rgb.size == (SIDE, 20)


def test_floats_beyond_the_range_are_refused_in_words():
    data = encoded(Image.fromarray(np.full((8, 8), 200, np.float32)), "TIFF")
    with pytest.raises(ValueError, match=r"floats from 200 to 200; scale them to \[-1, 1\]"):
        decode(data)


def test_a_clear_value_of_few_bits_and_of_sixteen():
    rows = b"".join(b"\0" + bytes([0b00_01_10_11]) for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 2, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"tRNS", b"\0\1") + chunk(b"IDAT", zlib.compress(rows))
    assert np.asarray(decode(data + chunk(b"IEND", b"")).rgb)[0, :, 0].tolist() == [0, 255, 170, 255]
    values = np.array([[0x1234, 0x1235, 0xFFFF]], np.uint16).repeat(4, 0)
    grey = deep_png(values[..., None])
    grey = grey[:33] + chunk(b"tRNS", b"\x12\x34") + grey[33:]
    assert np.asarray(decode(grey).rgb)[0, :, 0].tolist() == [255, 0x1235 // 257, 255]
