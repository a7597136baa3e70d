"""How far a set of images is from another, on features of theirs: arrays in, numbers out, in float64 on the host.

Features are (n, d). What grows with the number of images is kept as `Moments`, which merge; what needs all features at
once (precision, recall, kernel distance) says so.
"""

import dataclasses

import numpy as np

BLOCK = 1024  # rows of a table of distances that are in memory at once


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over features (n, d) in float64: how many, their sum (d,), and the sum of their outer products (d, d).

    The sums are of the features less `shift` (d,), any point near them, so that no digits are lost where features lie
    far from zero. Merging does not depend on order or batches but for the rounding of float64.
    """

    n: int
    shift: np.ndarray
    total: np.ndarray
    outer: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, shift: np.ndarray | None = None) -> "Moments":
        """Of features (n, d); shift: as in the class, default zero."""
        features = np.asarray(features, np.float64)
        shift = np.zeros(features.shape[1]) if shift is None else np.asarray(shift, np.float64)
        centred = features - shift[None]
        return cls(len(features), shift, centred.sum(axis=0), centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """Of both sets. Raises ValueError where their widths or shifts differ."""
        if not np.array_equal(self.shift, other.shift):
            raise ValueError("moments about different points cannot be merged: take one `shift` for all of them")
        return Moments(self.n + other.n, self.shift, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> np.ndarray:
        """float64 (d,)."""
        return self.shift + self.total / self.n

    @property
    def covariance(self) -> np.ndarray:
        """float64 (d, d), unbiased. Raises ValueError for fewer than two images."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 images, and there are {self.n}")
        return (self.outer - np.outer(self.total, self.total) / self.n) / (self.n - 1)


def covariance_factor(covariance: np.ndarray) -> np.ndarray:
    """A (d, r) with A A^T = the covariance (d, d), r its rank.

    Cholesky's, which costs a tenth of an eigendecomposition; of a singular one, as of fewer images than dimensions, the
    eigenvectors whose values are not just rounding.
    """
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        real = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
        return vectors[:, real] * np.sqrt(values[real])[None]


def frechet_distance(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the squared distance of two Gaussians (Heusel et al. 2017, eq. 6).

    With C1 = A A^T, C1 C2 has the eigenvalues of the symmetric A^T C2 A, which are real and not negative: no general
    matrix root, no complex rounding, no small number added. Raises ValueError where the shapes differ or a value is not
    finite.
    """
    arrays = [np.asarray(a, np.float64) for a in (mean, cov, other_mean, other_cov)]
    (d,) = arrays[0].shape
    if [a.shape for a in arrays] != [(d,), (d, d)] * 2:
        raise ValueError(f"means and covariances have shapes {[a.shape for a in arrays]}; expected (d,) and (d, d)")
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError("means or covariances hold values that are not finite")
    m1, c1, m2, c2 = arrays
    factor = covariance_factor(c1)
    return _distance(m1 - m2, np.trace(c1) + np.trace(c2), factor.T @ c2 @ factor)


def _distance(difference: np.ndarray, traces: float, product: np.ndarray) -> float:
    """product: a symmetric matrix with the eigenvalues of C1 C2 that are not zero."""
    cross = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    return float(max(0.0, np.square(difference).sum() + traces - 2 * cross))


def fid_at_infinity(features: np.ndarray, mean: np.ndarray, cov: np.ndarray, seed: int = 0, points: int = 15) -> float:
    """The Frechet distance to a mean (d,) and covariance (d, d), extrapolated to infinitely many images (Chong &
    Forsyth 2020, arXiv 1911.07023).

    With n images it is biased by a term in 1/n: a line through the distances of random subsets, over 1/n, ends at what
    it would be without it. Needs all features (n, d), n at least 50, or ValueError is raised.
    """
    n = len(features)
    if n < 50:
        raise ValueError(f"an extrapolation needs at least 50 images, and there are {n}")
    rng, sizes = np.random.default_rng(seed), np.linspace(max(n // 10, 25), n, points).astype(int)
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    factor, trace, distances = covariance_factor(cov), np.trace(cov), []
    for size in sizes:
        part = np.asarray(features[rng.choice(n, size, replace=False)], np.float64)
        centre = part.mean(axis=0)
        rows = (part - centre[None]) / np.sqrt(size - 1)  # whose outer product is the covariance
        seen = rows @ factor
        product = seen @ seen.T if size < seen.shape[1] else seen.T @ seen  # the smaller of the two
        distances.append(_distance(mean - centre, trace + np.square(rows).sum(), product))
    return float(np.polyfit(1 / sizes, distances, 1)[1])


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2 * x @ y.T).clip(0)


def _blocks(n: int) -> list[slice]:
    return [slice(i, i + BLOCK) for i in range(0, n, BLOCK)]


def neighbour_radii(features: np.ndarray, k: int = 3) -> np.ndarray:
    """Squared distance of each of (n, d) to its k-th nearest other, (n,). Raises ValueError for k others or fewer."""
    if len(features) <= k:
        raise ValueError(f"neighbours number {k} need more than {k} images, and there are {len(features)}")
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0, keepdims=True)
    parts = [np.partition(_squared_distances(x[b], x), k, axis=1)[:, k] for b in _blocks(len(x))]  # itself is at 0
    return np.concatenate(parts)


def manifold_measures(real: np.ndarray, fake: np.ndarray, k: int = 3) -> dict[str, float]:
    """Precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et al. 2020, arXiv
    2002.09797), of features (n, d) and (m, d), each in shares.

    precision: of the fakes that lie within the ball of some real image to its k-th neighbour; recall: the same the
    other way. density: how many real balls a fake lies in, over k (may exceed 1); coverage: of the real balls with a
    fake in.
    """
    centre = np.asarray(real, np.float64).mean(axis=0, keepdims=True)  # near zero the squares lose fewer digits
    x, y = np.asarray(real, np.float64) - centre, np.asarray(fake, np.float64) - centre
    real_radii, fake_radii = neighbour_radii(x, k), neighbour_radii(y, k)
    in_balls, covered = np.zeros(len(y)), np.zeros(len(x), bool)
    recalled = np.zeros(len(x), bool)
    for block in _blocks(len(x)):
        distances = _squared_distances(x[block], y)  # (rows of real, fakes)
        inside = distances <= real_radii[block, None]
        in_balls += inside.sum(axis=0)
        covered[block] = inside.any(axis=1)
        recalled[block] = (distances <= fake_radii[None]).any(axis=1)
    return {
        "precision": float((in_balls > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(in_balls.mean() / k),
        "coverage": float(covered.mean()),
    }


def kernel_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy under the cubic kernel (x.y / d + 1)^3 (KID, Binkowski et al. 2018,
    arXiv 1801.01401), over all pairs of (n, d) and (m, d). Raises ValueError for fewer than two images in either."""
    x, y = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a kernel distance needs at least 2 images a set, and there are {len(x)} and {len(y)}")
    cube = lambda x: x * x * x  # numpy's power takes many times as long
    kernel = lambda a, b: cube(a @ b.T / a.shape[1] + 1)
    total = lambda a, b: sum(kernel(a[block], b).sum() for block in _blocks(len(a)))
    own = lambda a: (total(a, a) - cube(np.square(a).sum(1) / a.shape[1] + 1).sum()) / (len(a) * (len(a) - 1))
    return float(own(x) + own(y) - 2 * total(x, y) / (len(x) * len(y)))
