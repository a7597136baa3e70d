"""The transformer's later parts: LlamaGen's numbers, and for settings drawn at random the cache, the scan over layers,
grouped heads and the rest against one another and against plain numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import close, drawn_like, weights
from tiny import TINY

from taming_jax.conditioning import ClassLabel, Coordinate, NoCondition
from taming_jax.convert.engine import bring
from taming_jax.convert.formats import llamagen_transformer as llamagen
from taming_jax.convert.formats.memory import tree_of
from taming_jax.models.gpt import GPT, GPTConfig, stack_layers, token_cross_entropy
from taming_jax.models.vqgan import VQGAN
from taming_jax.nn.attention import Block, swiglu_width
from taming_jax.nn.layout import TokenLayout
from taming_jax.nn.rotary import rotary_turns, rotate
from taming_jax.priors.decode import draw_sequence
from taming_jax.sharding import MeshConfig, make_mesh, place
from taming_jax.training.optim import OptimizerConfig, make_optimizer
from taming_jax.training.transformer import TransformerTraining
from taming_jax.two_stage import TwoStage

MODERN = {
    "norm": "rms",
    "mlp": "swiglu",
    "mlp_multiple": 16,
    "bias": False,
    "positions": "rotary",
    "condition_table": True,
    "zero_head": True,
}
TOLD = {"n_head": 4}


@pytest.fixture(scope="module")
def case(golden):
    """(network, parameters, arrays) of LlamaGen's small transformer."""
    arrays = golden("llamagen_c2i")
    state = weights(arrays)
    config = llamagen.config_of(llamagen.sizes_of(state), TOLD, 0, 8)
    config = dataclasses.replace(config, embedding_dropout=0.0, residual_dropout=0.0, mlp_dropout=0.0)
    return GPT(config), tree_of(bring(llamagen.table_of(config), llamagen.split(state, config))), arrays


def sequence(arrays, tokens="tokens", label="class_label"):
    return np.concatenate([arrays[label][:, None], arrays[tokens][:, :-1]], axis=1)


def test_logits_loss_and_gradients_are_llamagens(case):
    model, params, arrays = case

    @jax.jit
    def loss_of(params):
        logits = model.apply({"params": params}, sequence(arrays))
        return token_cross_entropy(logits, arrays["tokens"]).mean(), logits

    (loss, logits), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    close(logits, arrays["logits"], 1e-4)
    np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-4)
    own = gradients["block_0"]["attention"]
    fused = np.concatenate([own[name]["kernel"].T for name in ("query", "key", "value")])
    close(fused, arrays["grad_wqkv_0"], 1e-3)
    close(gradients["condition_token"]["embedding"], arrays["grad_cls"], 1e-3)
    hidden = np.concatenate([np.full((1, 1), 10, np.int32), arrays["tokens"][:1, :-1]], axis=1)
    close(jax.jit(model.apply)({"params": params}, hidden), arrays["logits_hidden_condition"], 1e-4)


def test_five_adamw_steps_are_llamagens(case):
    model, params, arrays = case
    recipe = {"learning_rate": 1e-3, "per_sample": False, "weight_decay": 0.05, "decay_embeddings": True}
    optimizer = make_optimizer(OptimizerConfig(**recipe, clip_norm=1.0), batch_size=3, steps=5)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, ids, targets):
        loss_of = lambda params: token_cross_entropy(model.apply({"params": params}, ids), targets).mean()
        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    for i in range(5):
        ids = sequence(arrays, f"step{i}_tokens", f"step{i}_class_label")
        params, state, loss = step(params, state, ids, arrays[f"step{i}_tokens"])
        np.testing.assert_allclose(loss, arrays["train_losses"][i], rtol=2e-3)
    close(jax.jit(model.apply)({"params": params}, sequence(arrays)[:1]), arrays["logits_after_training"], 2e-3)


