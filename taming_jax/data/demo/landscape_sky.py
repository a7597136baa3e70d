"""The sky of a landscape: its colours from horizon to zenith, the sun, and clouds."""

import numpy as np

from taming_jax.data.demo.landscape_kinds import CLOUD, DARK, LIGHT, MOODS, SKIES
from taming_jax.data.demo.landscape_noise import noise, smooth

SKY_LAYERS = 7  # of noise
DAY, DUSK, OVERCAST = range(len(MOODS))
_SUNS = np.array([(255, 252, 236), (255, 236, 170)], np.float32)  # by day and at dusk
_GLOWS = np.array([(255, 250, 225), (255, 196, 110)], np.float32)


def paint_sky(
    mood: int,
    sun: tuple[float, float],
    cover: float,
    places: np.ndarray,
    size: int,
    columns: np.ndarray,
    elevations: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """RGB float32 (3, h, w) in 0..255, and labels int32 (h, w).

    sun: how far it stands right of the middle and above the horizon, in heights of the picture, which is `size` pixels
    high. cover: of clouds, 0 to 1. places: float32 (k, 2), where in the noise each layer begins. columns: (w,), pixels
    right of the middle; elevations (h,), pixels above the horizon, from the picture's first row on.
    """
    x, y = columns[None, :], elevations[:, None]
    image = np.repeat(_gradient(mood, y / (0.55 * size)), len(columns), axis=2)
    density = _density(x, y, places, size)
    if mood == OVERCAST:
        return image + density * 26, np.full(density.shape, mood, np.int32)
    _add_sun(image, mood, (np.square(x - sun[0] * size) + np.square(y - sun[1] * size)) / (size * size), size)
    body = density + cover - 0.42 - 0.25 * (1 - smooth(y / (0.25 * size)))  # few near the horizon
    above = max(1, round(0.03 * size))  # light falls from there
    higher = np.concatenate([np.repeat(body[:1], above, axis=0), body])[: len(body)]
    tone = smooth(0.55 + (body - higher) * 1.6 - np.maximum(body, 0) * 0.5)
    alpha = smooth(body * 6)
    dark, light = DARK[mood, CLOUD][:, None, None], LIGHT[mood, CLOUD][:, None, None]
    image += 0.95 * alpha * (dark + tone * (light - dark) - image)
    return image, np.where(alpha > 0.5, CLOUD, mood).astype(np.int32)


def _gradient(mood: int, height: np.ndarray) -> np.ndarray:
    """Colours (3, h, 1) of heights (h, 1), 0 at the horizon, 1 at the zenith."""
    zenith, middle, low = (colour[:, None, None] for colour in SKIES[mood])
    height = np.minimum(np.maximum(height, 0), 1)
    lower = np.minimum(height * 2.2, 1)
    image = low + lower * (2 - lower) * (middle - low)
    return image + np.maximum(height * 1.83 - 0.83, 0) * (zenith - image)


def _add_sun(image: np.ndarray, mood: int, square: np.ndarray, size: int) -> None:
    """square: of the distance from the sun in heights of the picture, (h, w)."""
    glow = 0.35 / (1 + 40 * square) if mood == DAY else 0.7 / (1 + 14 * square)
    image += glow * (_GLOWS[mood][:, None, None] - image)
    radius = 0.028 if mood == DAY else 0.04
    disk = smooth((radius - square / radius) * (0.8 * size) + 0.5)  # its edge about a pixel wide
    image += disk * (_SUNS[mood][:, None, None] - image)


def _density(x: np.ndarray, y: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    """Of clouds, (h, w), about -1 to 1."""
    density = np.zeros((len(y), x.shape[1]), np.float32)
    amplitude, width, flat = 0.6, 0.42 * size, 2.0
    for octave, place in enumerate(places[:SKY_LAYERS]):
        if width < 5 and octave > 1:
            break
        density += amplitude * noise(x * (1 / width) + place[0], y * (flat / width) + place[1])
        amplitude, width, flat = amplitude * 0.5, width * 0.49, 1.3
    return density
