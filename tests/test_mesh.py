"""Training over meshes of devices: the losses of one device, its share of the state, and what moves between devices."""

import dataclasses
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from taming_jax import sharding
from taming_jax.conditioning import ClassLabel
from taming_jax.models.discriminator import Discriminator, DiscriminatorConfig
from taming_jax.models.gpt import GPT, GPTConfig, stack_layers, unstack_layers
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.priors.base import Job
from taming_jax.priors.decode import token_chooser
from taming_jax.priors.filters import Filters
from taming_jax.training.accumulate import mean_over_parts
from taming_jax.training.optim import OptimizerConfig, best_params, make_optimizer
from taming_jax.training.transformer import TransformerTraining
from taming_jax.training.vqgan import VQGANTraining
from taming_jax.training.vqgan_loss import VQGANLossConfig
from taming_jax.two_stage import TwoStage

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from collectives import collectives

BATCH, SIZE, STEPS = 16, 16, 5
FIRST = VQGAN(
    VQGANConfig(
        resolution=SIZE,
        ch=16,
        ch_mult=(1, 2),
        num_res_blocks=1,
        attn_resolutions=(),
        z_channels=16,
        embed_dim=16,
        n_embed=32,
        norm_groups=8,
    )
)
SECOND = GPTConfig(vocab_size=64, block_size=64, n_layer=2, n_head=8, n_embd=64)
ONE, MESHES = (1, 1, 1), [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8)]
QUICK = {"xla_backend_optimization_level": 0}  # compiles faster; what is partitioned stays the same


def images() -> dict[str, np.ndarray]:
    random = np.random.RandomState(0)
    drawn = random.uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
    return {"image": drawn, "class_label": random.randint(0, 8, BATCH).astype(np.int32)}


def optimizer(**settings) -> optax.GradientTransformation:
    return make_optimizer(OptimizerConfig(learning_rate=4.5e-6, **settings), batch_size=BATCH, steps=STEPS)


def second_stage(config: GPTConfig = SECOND, **settings):
    """(training, frozen arrays, the name of its loss)."""
    model, tx = TwoStage(FIRST, GPT(config), ClassLabel(8), (8, 8)), optimizer(weight_decay=0.01, clip_norm=1.0)
    stages = {"first_stage": FIRST.init(jax.random.key(1), jnp.zeros((1, SIZE, SIZE, 3)))["params"]}
    return TransformerTraining(model, tx, **settings), stages, "loss"


def first_stage(model: VQGAN = FIRST, disc_weight: float = 0.8, **settings):
    disc = Discriminator(DiscriminatorConfig(ndf=16, n_layers=1)) if disc_weight else None
    both = optimizer(b1=0.5, b2=0.9), optimizer(b1=0.5, b2=0.9)
    loss = VQGANLossConfig(perceptual_weight=0.0, disc_weight=disc_weight)
    return VQGANTraining(model, disc, loss, *both, (BATCH, SIZE, SIZE, 3), **settings), None, "total_loss"


def run(parts, sizes, steps=STEPS):
    """(loss of each step, the fresh state, the last one, the compiled program's text)."""
    training, frozen, name = parts
    mesh = sharding.make_mesh(sharding.MeshConfig(*sizes))
    placed = sharding.state_shardings(jax.eval_shape(training.init, jax.random.key(0)), mesh)
    fresh = jax.jit(training.init, out_shardings=placed, compiler_options=QUICK)(jax.random.key(0))
    frozen, batch = jax.device_put(frozen, sharding.replicated(mesh)), sharding.put_batch(images(), mesh)
    with jax.set_mesh(mesh):
        traced = jax.jit(training.step, out_shardings=(placed, None)).lower(fresh, frozen, batch)
    program = traced.compile(QUICK)
    state, losses = fresh, []
    for _ in range(steps):
        state, metrics = program(state, frozen, batch)
        losses.append(float(metrics[name]))
    return np.array(losses), fresh, state, program.as_text()


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_step_is_lowered_for_shapes_alone(stage):
    training, frozen, name = first_stage() if stage == "first" else second_stage()
    shapes = jax.eval_shape(lambda *given: given, frozen, images())
    mesh = sharding.make_mesh(sharding.MeshConfig(2, 4, 1))
    state = jax.eval_shape(training.init, jax.random.key(0))
    placed = sharding.state_shardings(state, mesh)
    with jax.set_mesh(mesh):
        lowered = jax.jit(training.step, out_shardings=(placed, None)).lower(state, *shapes)
    after, metrics = lowered.out_info
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state) and metrics[name].shape == ()