def drawn_settings(seed):
    """Settings drawn at random, and a model of a small grid around them."""
    rs = np.random.RandomState(seed)
    of = lambda *choices: choices[rs.randint(len(choices))]
    condition = of(ClassLabel(7), NoCondition(), Coordinate(9, 4, (4, 4)))
    settings = {
        **{"norm": of("layer", "rms"), "mlp": of("gelu", "swiglu"), "mlp_multiple": of(1, 32), "bias": of(True, False)},
        **{"positions": of("learned", "rotary", "rotary"), "qk_norm": of(True, False), "kv_heads": of(0, 1, 2)},
        **{"condition_table": of(True, False), "n_unmasked": of(0, condition.length)},
    }
    order = of("row_major", "spiral_out", "alternate_parsing")
    first = VQGAN(dataclasses.replace(TINY, ch_mult=(1, 1, 1), n_embed=20))
    gpt = GPT(GPTConfig(n_layer=2, n_head=4, n_embd=32, **settings))
    return TwoStage(first, gpt, condition, (4, 4), order)


def params_of(model, seed=3):
    shapes = jax.eval_shape(model.gpt.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    return jax.tree.map(lambda leaf: leaf * 2 if leaf.ndim == 2 else leaf, drawn_like(shapes, seed))


@pytest.mark.parametrize("seed", range(12))
def test_the_cached_sampler_is_the_whole_sequence(seed):
    model = drawn_settings(seed)
    params, rs = params_of(model), np.random.RandomState(seed)
    condition = rs.randint(0, model.condition.vocabulary, (2, model.condition.length)).astype(np.int32)
    tokens = rs.randint(0, 20, (2, 16)).astype(np.int32)
    whole = jax.jit(model.prior.logits)(params, condition, tokens)
    seen = []

    def choose(logits, place):
        jax.debug.callback(lambda *values: seen.append(values), place, logits, ordered=True)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    run = lambda params: draw_sequence(
        model.gpt, params, condition, jnp.arange(16), tokens, tokens >= 0, choose, model.sequences.layout
    )
    np.testing.assert_array_equal(jax.jit(run)(params), tokens)
    jax.effects_barrier()
    assert len(seen) == 16
    found = np.stack([logits for _, logits in sorted(seen, key=lambda pair: int(pair[0]))], axis=1)
    np.testing.assert_allclose(found, whole, atol=1e-5 * float(np.abs(whole).max()), rtol=0)


@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_scan_remat_and_meshes_give_the_same(drop_path):
    config = GPTConfig(20, 20, 3, 4, 32, **MODERN, kv_heads=2, qk_norm=True, condition_size=8, grid=(4, 4))
    config = dataclasses.replace(config, drop_path=drop_path, block_size=16)
    ids = np.random.RandomState(0).randint(0, 7, (8, 16)).astype(np.int32)
    model = GPT(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids)["params"]
    params = drawn_like(shapes)

    def run(model, params, train=False):
        options = {"train": True, "rngs": {"dropout": jax.random.key(1)}} if train else {}
        loss_of = lambda params: token_cross_entropy(model.apply({"params": params}, ids, **options), ids).mean()
        return jax.jit(jax.value_and_grad(loss_of))(params)

    loss, gradients = run(model, params)
    scanned = GPT(dataclasses.replace(config, scan_layers=True, remat="dots"))
    stacked_loss, stacked = run(scanned, stack_layers(params, 3))
    np.testing.assert_allclose(stacked_loss, loss, rtol=1e-5)
    jax.tree.map(lambda a, b: close(a, b, 2e-5), stacked, stack_layers(jax.device_get(gradients), 3))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(run(model, place(params, mesh))[0], loss, rtol=1e-5)
    trained = [
        float(run(network, own, train=True)[0])
        for network, own in ((model, params), (scanned, stack_layers(params, 3)))
    ]
    assert np.isfinite(trained).all()
    assert (trained[0] == pytest.approx(float(loss), rel=1e-6)) == (not drop_path)


def test_drop_path_leaves_out_whole_branches_and_keeps_the_mean():
    block = Block(2)
    x = jax.random.normal(jax.random.key(0), (4000, 1, 8))
    params = block.init(jax.random.key(1), x[:1])["params"]
    params = jax.tree.map(lambda leaf: leaf * 20 if leaf.ndim == 2 else leaf, params)
    whole = block.apply({"params": params}, x)[0]
    options = {"train": True, "drop_path": 0.25, "rngs": {"dropout": jax.random.key(2)}}
    y = np.asarray(block.apply({"params": params}, x, **options)[0])
    untouched = (y == np.asarray(x)).all(axis=(1, 2)).mean()
    assert abs(untouched - 0.25**2) < 0.02  # both branches left out
    assert not np.allclose(y, whole)
    still = block.apply({"params": params}, x, drop_path=0.25)[0]
    np.testing.assert_array_equal(still, whole)


def test_rotary_turns_by_row_and_column():
    layout = TokenLayout((3, 5)).after(1)
    assert np.isnan(layout.places[0]).all() and layout.conditions == 1
    np.testing.assert_array_equal(layout.places[1 + 7], [1, 2])
    turns = rotary_turns(layout.places, 8, 100.0)  # 4 pairs: two by the row, two by the column
    assert turns.shape == (2, 16, 4) and (turns[:, 0] == 0).all()
    np.testing.assert_allclose(turns[0, 8], np.cos([1, 0.1, 2, 0.2]), rtol=1e-6)
    np.testing.assert_allclose(turns[1, 8], np.sin([1, 0.1, 2, 0.2]), rtol=1e-6)
    x = np.random.RandomState(0).randn(1, 16, 2, 8).astype(np.float32)
    turned = np.asarray(rotate(x, jnp.asarray(turns)))
    z = (x[..., ::2] + 1j * x[..., 1::2]) * (turns[0] + 1j * turns[1])[None, :, None]
    np.testing.assert_allclose(turned[..., ::2], z.real, atol=1e-5)
    np.testing.assert_allclose(turned[..., 1::2], z.imag, atol=1e-5)


def test_where_conditions_and_orders_stand():
    above = TokenLayout((2, 2), "spiral_in").after(6, (2, 3))
    np.testing.assert_array_equal(above.places[:6], [[-2, 0], [-2, 1], [-2, 2], [-1, 0], [-1, 1], [-1, 2]])
    np.testing.assert_array_equal(above.places[6:], [[1, 1], [0, 1], [0, 0], [1, 0]])
    several = TokenLayout((1, 2)).after(3)
    np.testing.assert_array_equal(several.places, [[-3, -3], [-2, -2], [-1, -1], [0, 0], [0, 1]])


def test_only_distances_matter_to_attention():
    """Keys and queries that all move by the same rows and columns meet in the same way."""
    rs = np.random.RandomState(0)
    q, k = rs.randn(2, 1, 4, 1, 16).astype(np.float32)
    places = rs.randint(0, 9, (4, 2)).astype(np.float32)
    scores = []
    for moved in (places, places + np.float32([5, -3])):
        turns = jnp.asarray(rotary_turns(moved, 16, 10_000.0))
        scores.append(np.einsum("bqhc,bkhc->bqk", rotate(q, turns), rotate(k, turns)))
    np.testing.assert_allclose(*scores, atol=1e-4)


def test_the_hidden_condition_has_a_row_of_its_own_and_the_head_starts_at_zero():
    first = VQGAN(dataclasses.replace(TINY, n_embed=20))
    model = TwoStage(first, GPT(GPTConfig(n_layer=1, n_head=2, n_embd=16, **MODERN)), ClassLabel(7), (2, 2))
    config = model.gpt.config
    assert (config.vocab_size, config.condition_size, config.block_size) == (20, 8, 4)
    params = model.gpt.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    assert params["condition_token"]["embedding"].shape == (8, 16) and "position" not in params
    assert not params["head"]["kernel"].any()
    assert params["block_0"]["mlp"]["gate"]["kernel"].shape == (16, swiglu_width(16, 16)) == (16, 48)
    with pytest.raises(ValueError, match=r"condition_size=7, but the condition has 7 ids, one more for a hidden"):
        TwoStage(
            first, GPT(dataclasses.replace(config, condition_size=7)), ClassLabel(7), (2, 2), condition_dropout=0.1
        )


def test_a_training_starts_steps_and_refuses_another_network(tmp_path):
    first = VQGAN(dataclasses.replace(TINY, n_embed=20))
    gpt = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, **MODERN, mlp_dropout=0.1, drop_path=0.1, scan_layers=True))
    model = TwoStage(first, gpt, ClassLabel(7), (2, 2), condition_dropout=0.5)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, per_sample=False), batch_size=8, steps=9)
    training = TransformerTraining(model, optimizer)
    state = jax.jit(training.init)(jax.random.key(0))
    rs = np.random.RandomState(0)
    batch = {"codes": rs.randint(0, 20, (8, 2, 2)), "class_label": rs.randint(0, 7, 8)}
    batch = jax.tree.map(lambda x: x.astype(np.int32), batch)
    step = jax.jit(lambda state: training.step(state, {}, batch))
    losses = []
    for _ in range(9):
        state, metrics = step(state)
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(20), rel=1e-5) and losses[-1] < losses[0] - 0.1
    from taming_jax import checkpoint
    from taming_jax.settings import to_dict

    saved = {"kind": "two_stage", "transformer": to_dict(model.gpt.config), "order": model.order}
    checkpoint.save_model(str(tmp_path), params=jax.device_get(state.params), config=saved)
    again = dataclasses.replace(training, init_from=str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, again.start()["params"], jax.device_get(state.params))
    other = GPT(dataclasses.replace(model.gpt.config, norm="layer"))
    with pytest.raises(ValueError, match=r"another network: transformer.norm is rms there, layer here"):
        dataclasses.replace(again, model=dataclasses.replace(model, gpt=other)).start()
    with pytest.raises(ValueError, match=r"other places: order is 'row_major' there, 'spiral_in' here"):
        dataclasses.replace(again, model=dataclasses.replace(model, order="spiral_in")).start()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "batch"}, "norm='batch' is unknown; known: layer, rms"),
        ({"mlp": "relu"}, "mlp='relu' is unknown"),
        ({"positions": "sine"}, "positions='sine' is unknown; known: learned, rotary"),
        ({"kv_heads": 3}, "kv_heads=3, but it must divide n_head=4"),
        ({"drop_path": 1.0}, r"drop_path=1.0, but it is a share in \[0, 1\)"),
        ({"mlp_dropout": -0.1}, "mlp_dropout=-0.1"),
        ({"condition_size": 3}, "condition_size=3, but it goes with condition_table=True"),
        ({"positions": "rotary", "n_embd": 24}, "n_embd=24, but rotary positions need heads whose width 4 divides"),
        ({"grid": (2,)}, r"grid=\(2,\), but it must be \(rows, columns\)"),
        ({"grid": (4, 4), "block_size": 15}, r"grid=\(4, 4\), but block_size=15 has no room for a condition"),
        ({"rotary_base": 1.0}, "rotary_base=1.0"),
        ({"mlp_multiple": 0}, "mlp_multiple=0"),
        ({"n_unmasked": -1}, "n_unmasked=-1"),
        ({"drop_path": 0.1, "n_layer": 1}, "drop_path=0.1, but nothing is left out of the first layer"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{"n_head": 4, "n_embd": 32} | settings)


def test_a_transformer_alone_must_be_told_its_grid():
    model = GPT(GPTConfig(8, 4, 1, 1, 8, positions="rotary"))
    params = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    with pytest.raises(ValueError, match=r"transformer.grid=\(\) is open"):
        model.apply(params, jnp.zeros((1, 2), jnp.int32))
