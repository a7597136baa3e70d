"""LlamaGen's class-conditional transformer in plain PyTorch, with its names of arrays, and its sampling: a static cache
of keys and values, guidance by a batch of twice the size. What benchmarks and tests here compare with."""

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int):
        super().__init__()
        self.heads, self.kv_heads, self.c = heads, kv_heads, width // heads
        self.wqkv = nn.Linear(width, width + 2 * kv_heads * self.c, bias=False)
        self.wo = nn.Linear(width, width, bias=False)
        self.cache = None

    def forward(self, x, turns, places, mask):
        """x (b, l, d) at `places`; with a cache the keys of all places so far are read, as `mask` (l, L) says."""
        b, l, d = x.shape
        q, k, v = self.wqkv(x).split([d, self.kv_heads * self.c, self.kv_heads * self.c], dim=-1)
        q, k = rotated(q.view(b, l, self.heads, self.c), turns), rotated(k.view(b, l, self.kv_heads, self.c), turns)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.view(b, l, self.kv_heads, self.c).transpose(1, 2)
        if self.cache is not None:
            self.cache[0][:, :, places], self.cache[1][:, :, places] = k, v
            k, v = self.cache
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.wo(y.transpose(1, 2).reshape(b, l, d))


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w1, self.w3 = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int):
        super().__init__()
        self.attention_norm, self.ffn_norm = RMSNorm(width), RMSNorm(width)
        self.attention, self.feed_forward = Attention(width, heads, kv_heads), FeedForward(width, hidden)

    def forward(self, x, turns, places, mask):
        x = x + self.attention(self.attention_norm(x), turns, places, mask)
        return x + self.feed_forward(self.ffn_norm(x))


class Labels(nn.Module):
    def __init__(self, classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)


class Transformer(nn.Module):
    """A class, then side x side codes; class `classes` is the hidden one."""

    def __init__(
        self,
        layers: int,
        heads: int,
        width: int,
        codes: int,
        side: int,
        classes: int,
        kv_heads: int = 0,
        hidden: int = 0,
        base: float = 10_000.0,
    ):
        super().__init__()
        hidden = hidden or -(-(8 * width // 3) // 256) * 256
        self.cls_embedding, self.tok_embeddings = Labels(classes, width), nn.Embedding(codes, width)
        self.layers = nn.ModuleList(Layer(width, heads, kv_heads or heads, hidden) for _ in range(layers))
        self.norm, self.output = RMSNorm(width), nn.Linear(width, codes, bias=False)
        self.side, self.classes = side, classes
        self.turns = turns(side, width // heads, base)

    def forward(self, label, ids):
        """label (b,), ids (b, l) -> logits (b, l + 1, n)."""
        x = torch.cat([self.cls_embedding.embedding_table(label)[:, None], self.tok_embeddings(ids)], dim=1)
        l = x.shape[1]
        return self._through(x, torch.arange(l), torch.ones(l, l).tril().bool())

    def _through(self, x, places, mask):
        here = self.turns[:, places]
        for layer in self.layers:
            x = layer(x, here, places, mask)
        return self.output(self.norm(x))

    @torch.inference_mode()
    def draw(self, label, guidance: float = 1.0, until: int = 1 << 30):
        """The likeliest codes (b, side * side) of the classes; guided up to the token `until`."""
        n, both = self.side**2, guidance != 1
        labels = torch.cat([label, torch.full_like(label, self.classes)]) if both else label
        for layer in self.layers:
            own = layer.attention
            own.cache = [torch.zeros(len(labels), own.kv_heads, n, own.c) for _ in range(2)]
        ids, x = [], self.cls_embedding.embedding_table(labels)[:, None]
        causal = torch.ones(n, n).tril().bool()
        for place in range(n):
            logits = self._through(x, torch.tensor([place]), causal[place : place + 1])[:, -1]
            if both:
                asked, free = logits.chunk(2)
                logits = free + (asked - free) * guidance if place < until else asked
            ids.append(logits.argmax(-1))
            x = self.tok_embeddings(torch.cat([ids[-1]] * (1 + both)))[:, None]
        for layer in self.layers:
            layer.attention.cache = None
        return torch.stack(ids, dim=1)


def turns(side: int, width: int, base: float):
    """Cosine and sine (2, 1 + side^2, width / 2); zero at the class."""
    rates = 1.0 / base ** (torch.arange(0, width // 2, 2).float() / (width // 2))
    row, column = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    angles = torch.cat([row.reshape(-1, 1) * rates, column.reshape(-1, 1) * rates], dim=1)
    table = torch.stack([angles.cos(), angles.sin()])
    return torch.cat([torch.zeros(2, 1, width // 2), table], dim=1)


def rotated(x, here):
    """x (b, l, heads, c), here (2, l, c / 2): each pair of neighbours turned."""
    cosine, sine = here[0][None, :, None], here[1][None, :, None]
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cosine - b * sine, b * cosine + a * sine], dim=-1).flatten(-2)
