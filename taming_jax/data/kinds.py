"""What a file is, told by its first bytes alone: a kind of picture, numbers, or something else, called what it is.

Names of files are not asked: browsers, phones and people call them anything.
"""

import importlib
import importlib.util
import os
import string

START = 512  # bytes that tell

# What Pillow reads, by the ending that such a file usually has.
PICTURES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WebP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "JPEG 2000": ".jp2",
    "PNM": ".ppm",
    "QOI": ".qoi",
    "PSD": ".psd",
}
# What a package beside Pillow reads: its module, its name for pip, and where such files come from.
EXTRA = {
    "HEIC": ("pillow_heif", "pillow-heif", "as phones save photographs"),
    "JPEG XL": ("pillow_jxl", "pillow-jxl-plugin", "which Pillow alone does not read"),
}
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
ENDINGS += (".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi")
EXTRA_ENDINGS = {".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC", ".jxl": "JPEG XL"}

# Endings of what lies beside pictures and is none; these files are not even opened to look. Camera RAW holds small
# previews, which would be taken for the picture.
_NO_PICTURES = """
.txt .md .rst .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .conf .log .html .htm .css .js .py .ipynb .sh
.bat .c .h .cpp .m .mat .r .tex .bib .doc .docx .xls .xlsx .ppt .pptx .odt .ods .pdf .ps .eps .svg .ai .psd .xcf
.blend .obj .ply .stl .glb .npy .npz .pt .pth .ckpt .bin .safetensors .h5 .hdf5 .pkl .pickle .parquet .arrow
.tfrecord .tfrecords .record .lmdb .mdb .db .sqlite .zip .tar .tgz .gz .bz2 .xz .zst .7z .rar .mp4 .m4v .mov .avi
.mkv .webm .mpg .mpeg .wmv .flv .mts .mp3 .wav .flac .ogg .m4a .aac .aae .xmp .thm .pp3 .dop .lnk .url .exe .dll .so
.dylib .jar .iso .dng .nef .nrw .cr2 .cr3 .crw .arw .srf .sr2 .raf .orf .rw2 .pef .srw .raw .3fr .erf .kdc .mrw .x3f
.exr .hdr .pfm .dcm .nii .fits .fit .flo .part .crdownload .tmp .bak .lock .md5 .sha256 .sha1 .torrent
"""
OTHERS = frozenset(_NO_PICTURES.split())

