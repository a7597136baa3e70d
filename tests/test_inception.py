"""Inception as the FID runs it: against the same network in PyTorch, through the conversion of its weights."""

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from taming_jax.convert.__main__ import main
from taming_jax.convert.inception import convert_inception, their_name
from taming_jax.models.inception import Inception, inception_shapes
from taming_jax.models.weights import load_weights

SIDE = 91  # pixels, the least that leave several places in the last blocks


@pytest.fixture(scope="module")
def state():
    """Random weights under pytorch-fid's names, in PyTorch's layout."""
    rs, found = np.random.RandomState(1), {}
    for name, shape in inception_shapes().items():
        theirs, x = their_name(name), rs.randn(*shape)
        if theirs.endswith("conv.weight"):
            x = (x * np.sqrt(2 / np.prod(shape[:3]))).transpose(3, 2, 0, 1)
        elif theirs.endswith(("bn.weight", "running_var")):
            x = 1 + 0.1 * np.abs(x)
        else:
            x = 0.1 * x.T
        found[theirs] = torch.tensor(np.ascontiguousarray(x), dtype=torch.float32)
    return found


class Twin:
    """The published architecture by functions of PyTorch."""

    def __init__(self, state):
        self.state = state

    def conv(self, name, x, stride=1, padding=0):
        s = self.state
        x = F.conv2d(x, s[f"{name}.conv.weight"], stride=stride, padding=padding)
        mean, var, scale, bias = (s[f"{name}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, mean, var, scale, bias, eps=1e-3))

    def chain(self, x, name, *layers):
        for suffix, padding, stride in layers:
            x = self.conv(f"{name}.{suffix}", x, stride, padding)
        return x

    def pooled(self, x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def a(self, n, x):
        parts = [
            self.conv(f"{n}.branch1x1", x),
            self.chain(x, n, ("branch5x5_1", 0, 1), ("branch5x5_2", 2, 1)),
            self.chain(x, n, ("branch3x3dbl_1", 0, 1), ("branch3x3dbl_2", 1, 1), ("branch3x3dbl_3", 1, 1)),
            self.conv(f"{n}.branch_pool", self.pooled(x)),
        ]
        return torch.cat(parts, 1)

    def b(self, n, x):
        deep = self.chain(x, n, ("branch3x3dbl_1", 0, 1), ("branch3x3dbl_2", 1, 1), ("branch3x3dbl_3", 0, 2))
        return torch.cat([self.conv(f"{n}.branch3x3", x, 2), deep, F.max_pool2d(x, 3, 2)], 1)

    def c(self, n, x):
        row, column = (0, 3), (3, 0)
        first = self.conv(f"{n}.branch1x1", x)
        short = self.chain(x, n, ("branch7x7_1", 0, 1), ("branch7x7_2", row, 1), ("branch7x7_3", column, 1))
        places = (0, column, row, column, row)
        deep = self.chain(x, n, *((f"branch7x7dbl_{i + 1}", place, 1) for i, place in enumerate(places)))
        return torch.cat([first, short, deep, self.conv(f"{n}.branch_pool", self.pooled(x))], 1), first

    def d(self, n, x):
        short = self.chain(x, n, ("branch3x3_1", 0, 1), ("branch3x3_2", 0, 2))
        places = (("branch7x7x3_1", 0, 1), ("branch7x7x3_2", (0, 3), 1), ("branch7x7x3_3", (3, 0), 1))
        deep = self.chain(x, n, *places, ("branch7x7x3_4", 0, 2))
        return torch.cat([short, deep, F.max_pool2d(x, 3, 2)], 1)

    def e(self, n, x, maximum):
        short = self.conv(f"{n}.branch3x3_1", x)
        deep = self.chain(x, n, ("branch3x3dbl_1", 0, 1), ("branch3x3dbl_2", 1, 1))
        ends = (("a", (0, 1)), ("b", (1, 0)))
        short = [self.conv(f"{n}.branch3x3_2{k}", short, 1, padding) for k, padding in ends]
        deep = [self.conv(f"{n}.branch3x3dbl_3{k}", deep, 1, padding) for k, padding in ends]
        pooled = F.max_pool2d(x, 3, 1, 1) if maximum else self.pooled(x)
        return torch.cat([self.conv(f"{n}.branch1x1", x), *short, *deep, self.conv(f"{n}.branch_pool", pooled)], 1)

    def __call__(self, x):
        x, found = torch.tensor(x).permute(0, 3, 1, 2), {}
        mean = lambda x: x.mean((2, 3))
        x = self.conv("Conv2d_2a_3x3", self.conv("Conv2d_1a_3x3", x, 2))
        x = F.max_pool2d(self.conv("Conv2d_2b_3x3", x, 1, 1), 3, 2)
        found["64"] = mean(x)
        x = F.max_pool2d(self.conv("Conv2d_4a_3x3", self.conv("Conv2d_3b_1x1", x)), 3, 2)
        found["192"] = mean(x)
        for letter in "bcd":
            x = self.a(f"Mixed_5{letter}", x)
        x = self.b("Mixed_6a", x)
        for letter in "bcde":
            x, first = self.c(f"Mixed_6{letter}", x)
            if letter == "d":
                found["spatial"] = first[:, :7].permute(0, 2, 3, 1).flatten(1)
        found["768"] = mean(x)
        x = self.e("Mixed_7c", self.e("Mixed_7b", self.d("Mixed_7a", x), False), True)
        found["2048"] = mean(x)
        found["logits_unbiased"] = found["2048"] @ self.state["fc.weight"].T
        found["logits"] = found["logits_unbiased"] + self.state["fc.bias"]
        return {name: value.numpy() for name, value in found.items()}


def test_converted_weights_give_the_features_of_pytorch(state, tmp_path, capsys):
    counters = {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(7)}
    torch.save({**state, **counters}, tmp_path / "inception.pth")
    out = tmp_path / "weights" / "inception.npz"
    main(["--inception", str(tmp_path / "inception.pth"), "--out", str(out)])
    assert str(out) in capsys.readouterr().out
    kind, params = load_weights(out, {"inception": inception_shapes()})
    images = np.random.RandomState(2).uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    found = jax.jit(Inception().apply)({"params": params}, images)
    expected = Twin(state)(images)
    assert kind == "inception" and set(found) == set(expected)
    for name, array in expected.items():
        assert array.size
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-4 * np.abs(array).max(), err_msg=name)


def test_another_network_is_refused_and_nothing_written(state, tmp_path):
    arrays = {name: value.numpy() for name, value in state.items()}
    arrays["fc.weight"] = arrays["fc.weight"][:1000]  # as torchvision's
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(ValueError, match=r"is not pytorch-fid's Inception .* fc\.weight$"):
        convert_inception(tmp_path / "other.npz", tmp_path / "out.npz")
    with pytest.raises(ValueError, match="there is no file"):
        convert_inception(tmp_path / "none.pth", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
