"""DINOv2 through the conversion of its weights: against the same transformer in PyTorch, of a small size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from taming_jax.convert.__main__ import main
from taming_jax.convert.dinov2 import convert_dinov2, positions, their_name
from taming_jax.models import dinov2
from taming_jax.quality import features
from taming_jax.sharding import make_mesh

SMALL, TABLE = dinov2.ViTSize(24, 2, 3), 9  # the table of positions is 9 x 9, that of 224 pixels 16 x 16


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(dinov2.SIZES, "small", SMALL)
    monkeypatch.setitem(features.KINDS, "small", features.dino(SMALL))


@pytest.fixture
def state():
    rs, found = np.random.RandomState(0), {"mask_token": torch.zeros(1, 24)}
    for name, shape in dinov2.dinov2_shapes(SMALL).items():
        shape = (1, 1 + TABLE**2, 24) if name == "position" else shape
        x = rs.randn(*shape) * (0.2 if name.endswith("kernel") else 0.5)
        x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T if x.ndim == 2 else x
        found[their_name(name)] = torch.tensor(np.ascontiguousarray(x), dtype=torch.float32)
    return found


def in_torch(s, x):
    """Normalised pictures (b, 3, H, W) -> the class token, by the published definition."""
    d, heads = SMALL.width, SMALL.heads
    b, side = len(x), x.shape[-1] // 14
    x = F.conv2d(x, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([s["cls_token"].expand(b, 1, d), x], 1)
    grid = s["pos_embed"][:, 1:].reshape(1, TABLE, TABLE, d).permute(0, 3, 1, 2)
    share = (side + 0.1) / TABLE
    grid = F.interpolate(grid, scale_factor=(share, share), mode="bicubic")
    assert grid.shape[-2:] == (side, side)
    x = x + torch.cat([s["pos_embed"][:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, d)], 1)
    for i in range(SMALL.depth):
        w = lambda name, i=i: (s[f"blocks.{i}.{name}.weight"], s[f"blocks.{i}.{name}.bias"])
        y = F.layer_norm(x, (d,), *w("norm1"), 1e-6)
        q, k, v = F.linear(y, *w("attn.qkv")).reshape(b, -1, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / (d // heads) ** 0.5, -1)
        y = F.linear((weights @ v).transpose(1, 2).reshape(b, -1, d), *w("attn.proj"))
        x = x + y * s[f"blocks.{i}.ls1.gamma"]
        y = F.layer_norm(x, (d,), *w("norm2"), 1e-6)
        y = F.linear(F.gelu(F.linear(y, *w("mlp.fc1"))), *w("mlp.fc2"))
        x = x + y * s[f"blocks.{i}.ls2.gamma"]
    return F.layer_norm(x, (d,), s["norm.weight"], s["norm.bias"], 1e-6)[:, 0]


def test_converted_weights_give_the_features_of_pytorch(state, tmp_path, capsys):
    torch.save(state, tmp_path / "dino.pth")
    main(["--dino", str(tmp_path / "dino.pth"), "--out", str(tmp_path / "dino.npz")])
    assert "(small)" in capsys.readouterr().out
    network = features.open_features(str(tmp_path / "dino.npz"), make_mesh())
    assert network.protocol.resize == "clean-fid" and network.protocol.feature == "24"
    pixels = np.random.RandomState(1).randint(0, 256, (8, 224, 224, 3)).astype(np.uint8)
    found, valid = network([network.prepare(x) for x in pixels], 8)
    mean, std = (torch.tensor(x).reshape(1, 3, 1, 1) for x in (dinov2.MEAN, dinov2.STD))
    expected = in_torch(state, (torch.tensor(pixels).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    assert valid.all()
    np.testing.assert_allclose(found["24"], expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_a_table_of_the_right_size_stays_as_it_is():
    table = np.random.RandomState(0).randn(1, 1 + 16 * 16, 4)
    assert positions(table, 224) is table


def test_the_published_sizes_have_the_published_numbers_of_parameters():
    """In millions, without the mask token and with the table of 224 pixels in place of that of 518."""
    for name, millions in {"dinov2_vits14": 22.1, "dinov2_vitb14": 86.6, "dinov2_vitl14": 304.4}.items():
        shapes = dinov2.dinov2_shapes(dinov2.SIZES[name])
        more = (37 * 37 - 16 * 16) * dinov2.SIZES[name].width
        assert sum(map(np.prod, shapes.values())) + more == pytest.approx(millions * 1e6, rel=2e-3)


def test_another_network_is_refused_and_nothing_written(state, tmp_path):
    arrays = {name: value.numpy() for name, value in state.items()}
    for changed, message in (
        ({"register_tokens": np.zeros((1, 4, 24))}, "is no DINOv2; known are .*without registers.* register_tokens$"),
        ({"cls_token": np.zeros((1, 1, 7))}, "its tokens have 7 numbers; known are dinov2_vits14"),
        ({"pos_embed": np.zeros((1, 12, 24))}, "pos_embed$"),
    ):
        np.savez(tmp_path / "other.npz", **{**arrays, **changed})
        with pytest.raises(ValueError, match=message):
            convert_dinov2(tmp_path / "other.npz", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