_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"qoif": "QOI",
    b"8BPS": "PSD",
    b"\x93NUMPY": "NPY",
    b"%PDF": "a PDF",
    b"%!PS": "a drawing in PostScript",
    b"\xc5\xd0\xd3\xc6": "a drawing in PostScript",
    b"gimp xcf": "a project of GIMP",
    b"PK\x03\x04": "a zip archive (or what is stored as one, such as .npz and .docx)",
    b"\x1f\x8b": "packed by gzip",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x1a\x45\xdf\xa3": "a video (Matroska or WebM)",
    b"\0\0\1\xba": "a video (MPEG)",
    b"\0\0\1\xb3": "a video (MPEG)",
    b"FLV\1": "a video (FLV)",
    b"FUJIFILMCCD-RAW": "camera RAW (RAF)",
    b"IIRO": "camera RAW (ORF)",
    b"IIRS": "camera RAW (ORF)",
    b"MMOR": "camera RAW (ORF)",
    b"IIU\0": "camera RAW (RW2)",
    b"FOVb": "camera RAW (X3F)",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"version https://git-lfs": "a pointer of Git LFS, whose file was not fetched (git lfs pull)",
}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BRANDS = {  # of the family that begins with `ftyp`
    "HEIC": (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"),
    "AVIF": (b"avif", b"avis"),
    "camera RAW (CR3)": (b"crx ",),
    "JPEG 2000": (b"jp2 ", b"jpx "),
}
_ADVICE = {
    "camera RAW": "export it as JPEG, PNG or TIFF",
    "a video": "give its frames as pictures",
    "a PDF": "export its pages as pictures",
    "a drawing": "export it as PNG",
    "a project of GIMP": "export it as PNG",
    "OpenEXR": "save it as .tif or .npy",
    "HDF5": "save its arrays as .npy",
    "an HTML page": "it is what a server answered; get the file again",
    "a text": "",
    "empty": "get it again",
    "all zeros": "it was not copied to its end; get it again",
}


def kind_of(start: bytes) -> str:
    """What a file is that begins with these bytes, of which START suffice: a name of PICTURES or EXTRA, "NPY", or what
    else it is in words; "" for what is not known."""
    if not start:
        return "empty"
    if not start.strip(b"\0"):
        return "all zeros" if len(start) >= 64 else ""
    if start[4:8] == b"ftyp":
        return _of_brand(start)
    if start[:4] in _TIFF:
        return "camera RAW (CR2)" if start[8:10] == b"CR" and start[:2] == b"II" else "TIFF"
    if start[:4] == b"RIFF":
        return {b"WEBP": "WebP", b"AVI ": "a video (AVI)"}.get(start[8:12], "")
    if start[:2] == b"BM" and start[6:10] == bytes(4):
        return "BMP"
    if start[:1] == b"P" and start[1:2] in b"123456" and start[2:3] in b" \t\r\n#":
        return "PNM"
    for begin, kind in _STARTS.items():
        if start.startswith(begin):
            return kind
    if start[257:262] == b"ustar":
        return "a tar archive"
    return _of_text(start)


def _of_brand(start: bytes) -> str:
    length = int.from_bytes(start[:4], "big")
    brands = [start[8:12], *(start[i : i + 4] for i in range(16, min(length, len(start), 128), 4))]
    named = {brand: kind for kind, those in _BRANDS.items() for brand in those}
    # the first says what the file is mainly; mif1 is of AVIF, too, which then says so behind it
    order = [brand for brand in brands if brand not in (b"mif1", b"msf1")] + brands
    if brands[0] in (b"mif1", b"msf1") or brands[0] in named:
        return next((named[brand] for brand in order if brand in named), "")
    return "a video (MP4 or QuickTime)"


def _of_text(start: bytes) -> str:
    text = start.lstrip(b"\xef\xbb\xbf").lstrip()
    lower = text[:256].lower()
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if lower.startswith(b"<svg") or (lower.startswith(b"<?xml") and b"<svg" in start.lower()):
        return "a drawing in SVG"
    try:
        words = text.decode()
    except UnicodeDecodeError as error:
        words = text[: error.start].decode() if error.start >= len(text) - 3 else ""
    letters = sum(letter.isprintable() or letter in string.whitespace for letter in words)
    return "a text" if words and letters == len(words) else ""


def readable(kind: str) -> bool:
    """Whether a picture of this kind can be read here, as far as packages decide it."""
    return kind in PICTURES or (kind in EXTRA and importlib.util.find_spec(EXTRA[kind][0]) is not None)


def prepare(kind: str) -> str:
    """Load what reads a kind of EXTRA; what to do where it is not there, else nothing."""
    module, package, where = EXTRA[kind]
    try:
        found = importlib.import_module(module)
    except ImportError:
        return f"it is {kind}, {where}: pip install {package}, or export it as JPEG"
    if module == "pillow_heif":
        found.register_heif_opener()
    return ""


def in_words(kind: str, start: bytes) -> str:
    """Of a file that is no picture: what it is, and what to do."""
    if kind == "a text":
        begins = " ".join(start.decode("utf-8", "replace").split())[:40]
        return f"it is a text, no picture; it begins {begins!r}"
    if kind == "NPY":
        return "it is an array of numpy, which stands for a picture only where it is called .npy"
    advice = next((what for name, what in _ADVICE.items() if kind.startswith(name)), "")
    no_picture = "" if kind.startswith(("empty", "all zeros", "camera RAW")) else ", no picture"
    return f"it is {kind}{no_picture}" + (f": {advice}" if advice else "")


def ending(name: str) -> str:
    """The ending of a name in lower case, "" for none."""
    return os.path.splitext(name)[1].lower()


def is_named(name: str, path: str, endings: tuple[str, ...]) -> bool:
    """Whether the file of this name is one of those with the endings, or a picture under another name where pictures
    are among them. Only files of unknown endings are opened, for their first bytes."""
    own = ending(name)
    if own in endings:
        return True
    if ENDINGS[0] not in endings or own in OTHERS:
        return False
    if own in EXTRA_ENDINGS:
        return readable(EXTRA_ENDINGS[own])
    return readable(kind_of(first_bytes(path)))


def first_bytes(path: str) -> bytes:
    """The beginning of a file; nothing where it cannot be read, or is none."""
    try:
        if not os.path.isfile(path):  # a pipe would wait
            return b""
        with open(path, "rb") as file:
            return file.read(START)
    except OSError:
        return b""


def why_unreadable(name: str) -> str:
    """For lists of what was passed over: the ending of a file, with what to do where a package would read it."""
    own = ending(name)
    if own in EXTRA_ENDINGS and not readable(EXTRA_ENDINGS[own]):
        return f"{own} (to be read after pip install {EXTRA[EXTRA_ENDINGS[own]][1]})"
    return own
