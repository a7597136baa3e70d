"""First stages in plain PyTorch under the names of LlamaGen, latent-diffusion and diffusers: one network, three ways to
number its parts. Made for the tests: a state dict of theirs loads strictly, and their numbers are compared with."""

from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F


class Names:
    """Theirs for the parts of a network of `depth` levels; part: "block", "attn", "downsample" or "upsample"."""

    matrices = False  # whether attention is made of matrices instead of 1 x 1 convolutions
    parts: ClassVar[dict[str, str]]

    def __init__(self, depth: int):
        self.depth = depth

    def level(self, side: str, level: int, part: str, i: int) -> str:
        raise NotImplementedError

    def middle(self, i: int) -> str:
        raise NotImplementedError


class LlamaGen(Names):
    parts: ClassVar = {
        **{"shortcut": "nin_shortcut", "norm": "norm", "norm_out": "norm_out"},
        **{"q": "q", "k": "k", "v": "v", "out": "proj_out"},
    }

    def level(self, side, level, part, i):
        place = level if side == "encoder" else self.depth - 1 - level
        inner = {"block": f"res.{i}", "attn": f"attn.{i}"}.get(part, f"{part}.conv")
        return f"conv_blocks.{place}.{inner}"

    def middle(self, i):
        return f"mid.{i}"


class LatentDiffusion(LlamaGen):
    def level(self, side, level, part, i):
        inner = f"{part}.{i}" if part in ("block", "attn") else f"{part}.conv"
        return f"{'down' if side == 'encoder' else 'up'}.{level}.{inner}"

    def middle(self, i):
        return "mid." + ("block_1", "attn_1", "block_2")[i]


class Diffusers(Names):
    matrices = True
    parts: ClassVar = {
        **{"shortcut": "conv_shortcut", "norm": "group_norm", "norm_out": "conv_norm_out"},
        **{"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"},
    }

    def level(self, side, level, part, i):
        place = level if side == "encoder" else self.depth - 1 - level
        kinds = {"block": "resnets", "attn": "attentions", "downsample": "downsamplers", "upsample": "upsamplers"}
        conv = "" if part in ("block", "attn") else ".conv"
        return f"{'down' if side == 'encoder' else 'up'}_blocks.{place}.{kinds[part]}.{i}{conv}"

    def middle(self, i):
        return "mid_block." + ("resnets.0", "attentions.0", "resnets.1")[i]


