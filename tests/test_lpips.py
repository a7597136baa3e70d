"""LPIPS: goldens, finite gradients where they are hard to keep so, and the conversion of its weights."""

import hashlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import close, lpips_params, random_vgg16

from taming_jax.convert.__main__ import main
from taming_jax.convert.lpips import convert_lpips
from taming_jax.models.lpips import LPIPS, load_lpips, unit_length
from taming_jax.nn.conv import SAME3, conv2d, conv3x3

RS = np.random.RandomState(0)


@pytest.fixture(scope="module")
def params(golden):
    return jax.tree.map(jnp.asarray, lpips_params(golden("lpips_linears")))


@pytest.fixture(scope="module")
def sources(tmp_path_factory, golden):
    """The two files to convert, as npz."""
    folder = tmp_path_factory.mktemp("sources")
    np.savez(folder / "vgg16.npz", **random_vgg16())
    np.savez(folder / "linears.npz", **golden("lpips_linears"))
    return folder / "vgg16.npz", folder / "linears.npz"


@pytest.fixture(scope="module")
def compare():
    """(params, x, y) -> distances (b,), compiled."""
    return jax.jit(lambda params, x, y: LPIPS().apply({"params": params}, x, y))


def test_distances_equal_the_goldens(golden, params, compare):
    expected = golden("vqgan_f4")
    close(compare(params, expected["image"], expected["reconstruction"]), expected["lpips"], 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_is_finite_for_identical_and_for_constant_images(params, dtype):
    # With negative biases and no image every feature of the deeper layers is exactly zero: norms of zero length.
    dead = {**params, "vgg": {k: {**v, "bias": v["bias"] - 10} for k, v in params["vgg"].items()}}
    x = jnp.asarray(RS.uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)

    @jax.jit
    def run(weights, x, y):
        distances, pull_back = jax.vjp(lambda y: LPIPS(jnp.dtype(dtype)).apply({"params": weights}, x, y), y)
        return distances, pull_back(jnp.ones_like(distances))[0]

    for weights in (params, dead):
        for y in (x, jnp.zeros_like(x)):
            distances, gradient = run(weights, x, y)
            assert distances.dtype == jnp.float32
            assert np.isfinite(distances).all()
            assert np.isfinite(gradient).all()
        np.testing.assert_allclose(run(weights, x, x)[0], np.zeros(2), atol=1e-4)


def test_unit_length_of_zero_has_a_bounded_gradient():
    jacobian = jax.jacobian(unit_length)(jnp.zeros((1, 1, 1, 4)))
    assert np.isfinite(jacobian).all()
    assert np.abs(jacobian).max() <= 1e5 * 1.001
    np.testing.assert_allclose(jnp.linalg.norm(unit_length(jnp.full((1, 1, 1, 4), 0.1)), axis=-1), 1, rtol=1e-6)


def test_distances_do_not_depend_on_the_order_and_grow_with_the_noise(params, compare):
    x = jnp.asarray(RS.uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
    noise = jnp.asarray(RS.randn(2, 16, 16, 3), jnp.float32)
    little, much = compare(params, x, x + 0.05 * noise), compare(params, x, x + 0.5 * noise)
    assert (little > 0).all()
    assert (little < much).all()
    np.testing.assert_allclose(compare(params, x + 0.5 * noise, x), much, rtol=1e-5)


def test_one_channel_stands_for_three(params, compare):
    grey = jnp.asarray(RS.uniform(-1, 1, (2, 16, 16, 1)), jnp.float32)
    three = jnp.tile(grey, (1, 1, 1, 3))
    np.testing.assert_allclose(compare(params, grey, -grey), compare(params, three, -three), rtol=1e-4)


@pytest.mark.usefixtures("unchecked_shapes")
def test_images_that_cannot_be_compared_are_refused(params):
    compare = lambda a, b: LPIPS().apply({"params": params}, jnp.zeros(a), jnp.zeros(b))
    with pytest.raises(ValueError, match=r"at least 16 .* 8 x 16"):
        compare((1, 8, 16, 3), (1, 8, 16, 3))
    with pytest.raises(ValueError, match=r"\(1, 16, 16, 4\)"):
        compare((1, 16, 16, 4), (1, 16, 16, 4))
    with pytest.raises(ValueError, match=r"\(1, 16, 16, 3\) and \(2, 16, 16, 3\)"):
        compare((1, 16, 16, 3), (2, 16, 16, 3))


def test_the_conversion_gives_what_load_reads(sources, params, tmp_path, capsys):
    out = tmp_path / "weights" / "lpips.npz"
    main(["--vgg16", str(sources[0]), "--lpips", str(sources[1]), "--out", str(out)])
    jax.tree.map(np.testing.assert_array_equal, load_lpips(out), params)
    printed = capsys.readouterr().out
    for path in sources:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in printed
    assert [path.name for path in out.parent.iterdir()] == ["lpips.npz"]


def test_missing_weights_say_which_file_whence_and_how(tmp_path):
    with pytest.raises(ValueError) as error:
        load_lpips(tmp_path / "nowhere.npz")
    for part in ("nowhere.npz", "vgg16-397923af.pth", "vgg.pth", "python -m taming_jax.convert --vgg16", "https://"):
        assert part in str(error.value)


def test_damaged_and_foreign_weights_are_refused(tmp_path, sources):
    foreign, truncated = tmp_path / "foreign.npz", tmp_path / "truncated.npz"
    np.savez(foreign, a=np.zeros(3))
    truncated.write_bytes(sources[1].read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"foreign.npz is not a file of LPIPS weights.* a, lin_0"):
        load_lpips(foreign)
    with pytest.raises(ValueError, match=r"truncated.npz is truncated, or not a file of arrays alone: .*; make it"):
        load_lpips(truncated)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.0.weight": None}, "missing .*features.0.weight"),
        ({"features.99.weight": np.zeros(3)}, "unknown .*features.99.weight"),
        ({"features.0.bias": np.zeros(3)}, "wrong shape.*features.0.bias"),
    ],
)
def test_a_vgg_file_with_other_arrays_is_refused(tmp_path, sources, change, message):
    arrays = {k: v for k, v in {**random_vgg16(), **change}.items() if v is not None}
    np.savez(tmp_path / "vgg16.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        convert_lpips(tmp_path / "vgg16.npz", sources[1], tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_files_that_are_not_what_they_should_be_are_refused(tmp_path, sources):
    vgg16, linears = sources
    with pytest.raises(ValueError, match="no file"):
        convert_lpips(tmp_path / "none.pth", linears, tmp_path / "out.npz")
    with pytest.raises(ValueError, match=r"missing .*features"):
        convert_lpips(linears, linears, tmp_path / "out.npz")
    half = tmp_path / "half.npz"
    half.write_bytes(vgg16.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"half.npz is truncated"):
        convert_lpips(half, linears, tmp_path / "out.npz")
    misnamed = tmp_path / "vgg16-397923af.pth"
    misnamed.write_bytes(b"an error page of a proxy")
    with pytest.raises(ValueError, match=r"vgg16-397923af.pth is damaged"):
        convert_lpips(misnamed, linears, tmp_path / "out.npz")


def test_the_classifier_of_a_whole_vgg16_is_left_out(tmp_path, sources):
    np.savez(tmp_path / "vgg16.npz", **random_vgg16(), **{"classifier.6.bias": np.zeros(1000)})
    convert_lpips(tmp_path / "vgg16.npz", sources[1], tmp_path / "out.npz")
    assert "lin_0" in load_lpips(tmp_path / "out.npz")


def test_the_command_ends_with_the_error_alone():
    command = [sys.executable, "-m", "taming_jax.convert", "--vgg16", "none.pth", "--lpips", "none.pth"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, encoding="utf-8")
    assert result.returncode == 1
    assert result.stderr.strip() == "error: there is no file none.pth"


@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (2, 5), (4, 4), (5, 4)])
def test_small_maps_as_a_product_are_convolved_all_the_same(sides):
    """Forwards and backwards; (5, 4) is convolved by XLA itself."""
    rng = np.random.RandomState(0)
    x, kernel = (jnp.asarray(rng.randn(*shape), jnp.float32) for shape in ((2, *sides, 6), (3, 3, 6, 5)))
    ours, plain = conv3x3, lambda x, kernel: conv2d(x, kernel, padding=SAME3)
    np.testing.assert_allclose(ours(x, kernel), plain(x, kernel), rtol=1e-5, atol=1e-5)
    grads = [jax.grad(lambda *a, f=f: jnp.sin(f(*a)).sum(), argnums=(0, 1))(x, kernel) for f in (ours, plain)]
    for a, b in zip(*grads):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    convolutions = str(jax.make_jaxpr(ours)(x, kernel)).count("conv_general")
    assert convolutions == (sides == (5, 4))
