"""The Inception score: how sure class predictions are, and how much they differ (Salimans et al. 2016, 1606.03498)."""

import numpy as np


class PredictionSums:
    """Class predictions of images in order, as sums that do not grow with their number.

    part: images of a part; each part has a score of its own, as in ADM's evaluator, whose parts have 5000.
    """

    def __init__(self, part: int = 5000) -> None:
        self.part, self.n = part, 0
        self._mean: list[np.ndarray] = []  # of each part: sum of p, (classes,)
        self._certain: list[float] = []  # of each part: sum of p log p

    def add(self, logits: np.ndarray) -> None:
        """Of further images, (n, classes)."""
        logits = np.asarray(logits, np.float64)
        while len(logits):
            if self.n % self.part == 0:
                self._mean.append(np.zeros(logits.shape[1]))
                self._certain.append(0.0)
            here, logits = np.split(logits, [self.part - self.n % self.part])
            log_p = here - here.max(axis=1, keepdims=True)
            log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
            p = np.exp(log_p)
            self._mean[-1] += p.sum(axis=0)
            self._certain[-1] += float((p * log_p).sum())
            self.n += len(here)

    def score(self) -> tuple[float, float]:
        """(mean, deviation) of the scores of the parts. Raises ValueError without images."""
        if not self.n:
            raise ValueError("an Inception score needs at least 1 image")
        scores = []
        for i, (total, certain) in enumerate(zip(self._mean, self._certain)):
            n = min(self.part, self.n - i * self.part)
            mean = total / n
            scores.append(np.exp(certain / n - (mean * np.log(mean.clip(1e-300))).sum()))
        return float(np.mean(scores)), float(np.std(scores))


def inception_score(logits: np.ndarray, part: int = 5000) -> tuple[float, float]:
    """exp of the mean divergence of each image's prediction from their mean, of logits (n, classes) -> (mean,
    deviation) over parts of `part` images in order."""
    sums = PredictionSums(part)
    sums.add(logits)
    return sums.score()