class Stage(nn.Module):
    """widths: of each level. attended: levels with attention. middle: whether the middle attends. normalized: codes of
    length 1."""

    def __init__(
        self,
        names: type[Names],
        widths: tuple[int, ...],
        blocks: int,
        z: int,
        dim: int,
        codes: int,
        attended: tuple[int, ...] = (),
        middle: bool = True,
        normalized: bool = False,
    ):
        super().__init__()
        self.names, self.widths, self.blocks, self.normalized = names(len(widths)), widths, blocks, normalized
        self.attended, self.middle = attended, middle
        self._coder("encoder", 3, z)
        self._coder("decoder", z, 3)
        self._put("quantize.embedding", nn.Embedding(codes, dim))
        if normalized:
            self.get_submodule("quantize").register_buffer("codebook_used", torch.zeros(65536))
        self._put("quant_conv", nn.Conv2d(z, dim, 1))
        self._put("post_quant_conv", nn.Conv2d(dim, z, 1))

    def _put(self, name: str, module: nn.Module) -> None:
        *path, last = name.split(".")
        at: nn.Module = self
        for part in path:
            if part not in at._modules:
                at.add_module(part, nn.Module())
            at = at._modules[part]
        at.add_module(last, module)

    def _block(self, name: str, inputs: int, outputs: int) -> None:
        for i, width in ((1, inputs), (2, outputs)):
            self._put(f"{name}.norm{i}", nn.GroupNorm(32, width, 1e-6))
            self._put(f"{name}.conv{i}", nn.Conv2d(width, outputs, 3, padding=1))
        if inputs != outputs:
            self._put(f"{name}.{self.names.parts['shortcut']}", nn.Conv2d(inputs, outputs, 1))

    def _attn(self, name: str, width: int) -> None:
        self._put(f"{name}.{self.names.parts['norm']}", nn.GroupNorm(32, width, 1e-6))
        for part in "q", "k", "v", "out":
            layer = nn.Linear(width, width) if self.names.matrices else nn.Conv2d(width, width, 1)
            self._put(f"{name}.{self.names.parts[part]}", layer)

    def _coder(self, side: str, inputs: int, outputs: int) -> None:
        levels = list(range(len(self.widths)))
        order = levels if side == "encoder" else levels[::-1]
        width = self.widths[order[0]]
        self._put(f"{side}.conv_in", nn.Conv2d(inputs, width, 3, padding=1))
        if side == "decoder":
            self._middle(side, width)
        for level in order:
            for i in range(self.blocks + (side == "decoder")):
                self._block(f"{side}.{self.names.level(side, level, 'block', i)}", width, self.widths[level])
                width = self.widths[level]
                if level in self.attended:
                    self._attn(f"{side}.{self.names.level(side, level, 'attn', i)}", width)
            if level != order[-1]:
                part = "downsample" if side == "encoder" else "upsample"
                down = {"stride": 2} if side == "encoder" else {"padding": 1}
                self._put(f"{side}.{self.names.level(side, level, part, 0)}", nn.Conv2d(width, width, 3, **down))
        if side == "encoder":
            self._middle(side, width)
        self._put(f"{side}.{self.names.parts['norm_out']}", nn.GroupNorm(32, width, 1e-6))
        self._put(f"{side}.conv_out", nn.Conv2d(width, outputs, 3, padding=1))

    def _middle(self, side: str, width: int) -> None:
        for i in (0, 2):
            self._block(f"{side}.{self.names.middle(i)}", width, width)
        if self.middle:
            self._attn(f"{side}.{self.names.middle(1)}", width)

    def at(self, name: str) -> Any:
        return self.get_submodule(name)

    def _run(self, side: str, x):
        names, levels = self.names, list(range(len(self.widths)))
        order = levels if side == "encoder" else levels[::-1]
        x = self.at(f"{side}.conv_in")(x)
        if side == "decoder":
            x = self._run_middle(side, x)
        for level in order:
            for i in range(self.blocks + (side == "decoder")):
                x = self._run_block(f"{side}.{names.level(side, level, 'block', i)}", x)
                if level in self.attended:
                    x = self._run_attn(f"{side}.{names.level(side, level, 'attn', i)}", x)
            if level != order[-1] and side == "encoder":
                x = self.at(f"{side}.{names.level(side, level, 'downsample', 0)}")(F.pad(x, (0, 1, 0, 1)))
            elif level != order[-1]:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self.at(f"{side}.{names.level(side, level, 'upsample', 0)}")(x)
        if side == "encoder":
            x = self._run_middle(side, x)
        return self.at(f"{side}.conv_out")(F.silu(self.at(f"{side}.{names.parts['norm_out']}")(x)))

    def _run_middle(self, side: str, x):
        x = self._run_block(f"{side}.{self.names.middle(0)}", x)
        x = self._run_attn(f"{side}.{self.names.middle(1)}", x) if self.middle else x
        return self._run_block(f"{side}.{self.names.middle(2)}", x)

    def _run_block(self, name: str, x):
        h = x
        for i in (1, 2):
            h = self.at(f"{name}.conv{i}")(F.silu(self.at(f"{name}.norm{i}")(h)))
        shortcut = f"{name}.{self.names.parts['shortcut']}"
        return h + (self.at(shortcut)(x) if x.shape[1] != h.shape[1] else x)

    def _run_attn(self, name: str, x):
        b, c, h, w = x.shape
        y = self.at(f"{name}.{self.names.parts['norm']}")(x).flatten(2).transpose(1, 2)  # (b, h w, c)
        layer = lambda part, y: F.linear(y, self._matrix(name, part), self.at(self._of(name, part)).bias)
        q, k, v = (layer(part, y) for part in "qkv")
        y = layer("out", torch.softmax(q @ k.transpose(1, 2) * c**-0.5, dim=-1) @ v)
        return x + y.transpose(1, 2).reshape(b, c, h, w)

    def _of(self, name: str, part: str) -> str:
        return f"{name}.{self.names.parts[part]}"

    def _matrix(self, name: str, part: str):
        weight = self.at(self._of(name, part)).weight
        return weight.reshape(weight.shape[0], -1)

    @torch.no_grad()
    def forward(self, images):
        """images (b, 3, H, W) -> (ids (b, h, w), reconstruction)."""
        z = self.at("quant_conv")(self._run("encoder", images)).permute(0, 2, 3, 1)
        codes = self.at("quantize.embedding").weight
        if self.normalized:
            z, codes = F.normalize(z, dim=-1), F.normalize(codes, dim=-1)
        ids = torch.cdist(z.reshape(-1, z.shape[-1]), codes).argmin(dim=1).reshape(z.shape[:-1])
        return ids, self._run("decoder", self.at("post_quant_conv")(codes[ids].permute(0, 3, 1, 2)))
