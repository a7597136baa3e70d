"""Distances of sets of features: against closed forms, invariances, and what bad input gets."""

import numpy as np
import pytest

from taming_jax.metrics import distances
from taming_jax.metrics.distances import Moments, frechet_distance, kernel_distance, manifold_measures
from taming_jax.metrics.predictions import PredictionSums, inception_score
from taming_jax.metrics.resizing import RESIZES, resize_for_features

RS = np.random.RandomState(0)
A, B = RS.randn(300, 12), 0.5 + RS.randn(200, 12) @ RS.randn(12, 12) / 3


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    x, y = Moments.of(x), Moments.of(y)
    return frechet_distance(x.mean, x.covariance, y.mean, y.covariance)


def test_two_gaussians_in_closed_form():
    mean, variances = np.array([1.0, -2.0, 0.5]), np.array([4.0, 9.0, 0.25])
    found = frechet_distance(np.zeros(3), np.eye(3), mean, np.diag(variances))
    assert found == pytest.approx(5.25 + np.square(np.sqrt(variances) - 1).sum(), rel=1e-12)
    turn = np.linalg.qr(RS.randn(3, 3))[0]  # the same seen from another side
    first, second = turn @ np.diag([2.0, 0.0, 5.0]) @ turn.T, turn @ np.diag(variances) @ turn.T  # one is singular
    expected = 5.25 + (np.sqrt([2.0, 0.0, 5.0]) - np.sqrt(variances)) @ (np.sqrt([2.0, 0.0, 5.0]) - np.sqrt(variances))
    assert frechet_distance(np.zeros(3), first, mean, second) == pytest.approx(expected, rel=1e-7)


def test_a_set_is_at_no_distance_from_itself_and_the_distance_has_no_direction():
    assert frechet(A, A) < 1e-9
    assert frechet(A, B) == pytest.approx(frechet(B, A), rel=1e-9)
    few = RS.randn(8, 12)  # fewer than dimensions: a singular covariance
    assert frechet(few, few) < 1e-6


def test_moments_do_not_depend_on_batches_or_order():
    far = A + 1000  # where sums of squares would lose digits
    whole = Moments.of(far, shift=far[0])
    parts = [Moments.of(far[i : i + 7], shift=far[0]) for i in range(0, 300, 7)]
    merged = parts[-1]
    for part in parts[-2::-1]:
        merged = merged.merge(part)
    assert merged.n == 300
    np.testing.assert_allclose(merged.mean, far.mean(0), rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, np.cov(far, rowvar=False), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="one `shift`"):
        whole.merge(Moments.of(far))
    with pytest.raises(ValueError, match="at least 2"):
        Moments.of(far[:1]).covariance  # noqa: B018


def test_a_distance_of_what_is_none_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(np.zeros(2), np.eye(2), np.array([0, np.nan]), np.eye(2))
    with pytest.raises(ValueError, match="shapes"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))


def test_the_extrapolation_takes_the_bias_of_few_images_away():
    reference = Moments.of(RS.randn(20_000, 12))
    sample = np.random.RandomState(5).randn(2000, 12)
    direct = frechet_distance(
        Moments.of(sample).mean, Moments.of(sample).covariance, reference.mean, reference.covariance
    )
    assert abs(distances.fid_at_infinity(sample, reference.mean, reference.covariance)) < direct
    with pytest.raises(ValueError, match="50 images"):
        distances.fid_at_infinity(sample[:20], reference.mean, reference.covariance)


def test_inception_score_of_perfect_and_of_uniform_predictions():
    sure = 50.0 * np.eye(10)[np.arange(100) % 10]
    assert inception_score(sure)[0] == pytest.approx(10, rel=1e-6)
    assert inception_score(np.zeros((100, 10)))[0] == pytest.approx(1, rel=1e-12)
    assert inception_score(sure, part=10) == pytest.approx((10, 0), abs=1e-5)
    with pytest.raises(ValueError, match="at least 1 image"):
        PredictionSums().score()