def moved_by(program: str) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of what is moved, by the kind of the collective."""
    return {kind: [shape for _, shape in arrays] for kind, arrays in collectives(program).items()}


@pytest.fixture(scope="module")
def one_device():
    """Each stage's parts and its run on one device."""
    return {name: (parts, run(parts, ONE)) for name, parts in (("second", second_stage()), ("first", first_stage()))}


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_the_transformer_trains_alike_on_every_mesh(one_device, sizes):
    parts, (expected, *_, alone) = one_device["second"]
    losses, fresh, _, program = run(parts, sizes)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert expected[-1] < expected[0] and not collectives(alone)
    (_, fsdp, tensor), moved = sizes, moved_by(program)
    held, total = sharding.bytes_held(fresh)
    assert 1 / (fsdp * tensor) <= held / total < 1 / (fsdp * tensor) + 0.06  # norms and biases are on every device
    assert not {"all-to-all", "collective-permute"} & set(moved)
    matrices = [x.shape for x in jax.tree.leaves(fresh.params) if x.ndim == 2]
    assert len(moved.get("all-gather", [])) == (0 if fsdp == 1 else len(matrices))  # each matrix once, no activation
    activations = [shape for shape in moved["all-reduce"] if len(shape) == 3]
    # Partial sums: two a block on the way up, four on the way down (query, key, value, MLP), embedding, head, and loss.
    assert len(activations) <= (0 if tensor == 1 else 6 * SECOND.n_layer + 3)
    if sizes == (8, 1, 1):
        gradients = sum(x.size for x in jax.tree.leaves(fresh.params))
        assert 0 <= sum(map(np.prod, moved["all-reduce"])) - gradients < 100


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_the_first_stage_trains_alike_on_every_mesh(one_device, sizes):
    parts, (expected, *_, alone) = one_device["first"]
    losses, fresh, _, program = run(parts, sizes)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert expected[-1] != expected[0] and not collectives(alone)
    moved = moved_by(program)
    held, total = sharding.bytes_held(fresh)
    assert 1 / sizes[1] <= held / total < 1 / sizes[1] + 0.06  # norms, biases and the codebook are on every device
    # Kernels go to the images, never images to the kernels.
    assert "all-to-all" not in moved
    assert all(shape[0] == shape[1] in (1, 3, 4) for shape in moved.get("all-gather", []))
    assert bool(moved.get("all-gather")) == (sizes[1] > 1)


@pytest.mark.parametrize(
    "settings", [{"accumulate": 4}, {"remat": "block"}, {"remat": "dots"}], ids=["accumulate", "block", "dots"]
)
def test_saving_memory_leaves_the_transformers_losses_as_they_are(one_device, settings):
    config = dataclasses.replace(SECOND, remat=settings.pop("remat", ""))
    losses = run(second_stage(config, **settings), ONE, steps=3)[0]
    np.testing.assert_allclose(losses, one_device["second"][1][0][:3], rtol=1e-4)


def test_saving_memory_leaves_the_first_stages_losses_as_they_are(one_device):
    remat = VQGAN(dataclasses.replace(FIRST.config, remat=True))
    np.testing.assert_allclose(run(first_stage(remat), ONE, steps=3)[0], one_device["first"][1][0][:3], rtol=1e-4)


def test_a_first_stage_without_statistics_of_the_batch_learns_the_same_from_its_parts():
    small = VQGAN(dataclasses.replace(FIRST.config, ch=8, ch_mult=(1,), z_channels=8, embed_dim=8))
    histories = [run(first_stage(small, disc_weight=0.0, accumulate=n), ONE, steps=3)[0] for n in (1, 4)]
    np.testing.assert_allclose(*histories, rtol=1e-4)


