"""Rejection sampling: draw more images than wanted, and keep those that a scorer likes best (paper, section 4.4).

A scorer is a function (images float32 (n, H, W, 3) in about [-1, 1], conditions) -> n numbers, higher is better;
conditions are the entries of a batch, such as {"class_label": int32 (n,)}. A classifier's probability of the class that
was asked for is the paper's.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Scorer = Callable[[np.ndarray, Mapping[str, np.ndarray]], Any]


def rounds_for(accept: float) -> int:
    """Candidates to draw for each image to keep. Raises ValueError for a share outside (0, 1]."""
    if not 0 < accept <= 1:
        raise ValueError(f"accept={accept}, but the share of images to keep must be above 0 and at most 1.")
    return math.ceil(round(1 / accept, 6))


class Best(NamedTuple):
    """What was chosen: ids (n, h, w), images (n, H, W, c), and of each the round and the place in it, int (n,)."""

    ids: np.ndarray
    images: np.ndarray
    rounds: np.ndarray
    places: np.ndarray


def draw_best(
    n: int, batch: Mapping[str, np.ndarray], rounds: int, draw: Callable[[int], tuple[Any, Any]], scorer: Scorer
) -> Best:
    """The best of `rounds` times n candidates.

    batch: the conditions of the n images. draw: number of a round -> ids and images of n candidates under them.
    Candidates of the same condition compete for its images.
    """
    ids, images, scores = [], [], []
    for number in range(rounds):
        found_ids, found = (np.asarray(part) for part in draw(number))
        ids.append(found_ids)
        images.append(found)
        scores.append(_scores(scorer, found, batch))
    chosen = choose(np.stack(scores), [b"".join(value[i].tobytes() for value in batch.values()) for i in range(n)])
    take = lambda parts: np.stack([parts[number][i] for number, i in chosen])
    return Best(take(ids), take(images), *chosen.T)


def choose(scores: np.ndarray, groups: list[Any]) -> np.ndarray:
    """scores (rounds, n) -> (n, 2): the round and place of the candidate for each place, of those of its group the best
    first."""
    chosen = np.empty((len(groups), 2), int)
    for group in dict.fromkeys(groups):
        places = np.array([i for i, other in enumerate(groups) if other == group])
        order = np.argsort(-scores[:, places].ravel(), kind="stable")[: len(places)]
        chosen[places, 0], within = np.divmod(order, len(places))
        chosen[places, 1] = places[within]
    return chosen


def load_scorer(name: str) -> Scorer:
    """The function of a name "module:function". Raises ValueError where there is none."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"the scorer {name!r} cannot be loaded: {error}; expected module:function, where the module is on the path."
        ) from error
    if not callable(found):
        raise ValueError(f"the scorer {name!r} is no function but {type(found).__name__}.")
    return found


def _scores(scorer: Scorer, images: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    scores = np.asarray(scorer(images, batch), np.float64)
    if scores.shape != (len(images),) or np.isnan(scores).any():
        raise ValueError(
            f"the scorer gave {scores.shape} for {len(images)} images"
            + (", some of them not a number" if np.isnan(scores).any() else "")
            + f"; expected {len(images)} numbers."
        )
    return scores