def test_the_inception_score_is_that_of_its_definition_whatever_the_batches():
    logits = 3 * RS.randn(50, 7)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    parts = [q for q in (p[:20], p[20:40], p[40:])]
    expected = [np.exp((q * np.log(q / q.mean(0, keepdims=True))).sum(1).mean()) for q in parts]
    sums = PredictionSums(part=20)
    for first, last in ((0, 3), (3, 33), (33, 50)):
        sums.add(logits[first:last])
    assert sums.score() == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-12)
    assert inception_score(logits, 20) == pytest.approx(sums.score(), rel=1e-12)


def test_the_extrapolation_over_few_images_is_that_over_covariances(monkeypatch):
    """Whichever of the two products is smaller, the line goes through the same distances."""
    lines = []
    monkeypatch.setattr(np, "polyfit", lambda x, y, degree: lines.append(y) or (0.0, 0.0))
    wide, mean, cov = RS.randn(60, 40), np.zeros(40), np.eye(40) + 0.5
    distances.fid_at_infinity(wide, mean, cov, seed=3, points=4)
    rng = np.random.default_rng(3)
    for size, found in zip(np.linspace(25, 60, 4).astype(int), lines[0]):  # both below and above the 40 dimensions
        part = wide[rng.choice(60, size, replace=False)]
        expected = frechet_distance(part.mean(0), np.cov(part, rowvar=False), mean, cov)
        assert found == pytest.approx(expected, rel=1e-6)


def test_precision_and_recall_of_equal_and_of_disjoint_sets():
    same = manifold_measures(A, A)
    assert same["precision"] == same["recall"] == same["coverage"] == 1 and same["density"] > 1
    assert manifold_measures(A, A + 1000) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    narrow = manifold_measures(A, A[:20] + 1e-3)  # all good, but a few of the kinds
    assert narrow["precision"] == 1 and narrow["coverage"] < 0.5
    with pytest.raises(ValueError, match="more than 3 images"):
        manifold_measures(A, A[:3])


def test_precision_does_not_depend_on_blocks_or_order(monkeypatch):
    expected = manifold_measures(A, B)
    monkeypatch.setattr(distances, "BLOCK", 7)
    assert manifold_measures(A[::-1], B[::-1]) == pytest.approx(expected, abs=1e-12)


def test_the_kernel_distance_is_that_of_its_definition():
    kernel = lambda x, y: (x @ y / 12 + 1) ** 3
    xx = np.mean([kernel(a, b) for i, a in enumerate(A[:20]) for j, b in enumerate(A[:20]) if i != j])
    yy = np.mean([kernel(a, b) for i, a in enumerate(B[:20]) for j, b in enumerate(B[:20]) if i != j])
    xy = np.mean([kernel(a, b) for a in A[:20] for b in B[:20]])
    assert kernel_distance(A[:20], B[:20]) == pytest.approx(xx + yy - 2 * xy, rel=1e-9)


@pytest.mark.parametrize("how", RESIZES)
def test_resizing_keeps_what_must_stay(how):
    grey = np.full((40, 64, 3), 77, np.uint8)
    np.testing.assert_allclose(resize_for_features(grey, 23, how), 77, atol=1e-3)
    same = RS.randint(0, 256, (23, 23, 3)).astype(np.uint8)
    np.testing.assert_allclose(resize_for_features(same, 23, how), same, atol=1e-3)
    assert resize_for_features(same[:5], 299, how).shape == (299, 299, 3)


def test_ways_of_resizing_differ_and_bilinear_is_that_of_its_formula():
    picture = RS.randint(0, 256, (10, 10, 3)).astype(np.uint8)
    found = {how: resize_for_features(picture, 4, how) for how in RESIZES}
    assert len({array.tobytes() for array in found.values()}) == 3
    x = picture.astype(float)
    # the centres of the new pixels lie at 0.75, 3.25, 5.75 and 8.25 of the old
    shares = np.array([0.75, 0.25, 0.75, 0.25])[None, :, None]
    rows = x[:, [0, 3, 5, 8]] * (1 - shares) + x[:, [1, 4, 6, 9]] * shares
    both = rows[[0, 3, 5, 8]] * (1 - shares.transpose(1, 0, 2)) + rows[[1, 4, 6, 9]] * shares.transpose(1, 0, 2)
    np.testing.assert_allclose(found["pytorch-fid"], both, atol=1e-3)
    with pytest.raises(ValueError, match="unknown; known: pytorch-fid"):
        resize_for_features(picture, 4, "nearest")