def test_every_part_has_images_of_all_devices_and_a_key_of_its_own():
    def look(seen, part, key):  # remembers the part and a draw under its key, in the place of its turn
        turn, parts, draws = seen
        return (turn + 1, parts.at[turn].set(part["x"]), draws.at[turn].set(jax.random.uniform(key))), part["x"].sum()

    start = jnp.zeros((), jnp.int32), jnp.zeros((4, 2)), jnp.zeros(4)
    (_, parts, draws), mean = mean_over_parts(look, start, {"x": jnp.arange(8.0)}, jax.random.key(0), 4)
    np.testing.assert_array_equal(parts, [[0, 4], [1, 5], [2, 6], [3, 7]])  # two devices hold 0..3 and 4..7
    assert len(set(np.asarray(draws).tolist())) == 4 and mean == 7


def test_layers_in_one_array_are_the_same_network(one_device):
    apart = GPT(SECOND)
    params = apart.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    stacked = stack_layers(params, SECOND.n_layer)
    jax.tree.map(np.testing.assert_array_equal, dict(unstack_layers(stacked)), dict(params))
    one = GPT(dataclasses.replace(SECOND, scan_layers=True, remat="block"))
    shapes = jax.eval_shape(one.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, shapes)
    ids = jnp.arange(12).reshape(2, 6)
    loss = lambda model, params: jnp.sum(jnp.sin(model.apply({"params": params}, ids)))
    gradients = lambda model, params: jax.jit(jax.grad(partial(loss, model)), compiler_options=QUICK)(params)
    expected, found = gradients(apart, params), gradients(one, stacked)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), dict(unstack_layers(found)), dict(expected))
    with pytest.raises(ValueError, match="layers apart"):
        one.apply({"params": stacked}, ids, cache=one.init_cache(2, 6))


def test_layers_in_one_array_are_split_as_they_are_apart():
    config = dataclasses.replace(SECOND, scan_layers=True)
    expected, *_ = run(second_stage(config), ONE, steps=3)
    losses, fresh, *_ = run(second_stage(config), (2, 2, 2), steps=3)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    held, total = sharding.bytes_held(fresh)
    assert held / total < 1 / 4 + 0.06


def test_averages_of_the_weights_follow_them():
    *_, state, _ = run(second_stage(ema_decay=0.5), ONE, steps=2)
    fresh = run(second_stage(ema_decay=0.5), ONE, steps=0)[1]
    first = run(second_stage(ema_decay=0.5), ONE, steps=1)[2]
    name = lambda state: np.asarray(state["head"]["kernel"])
    keep = 1 / 10, 2 / 11
    expected = name(fresh.params)
    for share, weights in zip(keep, (first.params, state.params), strict=True):
        expected = share * expected + (1 - share) * name(weights)
    np.testing.assert_allclose(name(state.averages), expected, rtol=1e-6)
    assert best_params(state) is state.averages


@pytest.mark.parametrize("filters", [Filters(top_k=5), Filters(top_p=0.9), Filters(temperature=0)])
def test_tokens_are_chosen_of_logits_that_are_brought_together_once(filters):
    """Split over the vocabulary, filters would send pieces to and fro for each token."""
    b, n = 4, 64
    order = np.arange(1)
    places = jnp.zeros((b, 1), jnp.int32)
    numbers = jnp.arange(b)
    job = Job(places, places, places > 0, jax.random.key(3), numbers, filters.traced(order))
    logits = jax.random.normal(jax.random.key(4), (b, n))
    expected = token_chooser(job, n)(logits, jnp.int32(0))
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, tensor=2))
    split = jax.device_put(logits, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", "tensor")))
    with jax.set_mesh(mesh):
        program = jax.jit(lambda logits: token_chooser(job, n)(logits, jnp.int32(0))).lower(split).compile(QUICK)
        found = program(split)
    np.testing.assert_array_equal(found, expected)
    moved = moved_by(program.as_text())
    assert moved["all-gather"][0] == (b // 2, n) and moved.keys() == {"all-gather"}
