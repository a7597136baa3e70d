"""The same transformer in plain PyTorch, sampled as the original is: what the benchmarks here are measured against."""

from typing import Any

import numpy as np
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x):
        b, l, d = x.shape
        y = self.norm_attention(x)
        split = lambda layer: layer(y).view(b, l, self.heads, d // self.heads).transpose(1, 2)
        y = nn.functional.scaled_dot_product_attention(
            split(self.query), split(self.key), split(self.value), is_causal=True
        )
        x = x + self.out(y.transpose(1, 2).reshape(b, l, d))
        return x + self.down(nn.functional.gelu(self.up(self.norm_mlp(x))))


class GPT(nn.Module):
    """ids (b, l) -> logits (b, l, n)."""

    def __init__(self, vocabulary: int, length: int, layers: int, heads: int, width: int):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm_out = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids):
        x = self.token(ids) + self.position[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm_out(x))


def with_weights(net: GPT, params: Any) -> GPT:
    """Give it the parameters of the JAX model, so that both can be seen to draw the same."""
    state = {}
    for path, value in _leaves(params):
        name = path.replace("block_", "blocks.").replace(".attention.", ".").replace(".mlp.", ".")
        name = name.replace("embedding", "weight").replace("kernel", "weight").replace("scale", "weight")
        state[name] = torch.from_numpy(np.array(value.T if path.endswith("kernel") else value))
    net.load_state_dict(state)
    return net.eval()


def _leaves(tree: Any, path: str = ""):
    for name, value in tree.items():
        here = f"{path}.{name}" if path else name
        yield from _leaves(value, here) if hasattr(value, "items") else [(here, value)]


@torch.inference_mode()
def sliding_window(net: Any, condition: torch.Tensor, window: int, places: list[tuple[int, int]], ids: torch.Tensor):
    """Draw the likeliest tokens at `places`, in place: for each the whole window through the network, as the original
    does. condition and ids (b, H, W) of one grid."""
    rows, columns = ids.shape[1:]
    for i, j in places:
        top = min(max(i - window // 2, 0), rows - window)
        left = min(max(j - window // 2, 0), columns - window)
        cut = lambda grid, top=top, left=left: grid[:, top : top + window, left : left + window].flatten(1)
        logits = net(torch.cat([cut(condition), cut(ids)], dim=1)[:, :-1])
        place = window * window - 1 + (i - top) * window + j - left
        ids[:, i, j] = logits[:, place].argmax(dim=-1)
    return ids
