import numpy as np
import pytest

from taming_jax.nn import orders

PUBLISHED = {
    "subsample": "Subsample",
    "z_curve": "ZCurve",
    "spiral_in": "SpiralIn",
    "spiral_out": "SpiralOut",
    "random": "Random",
    "alternate_parsing": "AlternateParsing",
}


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("name", PUBLISHED)
def test_equal_to_the_published_orders(golden, name, size):
    expected = golden("permuters")
    order = orders.order(name, size, size)
    np.testing.assert_array_equal(order, expected[f"{PUBLISHED[name]}_{size}_forward"])
    np.testing.assert_array_equal(orders.inverse(order), expected[f"{PUBLISHED[name]}_{size}_backward"])


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 4), (4, 1), (3, 5), (5, 3), (8, 4), (4, 12), (16, 16), (9, 9)])
@pytest.mark.parametrize("name", orders.ORDERS)
def test_every_order_is_a_permutation_and_comes_back(name, h, w):
    impossible = {"z_curve": (h, w) not in [(1, 1), (16, 16)], "subsample": h * w in (15, 81)}
    if impossible.get(name):
        with pytest.raises(ValueError, match=f"{name}.*{h} x {w}"):
            orders.order(name, h, w)
        return
    order = orders.order(name, h, w)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(h * w))
    ids = np.random.default_rng(0).integers(0, 100, (h, w))
    sequence = ids.reshape(-1)[order]
    np.testing.assert_array_equal(sequence[orders.inverse(order)].reshape(h, w), ids)


def test_orders_on_a_grid_that_is_not_square():
    # 0 1 2
    # 3 4 5
    assert orders.order("row_major", 2, 3).tolist() == [0, 1, 2, 3, 4, 5]
    assert orders.order("alternate_parsing", 2, 3).tolist() == [0, 1, 2, 5, 4, 3]
    assert orders.order("spiral_in", 2, 3).tolist() == [5, 2, 1, 0, 3, 4]
    assert orders.order("spiral_out", 2, 3).tolist() == [4, 3, 0, 1, 2, 5]
    # 0 1 2 3
    # 4 5 6 7
    assert orders.order("subsample", 2, 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize("name", ["spiral_in", "spiral_out", "alternate_parsing"])
def test_neighbours_in_the_sequence_touch_in_the_image(name):
    rows, columns = np.divmod(orders.order(name, 5, 7), 7)
    assert (np.abs(np.diff(rows)) + np.abs(np.diff(columns)) == 1).all()


def test_seed_changes_only_the_random_order():
    assert (orders.order("random", 4, 4, seed=2) != orders.order("random", 4, 4, seed=3)).any()
    assert (orders.order("spiral_in", 4, 4, seed=2) == orders.order("spiral_in", 4, 4, seed=3)).all()


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"'zigzag'.*row_major.*z_curve"):
        orders.order("zigzag", 4, 4)
    with pytest.raises(ValueError, match="0 x 4"):
        orders.order("row_major", 0, 4)
