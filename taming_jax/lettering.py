"""Short texts in pictures, in any script: by a font of the system that has the letters, else in Latin letters."""

import re
import unicodedata
from functools import lru_cache
from typing import Any

from PIL import ImageFont

# Looked for where Linux, macOS and Windows keep fonts; together they have nearly all living scripts.
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf", "NotoSansCJK-Regular.ttc")
FONTS += ("NotoSansCJKsc-Regular.otf", "wqy-zenhei.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc")
FONTS += ("YuGothM.ttc", "malgun.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansArabic-Regular.ttf", "seguiemj.ttf")

_CYRILLIC = dict(zip("абвгдезиклмнопрстуфхыэіјґ", "abvgdeziklmnoprstufhyeijg"))
_CYRILLIC |= {
    "ж": "zh",
    "ц": "ts",
    "ч": "ch",
    "ш": "sh",
    "щ": "shch",
    "ъ": "",
    "ь": "'",
    "ю": "yu",
    "я": "ya",
    "є": "ye",
}
_GREEK = dict(zip("αβγδεζηικλμνξοπρσςτυφχω", "abgdeziiklmnxoprsstyfho")) | {"θ": "th", "ψ": "ps"}
_LATIN = {"ß": "ss", "ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
_LETTERS = _CYRILLIC | _GREEK | _LATIN


def lettering(text: str, size: int) -> tuple[str, Any]:
    """(the text, or what stands for it, and the font that has all of its letters), for a height in pixels."""
    text = "".join(c if c.isprintable() else " " for c in unicodedata.normalize("NFC", text))
    if text.isascii():
        return text, _font("", size)
    for name in FONTS:
        font = _font(name, size)
        if font is not None and all(_has(font, c) for c in set(text)):
            return text, font
    return plain(text), _font("", size)


def plain(text: str) -> str:
    """In ASCII: without accents, other alphabets by sound, and what has none by its number, such as U+732B."""
    return "".join(map(_sound, unicodedata.normalize("NFC", text))).rstrip()


def _sound(letter: str) -> str:
    named = re.fullmatch(r".* (?:SYLLABLE|LETTER) ([A-Z]{1,5})", unicodedata.name(letter, ""))
    parts = unicodedata.normalize("NFKD", letter)
    if letter.isascii() or unicodedata.combining(letter):
        return letter * letter.isascii()
    if letter.lower() in _LETTERS:
        return _LETTERS[letter.lower()].capitalize() if letter.isupper() else _LETTERS[letter.lower()]
    if parts != letter and (parts[0].isascii() or parts[0].lower() in _LETTERS):
        return "".join(map(_sound, parts))
    return named[1].lower() if named else f"U+{ord(letter):04X} "


@lru_cache(maxsize=64)
def _font(name: str, size: int) -> Any:
    """By the name of its file, or Pillow's own, which has ASCII alone; None where there is no such font."""
    if not name:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except (OSError, ImportError):
        return None


def _has(font: Any, letter: str) -> bool:
    """Whether the letter is not drawn as the box that stands for letters that a font lacks."""
    lacking, drawn = font.getmask("\U0010ffff"), font.getmask(letter)
    return drawn.size != lacking.size or bytes(drawn) != bytes(lacking)
