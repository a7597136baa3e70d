"""Labels in pictures: letters of any script are drawn, or stand in Latin letters."""

import numpy as np
import pytest

from taming_jax import lettering, pictures


@pytest.mark.parametrize(
    ("text", "latin"),
    [
        ("tram 12", "tram 12"),
        ("été", "ete"),
        ("Ångström", "Angstrom"),
        ("Straße", "Strasse"),
        ("собака", "sobaka"),
        ("Жук, Ёж", "Zhuk, Ezh"),
        ("Ελλάδα", "Ellada"),
        ("カメラ", "kamera"),
        ("ﬁn", "fin"),
        ("猫", "U+732B"),
    ],
)
def test_in_ascii(text, latin):
    assert lettering.plain(text) == latin


def test_without_fonts_of_the_system_labels_are_in_ascii(monkeypatch):
    monkeypatch.setattr(lettering, "FONTS", ())
    assert lettering.lettering("каша\tété", 12)[0] == "kasha ete"


def test_a_font_that_has_a_letter_draws_it_and_no_box():
    text, font = lettering.lettering("é", 12)
    box = font.getmask("\U0010ffff")
    assert text == "e" or bytes(font.getmask(text)) != bytes(box)


def test_labels_of_other_scripts_differ_in_the_grid():
    images = np.zeros((1, 96, 96, 3), np.float32)
    drawn = {pictures.grid(images, labels=[text]).tobytes() for text in ("猫", "犬", "собака", "кошка", "é", "ü")}
    assert len(drawn) == 6
