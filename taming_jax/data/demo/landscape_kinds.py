"""What landscapes are made of: labels and their colours by the mood, and the kinds of country."""

from typing import NamedTuple

import numpy as np

MOODS = ("day", "dusk", "overcast")
LABELS = ("clear sky", "dusk sky", "overcast sky", "cloud", "snow", "rock", "forest", "meadow", "sand", "water")
CLOUD, SNOW, ROCK, FOREST, MEADOW, SAND, WATER = range(len(MOODS), len(LABELS))  # the sky's label is the mood's number

# In daylight, each from its shaded to its lit tone.
_TONES = {
    CLOUD: ((170, 172, 190), (255, 252, 246)),
    SNOW: ((174, 198, 216), (240, 253, 255)),
    ROCK: ((62, 54, 56), (170, 150, 136)),
    FOREST: ((8, 32, 22), (46, 100, 44)),
    MEADOW: ((58, 98, 26), (158, 188, 76)),
    SAND: ((176, 134, 78), (244, 214, 150)),
    WATER: ((10, 52, 92), (40, 120, 150)),
}
# For some moods instead of what `_by_mood` makes of them, which would be too alike.
_OWN_TONES = {
    (1, SNOW): ((156, 136, 176), (236, 204, 208)),
    (1, ROCK): ((50, 36, 66), (146, 98, 102)),
    (2, SNOW): ((204, 216, 228), (238, 243, 248)),
}
# Of the sky, from the zenith to the horizon.
SKIES = np.array(
    [
        [(52, 110, 204), (106, 162, 232), (172, 208, 244)],
        [(58, 48, 108), (176, 92, 126), (252, 172, 96)],
        [(126, 133, 144), (152, 158, 167), (182, 187, 192)],
    ],
    np.float32,
)


def _by_mood(mood: int, label: int, lit: int) -> tuple[float, ...]:
    """A tone in the light of the mood."""
    if (mood, label) in _OWN_TONES:
        return _OWN_TONES[mood, label][lit]
    r, g, b = _TONES[label][lit]
    grey = 0.3 * r + 0.59 * g + 0.11 * b
    if MOODS[mood] == "dusk":  # red light, violet shade
        return (r * 0.88 + 14, g * 0.62 + 6, b * 0.5 + 10) if lit else (r * 0.5 + 14, g * 0.42 + 4, b * 0.52 + 26)
    if MOODS[mood] == "overcast":  # little light, little colour
        red, green, blue = (0.62 * value + 0.38 * grey for value in (r, g, b))
        return (red * 0.72, green * 0.74, blue * 0.76) if lit else (red * 0.84 + 6, green * 0.84 + 8, blue * 0.84 + 10)
    return r, g, b


# (mood, label, 3) in 0..255; for skies the zenith and the horizon
DARK, LIGHT = (
    np.array(
        [
            [*SKIES[:, 2 * lit], *(_by_mood(mood, label, lit) for label in range(CLOUD, len(LABELS)))]
            for mood in range(len(MOODS))
        ],
        np.float32,
    )
    for lit in (0, 1)
)
PALETTE = np.round((DARK[0] + LIGHT[0]) / 2).astype(np.uint8)  # for maps that people look at
PALETTE[[1, 2, SNOW]] = SKIES[1, 2], SKIES[2, 0], LIGHT[0, SNOW]


class Country(NamedTuple):
    """The lie of the land in one landscape. Lengths are in heights of the eye above the plain.

    horizon: share of the picture above it. near: height of the ground in front. roll, roll_width: height and width of
    hills; grow: how many times higher than in front they may be farther away. shore: distance of the water's near edge
    (0: no water), below: how deep the ground lies there, across: width of the water. peak, peak_width: of mountains;
    far: distance at which they begin; gaps: how much of the skyline has none, from -1 to 1. clearing: distance of the
    first trees; trees: share of the wooded ground up to the tree_line. rock: the slope from which ground is bare. snow:
    height from which it is white. sand: height below which it is sandy.
    """

    horizon: float
    near: float
    roll: float
    roll_width: float
    grow: float
    shore: float
    below: float
    across: float
    peak: float
    peak_width: float
    far: float
    gaps: float
    clearing: float
    trees: float
    tree_line: float
    rock: float
    snow: float
    sand: float


_USUAL = {
    "horizon": (0.46, 0.6),
    "near": (0.35, 0.5),
    "roll": (0.15, 0.4),
    "roll_width": (5.0, 9.0),
    "grow": (2.0, 3.0),
    "shore": (0.0, 0.0),
    "below": (0.0, 0.0),
    "across": (0.0, 0.0),
    "peak": (6.0, 9.0),
    "peak_width": (14.0, 22.0),
    "far": (14.0, 20.0),
    "gaps": (-0.2, 0.3),
    "clearing": (2.2, 3.6),
    "trees": (0.15, 0.35),
    "tree_line": (1.5, 3.0),
    "rock": (0.75, 1.0),
    "snow": (4.0, 7.0),
    "sand": (0.0, 0.0),
}


def _from_to(**ranges: tuple[float, float]) -> tuple[Country, Country]:
    """The least and the most of each number, which are those of `_USUAL` unless given."""
    low, high = zip(*(_USUAL | ranges).values(), strict=True)
    return Country(*low), Country(*high)


RECIPES = {  # the numbers of each landscape lie between
    "peaks": _from_to(
        horizon=(0.62, 0.74),
        grow=(1, 1.6),
        peak=(12, 16),
        peak_width=(18, 24),
        far=(12, 16),
        gaps=(-1.0, -0.6),
        trees=(0.35, 0.6),
        tree_line=(1.4, 2.2),
        rock=(0.6, 0.8),
    ),
    "lake": _from_to(
        near=(0.1, 0.25),
        roll=(0.1, 0.25),
        shore=(2.0, 2.6),
        below=(0.5, 0.8),
        across=(8, 16),
        peak=(8, 14),
        far=(16, 24),
        gaps=(-0.6, 0),
        trees=(0.3, 0.6),
        sand=(0, 0.05),
    ),
    "coast": _from_to(
        horizon=(0.4, 0.52),
        near=(0.12, 0.22),
        roll=(0.05, 0.12),
        grow=(1, 1.2),
        shore=(2.6, 3.6),
        below=(0.9, 1.2),
        across=(400, 401),
        peak=(4, 9),
        gaps=(-0.3, 0.3),
        sand=(0.25, 0.4),
    ),
    "meadow": _from_to(roll=(0.3, 0.5), peak=(5, 8), far=(16, 22), trees=(0.1, 0.25), snow=(5, 9)),
    "forest": _from_to(
        roll=(0.4, 0.7), peak=(5, 8), far=(16, 22), clearing=(1.6, 2.4), trees=(0.8, 0.95), tree_line=(3, 5)
    ),
    "desert": _from_to(
        near=(0.45, 0.6),
        roll=(0.3, 0.5),
        peak=(4, 8),
        trees=(0, 0),
        rock=(0.55, 0.75),
        snow=(90, 99),
        sand=(2, 3),
    ),
}
# the number of the country * 3 + that of the mood
CLASS_NAMES = tuple(f"{country} {light}" for country in RECIPES for light in ("by day", "at dusk", "under clouds"))
N_CLASSES = len(CLASS_NAMES)
