import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taming_jax.metrics import codebook, image, states


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (3, 17, 14, 3)).astype(np.float32)
    return x, np.clip(x + rng.normal(0, [[[[0.02]]], [[[0.3]]], [[[1.0]]]], x.shape), -1, 1).astype(np.float32)


def ssim_window_by_window(x, y):
    """For one channel (H, W), straight from the definition, in float64."""
    axis = np.arange(11) - 5
    weights = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11].astype(np.float64), y[i : i + 11, j : j + 11].astype(np.float64)
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            vab = (weights * (a - ma) * (b - mb)).sum()
            c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
            values.append((2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return np.mean(values)


def test_psnr(pictures):
    x, y = pictures
    expected = [10 * np.log10(4 / np.mean((a.astype(np.float64) - b) ** 2)) for a, b in zip(x, y)]
    np.testing.assert_allclose(image.psnr(x, y), expected, rtol=1e-5)
    # black against white is the whole range
    np.testing.assert_allclose(image.psnr(jnp.ones((1, 2, 2, 3)), -jnp.ones((1, 2, 2, 3))), [0.0], atol=1e-5)
    np.testing.assert_allclose(image.psnr(x, x), 106.02, atol=0.01)


def test_ssim(pictures):
    x, y = pictures
    expected = [np.mean([ssim_window_by_window(a[..., c], b[..., c]) for c in range(3)]) for a, b in zip(x, y)]
    assert expected[0] > 0.95 > 0.5 > expected[2]
    np.testing.assert_allclose(image.ssim(x, y), expected, atol=1e-4)
    np.testing.assert_allclose(image.ssim(x, x), 1.0, atol=1e-6)


def test_ssim_of_flat_images_compares_their_brightness():
    one, other = jnp.full((1, 12, 12, 1), 0.9), jnp.full((1, 12, 12, 1), 0.5)
    expected = (2 * 0.9 * 0.5 + 0.0004) / (0.81 + 0.25 + 0.0004)
    np.testing.assert_allclose(image.ssim(one, other), expected, atol=1e-4)


def test_half_precision_images_are_measured_in_float32(pictures):
    x, y = (jnp.asarray(a, jnp.bfloat16) for a in pictures)
    for metric in (image.psnr, image.ssim):
        out = jax.jit(metric)(x, y)
        assert out.dtype == jnp.float32
        np.testing.assert_allclose(out, metric(x.astype(jnp.float32), y.astype(jnp.float32)), rtol=1e-4)


@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_shapes():
    with pytest.raises(ValueError, match=r"\(1, 8, 8, 3\) and \(1, 8, 8, 1\)"):
        image.psnr(jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match=r"\(8, 8, 3\)"):
        image.psnr(jnp.zeros((8, 8, 3)), jnp.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, and these are 8 x 20"):
        image.ssim(jnp.zeros((1, 8, 20, 3)), jnp.zeros((1, 8, 20, 3)))


def test_codebook_usage_and_perplexity():
    counts = jnp.array([4, 0, 2, 2], jnp.int32)
    assert float(codebook.usage(counts)) == 0.75
    share = np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(codebook.perplexity(counts), np.exp(-(share * np.log(share)).sum()), rtol=1e-6)
    np.testing.assert_allclose(codebook.perplexity(jnp.full(64, 2**30, jnp.int32)), 64, rtol=1e-5)
    np.testing.assert_allclose(codebook.perplexity(jnp.array([0, 9])), 1, rtol=1e-6)
    assert float(codebook.usage(jnp.zeros(4))) == 0 and float(codebook.perplexity(jnp.zeros(4))) == 1


def test_first_stage_metrics_of_two_batches_are_those_of_all_images_that_count():
    counts = jnp.array([[3, 1, 0, 0], [1, 3, 0, 0]])
    one = states.FirstStageMetrics.of({"l1": jnp.array([1.0, 2.0])}, jnp.array([1.0, 1.0]), counts[0])
    two = states.FirstStageMetrics.of({"l1": jnp.array([6.0, jnp.nan])}, jnp.array([1.0, 0.0]), counts[1])
    figures = one.merge(two).compute()
    assert figures == {"l1": 3.0, "usage": 0.5, "perplexity": pytest.approx(2)}
    assert {type(value) for value in figures.values()} == {float}
    nothing = states.FirstStageMetrics.of({"l1": jnp.array([6.0])}, jnp.array([0.0]), counts[0])
    assert nothing.compute() == {}


def test_token_metrics_are_added_up_in_double_precision():
    tenth = states.TokenMetrics(n=jnp.float32(1), sums={"nll": jnp.float32(0.1)})
    total = states.TokenMetrics()
    for _ in range(1000):
        total = total.merge(tenth)
    assert total.compute()["nll"] == pytest.approx(float(np.float32(0.1)), rel=1e-12)
    assert total.compute()["bits_per_token"] == pytest.approx(0.1 / np.log(2), rel=1e-6)
    assert states.TokenMetrics().compute() == {}
