"""PyTorch's random numbers in numpy: the same Mersenne twister, and what PyTorch makes of its words on a CPU."""

import numpy as np


class TorchRandom:
    """What is drawn after `torch.manual_seed(seed)`: uniform numbers to the bit, normal ones up to rounding."""

    def __init__(self, seed: int) -> None:
        self._twister = np.random.RandomState(seed)
        self._second: float | None = None  # of a pair of normal numbers, the one that was not asked for yet

    def words(self, n: int) -> np.ndarray:
        """The next `n` words of 32 bits."""
        return self._twister.randint(0, 2**32, n, dtype=np.uint32)

    def uniform(self, shape: tuple[int, ...], bound: float) -> np.ndarray:
        """`uniform_(-bound, bound)`."""
        low, high = np.float32(-bound), np.float32(bound)
        unit = self._unit(int(np.prod(shape))).astype(np.float64)  # so that product and sum are rounded once
        return (unit * np.float64(high - low) + np.float64(low)).astype(np.float32).reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """`randn`: in blocks of 16; where they do not come out even, the last 16 numbers are drawn once more."""
        size = int(np.prod(shape))
        if size < 16:
            return np.array([self._one_normal() for _ in range(size)], np.float32).reshape(shape)
        drawn = _blocks(self._unit(size)[: size // 16 * 16])
        if size % 16:
            drawn = np.concatenate([drawn[: size - 16], _blocks(self._unit(16))])
        return drawn.reshape(shape)

    def _unit(self, n: int) -> np.ndarray:
        """`n` numbers of 24 bits in [0, 1)."""
        return ((self.words(n) & 0xFFFFFF) / 2.0**24).astype(np.float32)

    def _one_normal(self) -> float:
        """From two numbers of 53 bits come two, of which the second waits."""
        if self._second is None:
            words = self.words(4).astype(np.uint64)
            turn, u = ((words[::2] << np.uint64(32) | words[1::2]) & np.uint64(2**53 - 1)) / 2.0**53
            radius = np.sqrt(-2 * np.log1p(-u))
            self._second = float(radius * np.sin(2 * np.pi * turn))
            return float(radius * np.cos(2 * np.pi * turn))
        second, self._second = self._second, None
        return second


def _blocks(unit: np.ndarray) -> np.ndarray:
    """Uniform numbers (16 n,) as normal ones by Box and Muller's rule; angles are rounded to float32, as there."""
    u, turn = unit.reshape(-1, 2, 8).swapaxes(0, 1)
    radius = np.sqrt(-2 * np.log(1 - u.astype(np.float64)))
    angle = (turn * np.float32(2 * np.pi)).astype(np.float64)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32).reshape(-1)
