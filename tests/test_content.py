"""What a first stage reads: each kind's checks, pictures and losses, and that a new kind is two entries."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import TINY

from taming_jax.conditioning import CONDITIONS, ConditionConfig, StageCondition, files, make_condition, spatial
from taming_jax.drawing.condition_files import find_files, read_condition
from taming_jax.metrics.image import MEASURES
from taming_jax.models import content
from taming_jax.models.content import CONTENTS, LOSSES, Content
from taming_jax.models.vqgan import VQGAN
from taming_jax.sharding import MeshConfig, make_mesh
from taming_jax.trained.evaluation import make_image_eval
from taming_jax.trained.first_stage import FirstStage
from taming_jax.training.vqgan import VQGANTraining
from taming_jax.training.vqgan_loss import VQGANLossConfig


@pytest.mark.parametrize("kind", CONTENTS.values(), ids=CONTENTS)
def test_every_kind_names_what_there_is(kind):
    assert kind.loss in LOSSES and set(kind.measures) <= set(MEASURES)
    assert kind.best[0] in kind.measures and kind.best[1] in ("min", "max")


@pytest.mark.parametrize(
    ("kind", "channels", "shape", "data_channels"),
    [
        ("image", 3, (2, 8, 8, 3), 3),
        ("segmentation", 7, (2, 8, 8), 7),
        ("depth", 1, (2, 8, 8), 1),
        ("edges", 1, (2, 8, 8, 1), 1),
        ("pose", 5, (2, 8, 8, 5), None),
    ],
)
def test_what_is_checked_is_read_drawn_and_compared(kind, channels, shape, data_channels):
    kind = CONTENTS[kind]
    assert kind.data_channels(7) == data_channels
    entry = kind.check(np.zeros(shape, np.int32 if kind.name == "segmentation" else np.float32), channels, "it")
    x = kind.input({kind.name: entry}, channels, 2.0)
    assert x.shape == (2, 8, 8, channels) and x.dtype == jnp.float32
    picture = kind.picture(np.asarray(x))
    assert picture.shape == (2, 8, 8, 3) and np.abs(picture).max() <= 1
    assert list(kind.reconstruction_loss(x, x)) == [f"{kind.loss}_loss"]
    with pytest.raises(ValueError, match=rf"reads {kind.name}, but the batch holds only other"):
        kind.input({"other": entry}, channels, 2.0)
    with pytest.raises(ValueError, match=r"it .*expected"):
        kind.check(np.zeros((8, 8)), channels, "it")


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("image", np.zeros((1, 8, 8, 3), np.uint8), r"it is uint8 of shape .*expected floats .*images / 127\.5 - 1"),
        ("image", np.full((1, 8, 8, 3), 2.0), r"with values up to 2;"),
        ("depth", np.full((1, 8, 8), np.nan), r"it has values that are not numbers in \[-1, 1\]"),
        ("depth", np.zeros((1, 8, 8, 2)), r"it has shape \(1, 8, 8, 2\); expected \(b, H, W, 1\)"),
        ("segmentation", np.full((1, 8, 8), 3), r"it has labels 3\.\.3; this model knows 0\.\.2"),
        ("segmentation", np.full((1, 8, 8), -1), r"it has labels -1\.\.-1"),
    ],
)
def test_what_cannot_be_read_is_refused(kind, value, message):
    channels = {"image": 3, "depth": 1, "segmentation": 3}[kind]
    with pytest.raises(ValueError, match=message):
        CONTENTS[kind].check(value, channels, "it")


@pytest.fixture
def normals(monkeypatch):
    """A kind of map that the project does not have, added as docs/extending.md says."""
    monkeypatch.setitem(content.CONTENTS, "normals", Content("normals", 3, ("normals",)))
    monkeypatch.setitem(spatial.KINDS, "normals", spatial.Kind(("normals",), files.ARRAY))
    assert "normals" not in CONDITIONS  # a tuple of before, for messages alone
    return np.linspace(-1, 1, 2 * 16 * 16 * 3, dtype=np.float32).reshape(2, 16, 16, 3)


def test_a_new_kind_of_map_is_trained_and_conditions(normals, tmp_path):
    with pytest.raises(ValueError, match=r"in_channels=1, but content 'normals' has 3 channel\(s\)"):
        replace(TINY, content="normals", in_channels=1, out_channels=1)
    model, tx = VQGAN(replace(TINY, content="normals")), optax.adam(1e-3)
    loss = VQGANLossConfig(perceptual_weight=0.0, disc_weight=0.0)
    training = VQGANTraining(model, None, loss, tx, None, (2, 16, 16, 3))
    state = training.init(jax.random.key(0))
    batch = {"image": jnp.zeros((2, 16, 16, 3)), "normals": jnp.asarray(normals)}
    state, metrics = jax.jit(training.step)(state, None, batch)
    assert np.isfinite(metrics["l1_loss"]) and metrics["l1_loss"] == metrics["nll_loss"]
    measured, _ = jax.jit(make_image_eval(model))(state.params, batch)
    assert {"l1", "psnr", "ssim"} == set(measured.sums)

    stage = FirstStage(model, state.params, make_mesh(MeshConfig(data=1)))
    condition = make_condition(ConditionConfig(kind="normals", stage="runs/x"), VQGAN(TINY), 16, model)
    assert isinstance(condition, StageCondition)
    assert (condition.keys, condition.annotations) == (("normals",), ("normals",))
    stages = {"condition_stage": stage.params}
    tokens = np.asarray(condition.tokens(batch, 2, stages))
    np.testing.assert_array_equal(tokens, stage.encode(normals))
    np.testing.assert_array_equal(condition.picture(batch, 2, (16, 16)), normals)

    np.save(tmp_path / "a.npy", normals[0])
    (file,) = find_files(str(tmp_path), condition)
    given = read_condition(file, condition, 2, None)
    assert condition.pixels(given) == (16, 16)
    parsed = condition.parse(given, 2, (16, 16))
    np.testing.assert_array_equal(condition.tokens(parsed, 2, stages), tokens[[0, 0]])
    with pytest.raises(ValueError, match=r"normals has shape \(1, 16, 16, 2\); expected \(b, H, W, 3\)"):
        condition.parse({"normals": normals[0, ..., :2]}, 1, (16, 16))


def test_the_gradient_of_equal_pixels_has_the_sign_that_it_always_had():
    """The derivative of |x| at 0 is a convention, which the order of the difference turns: it moves whole trainings."""
    image = jnp.zeros((1, 2, 2, 1))
    loss = lambda reconstruction: CONTENTS["image"].reconstruction_loss(image, reconstruction)["l1_loss"]
    np.testing.assert_array_equal(jax.grad(loss)(image), np.full(image.shape, -0.25))
