"""The goldens' weights: numbers of PyTorch's generator from numpy."""

import numpy as np
from torch_random import TorchRandom


def test_what_torch_draws_after_manual_seed():
    """In this order, of `torch.manual_seed(5)` in PyTorch 2.13: what small and uneven draws leave behind counts too."""
    rng = TorchRandom(5)
    uniform = np.float32([0.1981511265039444, -0.22433346509933472, 0.24448181688785553])
    np.testing.assert_array_equal(rng.uniform((3,), 0.3), uniform)
    few = [-2.1659247875213623, -0.8483762741088867, 2.0342049598693848]
    np.testing.assert_allclose(rng.normal((3,)), few, rtol=1e-6)
    np.testing.assert_allclose(rng.normal((1,)), [-1.4133919477462769], rtol=1e-6)  # the other one of a pair
    block = [1.130446195602417, -0.33644935488700867, -0.6204351782798767, -0.05833946168422699]
    np.testing.assert_allclose(rng.normal((4, 4)).reshape(-1)[[0, 7, 8, 15]], block, rtol=1e-5)
    uneven = [-0.06455148011445999, 0.2162347286939621, 1.4962135553359985, -2.3635120391845703]
    uneven += [-0.6040987968444824, 0.949497401714325]
    np.testing.assert_allclose(rng.normal((40,))[[0, 23, 24, 31, 32, 39]], uneven, rtol=1e-5)
    np.testing.assert_allclose(rng.normal((2,)), [0.3286838233470917, 0.3828919529914856], rtol=1e-6)
    assert (rng.words(1)[0] & 0xFFFFFF) / 2**24 == 0.3462228775024414
