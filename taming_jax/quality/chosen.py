"""A part of a sequence in bounded memory, each row as likely to be in it as any other."""

import numpy as np


class Chosen:
    """At most `most` rows of a sequence, each as likely to be among them as any other; which, says their number alone.

    Images often come sorted by class, so that the first of them would be of a few classes.
    """

    def __init__(self, most: int) -> None:
        self.most, self.seen = most, 0
        self._draw = np.random.default_rng(0)
        self._parts: list[tuple[np.ndarray, ...]] = []  # (rows, their numbers, what was drawn for them)

    def add(self, rows: np.ndarray) -> None:
        numbers = np.arange(self.seen, self.seen + len(rows))
        self._parts.append((rows, numbers, self._draw.random(len(rows))))
        self.seen += len(rows)
        if sum(len(part[0]) for part in self._parts) >= 2 * self.most:
            self._parts = [self._least()]

    @property
    def rows(self) -> np.ndarray:
        """(m, ...), in the order of the sequence."""
        return self._least()[0]

    @property
    def numbers(self) -> np.ndarray:
        """int (m,): their places in the sequence."""
        return self._least()[1]

    def _least(self) -> tuple[np.ndarray, ...]:
        rows, numbers, drawn = map(np.concatenate, zip(*self._parts))
        kept = np.sort(np.argsort(drawn)[: self.most])
        return rows[kept], numbers[kept], drawn[kept]
