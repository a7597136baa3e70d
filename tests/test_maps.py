"""The maps that conditions are drawn as: coordinates, edges, low resolution, pose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from taming_jax.nn import maps


def canny(image: np.ndarray, sigma: float) -> np.ndarray:
    """Canny's edges of one image (h, w) in [0, 1], pixel by pixel."""
    inside = ndimage.gaussian_filter(np.ones_like(image), sigma, mode="constant")
    smooth = ndimage.gaussian_filter(image, sigma, mode="constant") / inside
    dy, dx = ndimage.sobel(smooth, axis=0), ndimage.sobel(smooth, axis=1)
    strength = np.hypot(dy, dx)
    thin = np.zeros(image.shape, bool)
    for y in range(1, image.shape[0] - 1):
        for x in range(1, image.shape[1] - 1):
            length = max(abs(dy[y, x]), abs(dx[y, x]))
            if length == 0:
                continue
            step = np.array([dy[y, x], dx[y, x]]) / length  # to the border of the 3 x 3 neighbourhood
            there, back = (
                ndimage.map_coordinates(strength, [[y + s * step[0]], [x + s * step[1]]], order=1)[0] for s in (1, -1)
            )
            thin[y, x] = strength[y, x] >= there and strength[y, x] >= back
    components, _ = ndimage.label(thin & (strength >= 0.1), np.ones((3, 3)))
    kept = np.unique(components[thin & (strength >= 0.2)])
    return np.isin(components, kept[kept > 0])


def test_edges_are_cannys():
    rs = np.random.RandomState(0)
    smooth = ndimage.gaussian_filter(rs.rand(3, 40, 32, 3), (0, 3, 3, 0))
    images = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    found = np.asarray(jax.jit(maps.edges)(jnp.asarray(2 * images - 1, jnp.float32)))[..., 0] > 0
    expected = np.stack([canny(image @ np.array([0.2125, 0.7154, 0.0721]), 2.0) for image in images])
    assert expected.mean() > 0.02  # there are edges to find
    assert np.mean(found != expected) < 2e-3  # a tie of two neighbours may go either way in float32


def test_an_even_image_has_no_edges_and_a_step_has_one():
    step = np.full((2, 16, 16, 3), -1.0, np.float32)
    step[1, :, 8:] = 1
    even, edge = np.asarray(maps.edges(jnp.asarray(step), sigma=1.0))
    assert even.max() == -1
    assert (edge[2:-2, 7:9] > 0).any(axis=1).all() and (edge[:, :6] < 0).all() and (edge[:, 10:] < 0).all()


def test_coordinates_are_the_place_in_reading_order():
    crop = jnp.asarray([[0, 0, 6, 10], [2, 3, 6, 10]])
    found = np.asarray(maps.coordinates(crop, 4, 5))
    whole = np.arange(60).reshape(6, 10) / 60
    np.testing.assert_allclose(found, [whole[:4, :5], whole[2:6, 3:8]], rtol=1e-6)


def test_low_resolution_keeps_the_coarse_and_loses_the_fine():
    coarse = np.repeat(np.repeat(np.random.RandomState(0).uniform(-0.8, 0.8, (1, 4, 4, 3)), 8, 1), 8, 2)
    chequers = np.indices((32, 32)).sum(0)[None, ..., None] % 2 * 2.0 - 1 + np.zeros((1, 1, 1, 3))
    low = np.asarray(maps.low_resolution(jnp.asarray(np.concatenate([coarse, chequers]), jnp.float32), 4))
    assert low.shape == (2, 32, 32, 3) and np.abs(low).max() <= 1
    assert np.abs(low[0] - coarse[0]).mean() < 0.15 and np.abs(low[1]).max() < 0.1
    with pytest.raises(ValueError, match=r"30 x 32 pixels cannot be made 4 times smaller"):
        maps.low_resolution(jnp.zeros((1, 30, 32, 3)), 4)


def test_a_pose_has_a_dot_for_each_visible_point():
    points = np.zeros((1, 2, 3, 3), np.float32)
    points[0, 0, 0] = 0.25, 0.75, 1
    points[0, 1, 0] = 0.75, 0.25, 1
    points[0, 0, 1] = 0.5, 0.5, 0  # not visible
    drawn = np.asarray(maps.pose(jnp.asarray(points), 32, 32))[0]
    assert drawn.shape == (32, 32, 3)
    assert drawn[23, 7, 0] > 0.5 and drawn[7, 23, 0] > 0.5 and drawn[16, 16, 0] < -0.99
    assert (drawn[..., 1:] == -1).all()
