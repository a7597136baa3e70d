"""Counts and estimate on paper: what they say of networks whose numbers are known, and that docs/pods.md has it."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import estimate
import flops

from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.nn.conv import Conv


def test_products_of_a_transformer_are_those_of_the_formula():
    config = GPTConfig(vocab_size=64, block_size=16, n_layer=3, n_head=2, n_embd=32)
    model, ids = GPT(config), jax.ShapeDtypeStruct((5, 16), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), ids)
    counted = sum(p.flops for p in flops.products(jax.grad(lambda p, x: model.apply(p, x).mean()), params, ids))
    masked = 3 * 5 * 4 * 32 * (16 * 16 - 16 * 17 / 2) * 3  # the pairs that XLA's attention computes and the mask drops
    assert counted == flops.transformer_flops(config, 16, 5) + masked
    matrices = sum(x.size for path, x in jax.tree.leaves_with_path(params) if path[-1].key == "kernel")
    assert flops.transformer_matrices(config) == matrices


@pytest.mark.parametrize(("stride", "side"), [(1, 8), (2, 4)])
def test_products_of_a_convolution_and_its_gradients(stride, side):
    model, x = Conv(6, 3, stride), jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    once = 2 * 2 * side * side * 6 * 9 * 4
    assert [p.flops for p in flops.products(model.apply, params, x)] == [once]
    both = flops.products(jax.grad(lambda p, x: model.apply(p, x).sum(), argnums=(0, 1)), params, x)
    assert sum(p.flops for p in both) == pytest.approx(3 * once)
    assert flops.kept_bytes(flops.products(model.apply, params, x), 2, 4) == [2 * 8 * 8 * 4 * 4]


def test_loops_and_branches_count():
    matrix = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    looped = lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=5)[0]
    assert sum(p.flops for p in flops.products(looped, matrix)) == 5 * 2 * 8**3
    either = lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y @ y, x)
    assert sum(p.flops for p in flops.products(either, matrix)) == 2 * 2 * 8**3


def test_devices_are_known_by_the_names_that_jax_gives_them():
    names = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "NVIDIA H200": "H200"}
    names |= {"NVIDIA H100 80GB HBM3": "H100", "NVIDIA A100-SXM4-80GB": "A100"}
    assert {name: flops.known_device(name) for name in names} == {k: flops.DEVICES[v] for k, v in names.items()}
    assert flops.known_device("cpu") is None


def test_the_document_has_what_the_program_prints():
    _, tables, _ = estimate.split(estimate.DOCUMENT.read_text(encoding="utf-8"))
    assert tables.strip() == estimate.tables().strip(), "run python benchmarks/estimate.py --write"
    assert tables.count("\n| transformer |") == 2 * len(estimate.SLICES) == tables.count("\n| VQGAN |")


def test_flags_are_read_before_anything_is_counted(monkeypatch, capsys):
    monkeypatch.setattr(estimate, "tables", lambda: pytest.fail("counted"))
    monkeypatch.setattr(sys, "argv", ["estimate.py", "--help"])
    with pytest.raises(SystemExit):
        estimate.main()
    assert "--write" in capsys.readouterr().out


def test_state_is_split_by_fsdp():
    _, params = estimate.second_stage()
    whole = estimate.size_of(params)
    assert whole == pytest.approx(4 * 1.411e9, rel=1e-3)
    assert whole / 16 <= estimate.size_of(params, (1, 16, 1)) < 1.02 * whole / 16
    assert estimate.size_of(params, (16, 1, 1)) == whole
