"""The same transformer in plain PyTorch, sampled as the original is: what the benchmarks here are measured against."""

from typing import Any

import numpy as np
import torch
from torch import nn

MODELS = {  # layers, heads, width, codes: what decode.py and sliding_window.py measure
    "small": (12, 8, 512, 1024),
    "0.1B": (12, 12, 768, 1024),
    "0.3B": (24, 16, 1024, 1024),
    "1.4B": (48, 24, 1536, 16384),
}


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x, past=None):
        """x (b, l, d); past: keys and values of the positions before, with which one position may be read alone."""
        b, l, d = x.shape
        y = self.norm_attention(x)
        split = lambda layer: layer(y).view(b, l, self.heads, d // self.heads).transpose(1, 2)
        query, key, value = split(self.query), split(self.key), split(self.value)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        y = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=past is None)
        x = x + self.out(y.transpose(1, 2).reshape(b, l, d))
        return x + self.down(nn.functional.gelu(self.up(self.norm_mlp(x)))), (key, value)


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
            x, _ = block(x)
        return self.head(self.norm_out(x))

    def step(self, ids, past):
        """As forward, for the ids that follow `past` (one pair a layer, or None): their logits, and the longer past."""
        start = 0 if past is None else past[0][0].shape[2]
        x = self.token(ids) + self.position[start : start + ids.shape[1]]
        seen = []
        for block, before in zip(self.blocks, past or [None] * len(self.blocks)):
            x, now = block(x, before)
            seen.append(now)
        return self.head(self.norm_out(x)), seen


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
def continue_cached(net: GPT, ids: torch.Tensor, n: int) -> torch.Tensor:
    """The likeliest `n` ids that follow ids (b, l), with a cache that grows by each: (b, n)."""
    logits, past = net.step(ids, None)
    drawn = [logits[:, -1:].argmax(dim=-1)]
    for _ in range(n - 1):
        logits, past = net.step(drawn[-1], past)
        drawn.append(logits[:, -1:].argmax(dim=-1))
    return torch.cat(drawn, dim=1)


class StaticGPT(nn.Module):
    """The same with a cache of fixed length, for torch.compile: one id a call, no shape ever changes."""

    def __init__(self, net: GPT, batch: int, length: int):
        super().__init__()
        self.net, self.length = net, length
        heads, width = net.blocks[0].heads, net.position.shape[1]
        like = net.position
        for i in range(2 * len(net.blocks)):
            self.register_buffer(f"cache_{i}", like.new_zeros(batch, heads, length, width // heads))

    def forward(self, ids, place):
        """ids (b, 1) at `place`, int64 (1,) -> the likeliest next (b, 1)."""
        x = self.net.token(ids) + self.net.position[place]
        mask = (torch.arange(self.length, device=ids.device) <= place)[None, None, None]
        for i, block in enumerate(self.net.blocks):
            b, _, d = x.shape
            y = block.norm_attention(x)
            shape = (b, 1, block.heads, d // block.heads)
            split = lambda layer, y=y, shape=shape: layer(y).view(shape).transpose(1, 2)
            key, value = getattr(self, f"cache_{2 * i}"), getattr(self, f"cache_{2 * i + 1}")
            key.index_copy_(2, place, split(block.key))
            value.index_copy_(2, place, split(block.value))
            y = nn.functional.scaled_dot_product_attention(split(block.query), key, value, attn_mask=mask)
            x = x + block.out(y.transpose(1, 2).reshape(b, 1, d))
            x = x + block.down(nn.functional.gelu(block.up(block.norm_mlp(x))))
        return self.net.head(self.net.norm_out(x)).argmax(dim=-1)


@torch.inference_mode()
def continue_static(step: Any, ids: torch.Tensor, n: int) -> torch.Tensor:
    """As `continue_cached`, from ids (b, 1), with a compiled StaticGPT."""
    drawn = [ids]
    for place in range(n):
        drawn.append(step(drawn[-1], torch.tensor([place], device=ids.device)).clone())
    return torch.cat(drawn[1:], dim=1)


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
