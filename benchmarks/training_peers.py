"""The same two trainings in plain PyTorch: what benchmarks/train.py is measured against.

Networks are named as in taming_jax, so that `give_weights` can start them alike and both can be seen to compute the
same losses. Both use what PyTorch offers without effort: automatic mixed precision, channels_last and cuDNN's search
on GPUs, its fused attention and fused optimizers. What the original computes in vain is left out: gradients of the
discriminator while the generator learns, and those of the generator's second pass.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import peers
import torch
from torch import nn
from torch.nn import functional as F

from taming_jax.models.discriminator import DiscriminatorConfig
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.lpips import SCALE, SHIFT, VGG16_WIDTHS
from taming_jax.models.vqgan import VQGANConfig


class ResBlock(nn.Module):
    def __init__(self, c: int, features: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, c, eps=1e-6), nn.Conv2d(c, features, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, features, eps=1e-6), nn.Conv2d(features, features, 3, padding=1)
        self.shortcut = nn.Conv2d(c, features, 1) if c != features else nn.Identity()

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    def __init__(self, c: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, c, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))  # (b, 1, hw, c)
        y = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(y)


class Down(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def encoder(cfg: VQGANConfig) -> nn.Sequential:
    layers: dict[str, nn.Module] = {"conv_in": nn.Conv2d(cfg.in_channels, cfg.ch, 3, padding=1)}
    c, groups = cfg.ch, cfg.norm_groups
    for level, multiple in enumerate(cfg.ch_mult):
        for i in range(cfg.num_res_blocks):
            layers[f"down_{level}_block_{i}"] = ResBlock(c, cfg.ch * multiple, groups)
            c = cfg.ch * multiple
            if cfg.level_has_attention(level):
                layers[f"down_{level}_attn_{i}"] = Attention(c, groups)
        if level < len(cfg.ch_mult) - 1:
            layers[f"down_{level}_downsample"] = Down(c, c, 3, stride=2)
    layers |= _middle(c, groups)
    layers |= {"norm_out": nn.GroupNorm(groups, c, eps=1e-6), "swish": nn.SiLU()}
    layers["conv_out"] = nn.Conv2d(c, cfg.z_channels, 3, padding=1)
    return nn.Sequential(OrderedDict(layers))


def decoder(cfg: VQGANConfig) -> nn.Sequential:
    c, groups = cfg.ch * cfg.ch_mult[-1], cfg.norm_groups
    layers: dict[str, nn.Module] = {"conv_in": nn.Conv2d(cfg.z_channels, c, 3, padding=1)} | _middle(c, groups)
    for level in reversed(range(len(cfg.ch_mult))):
        for i in range(cfg.num_res_blocks + 1):
            layers[f"up_{level}_block_{i}"] = ResBlock(c, cfg.ch * cfg.ch_mult[level], groups)
            c = cfg.ch * cfg.ch_mult[level]
            if cfg.level_has_attention(level):
                layers[f"up_{level}_attn_{i}"] = Attention(c, groups)
        if level > 0:
            layers[f"up_{level}_upsample"] = Up(c, c, 3, padding=1)
    layers |= {"norm_out": nn.GroupNorm(groups, c, eps=1e-6), "swish": nn.SiLU()}
    layers["conv_out"] = nn.Conv2d(c, cfg.out_channels, 3, padding=1)
    return nn.Sequential(OrderedDict(layers))


def _middle(c: int, groups: int) -> dict[str, nn.Module]:
    return {
        "mid_block_0": ResBlock(c, c, groups),
        "mid_attn": Attention(c, groups),
        "mid_block_1": ResBlock(c, c, groups),
    }


class Quantizer(nn.Module):
    """z (b, c, h, w) -> (nearest codes with a straight-through gradient, loss), in float32."""

    def __init__(self, n: int, c: int, beta: float):
        super().__init__()
        self.codebook, self.beta = nn.Parameter(torch.empty(n, c)), beta

    def forward(self, z):
        z = z.float().permute(0, 2, 3, 1)
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            flat = z.reshape(-1, z.shape[-1])
            ids = (self.codebook.square().sum(1) - 2 * flat @ self.codebook.T).argmin(1)
        zq = F.embedding(ids, self.codebook).view(z.shape)
        loss = F.mse_loss(zq.detach(), z) + self.beta * F.mse_loss(zq, z.detach())
        return (z + (zq - z).detach()).permute(0, 3, 1, 2), loss


class VQGAN(nn.Module):
    """Images (b, c, H, W) -> (reconstruction, quantizer's loss)."""

    def __init__(self, cfg: VQGANConfig):
        super().__init__()
        self.encoder, self.decoder = encoder(cfg), decoder(cfg)
        self.quant_conv = nn.Conv2d(cfg.z_channels, cfg.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(cfg.embed_dim, cfg.z_channels, 1)
        self.quantizer = Quantizer(cfg.n_embed, cfg.embed_dim, cfg.settled.beta)

    def forward(self, x):
        z, loss = self.quantizer(self.quant_conv(self.encoder(x)))
        return self.decoder(self.post_quant_conv(z)).float(), loss


def discriminator(cfg: DiscriminatorConfig) -> nn.Sequential:
    layers: dict[str, nn.Module] = {"conv_0": nn.Conv2d(cfg.in_channels, cfg.ndf, 4, 2, 1), "relu_0": nn.LeakyReLU(0.2)}
    c = cfg.ndf
    for i in range(1, cfg.n_layers + 1):
        features = cfg.ndf * min(2**i, 8)
        layers[f"conv_{i}"] = nn.Conv2d(c, features, 4, 2 if i < cfg.n_layers else 1, 1, bias=False)
        layers |= {f"norm_{i}": nn.BatchNorm2d(features), f"relu_{i}": nn.LeakyReLU(0.2)}
        c = features
    layers[f"conv_{cfg.n_layers + 1}"] = nn.Conv2d(c, 1, 4, 1, 1)
    return nn.Sequential(OrderedDict(layers))


class VGG16(nn.Module):
    def __init__(self):
        super().__init__()
        before, layer = 3, 0
        for width in (width for widths in VGG16_WIDTHS for width in widths):
            setattr(self, f"conv_{layer}", nn.Conv2d(before, width, 3, padding=1))
            before, layer = width, layer + 1

    def forward(self, x):
        outputs, layer = [], 0
        for stage, widths in enumerate(VGG16_WIDTHS):
            x = F.max_pool2d(x, 2) if stage else x
            for _ in widths:
                x = F.relu(getattr(self, f"conv_{layer}")(x))
                layer += 1
            outputs.append(x)
        return outputs


class LPIPS(nn.Module):
    """Images x, y (b, 3, H, W) -> mean distance."""

    def __init__(self):
        super().__init__()
        self.vgg = VGG16()
        for i, widths in enumerate(VGG16_WIDTHS):
            setattr(self, f"lin_{i}", nn.Parameter(torch.empty(widths[-1])))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, x, y):
        with torch.no_grad():
            first = self.vgg((x - self.shift) / self.scale)
        total = 0.0
        for i, (a, b) in enumerate(zip(first, self.vgg((y - self.shift) / self.scale))):
            a, b = (v.float() * torch.rsqrt(v.float().square().sum(1, keepdim=True) + 1e-10) for v in (a, b))
            weight = getattr(self, f"lin_{i}").view(1, -1, 1, 1)
            total = total + ((a - b).square() * weight).sum(1).mean()
        return total


def give_weights(net: nn.Module, params: Any) -> nn.Module:
    """The parameters of the JAX network of the same names, into it."""
    state = {}
    for path, value in peers._leaves(params):
        value = np.array(value)
        name = ".".join({"kernel": "weight", "scale": "weight"}.get(part, part) for part in path.split("."))
        state[name] = torch.from_numpy(value.transpose(3, 2, 0, 1).copy() if value.ndim == 4 else value)
    missing, unknown = net.load_state_dict(state, strict=False)
    missing = [name for name in missing if "running" not in name and "num_batches" not in name]
    if missing or unknown:
        raise ValueError(f"the networks differ: missing {missing}, unknown {unknown}")
    return net


class VQGANTraining:
    """step(images (b, c, H, W)) updates both networks in turn and returns their losses; the published weights of the
    loss, with the discriminator from the start."""

    def __init__(self, cfg, disc_cfg, params, disc_params, lpips_params, *, learning_rate, device, dtype):
        self.net = give_weights(VQGAN(cfg), params)
        self.disc = give_weights(discriminator(disc_cfg), disc_params)
        self.lpips = give_weights(LPIPS(), lpips_params).requires_grad_(False)
        for net in (self.net, self.disc, self.lpips):
            net.to(device, memory_format=torch.channels_last)
        options = {"lr": learning_rate, "betas": (0.5, 0.9), "fused": device == "cuda"}
        self.optimizer = torch.optim.Adam(self.net.parameters(), **options)
        self.disc_optimizer = torch.optim.Adam(self.disc.parameters(), **options)
        self.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")
        torch.backends.cudnn.benchmark = True

    def compile(self) -> None:
        for net in (self.net, self.disc, self.lpips):
            net.compile()

    def step(self, images):
        self.disc.requires_grad_(False)
        with self.cast():
            fake, quant_loss = self.net(images)
            nll = (images - fake).abs().mean() + self.lpips(images, fake)
            g = -self.disc(fake).float().mean()
        last = self.net.decoder.conv_out.weight
        at_nll, at_g = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (nll, g))
        weight = 0.8 * (at_nll / (at_g + 1e-4)).clamp(0, 1e4).detach()
        loss = nll + quant_loss + weight * g
        _update(self.optimizer, loss)
        self.disc.requires_grad_(True)
        with self.cast():
            with torch.no_grad():
                fake, _ = self.net(images)
            real, fake = self.disc(images).float(), self.disc(fake).float()
            disc_loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        _update(self.disc_optimizer, disc_loss)
        return loss.detach(), disc_loss.detach()


class GPTTraining:
    """step(ids (b, l + 1)) updates the transformer on the mean cross-entropy of all ids but the first; its loss."""

    def __init__(self, cfg: GPTConfig, params, *, learning_rate, device, dtype):
        net = peers.GPT(cfg.vocab_size, cfg.block_size, cfg.n_layer, cfg.n_head, cfg.n_embd)
        self.net = peers.with_weights(net, params).to(device).train()
        groups: list[dict] = [{"params": [], "weight_decay": 0.01}, {"params": [], "weight_decay": 0.0}]
        for name, parameter in self.net.named_parameters():
            decays = parameter.ndim == 2 and not name.startswith(("token", "position"))
            groups[0 if decays else 1]["params"].append(parameter)
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=device == "cuda")
        self.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def compile(self) -> None:
        self.net.compile()

    def step(self, ids):
        with self.cast():
            logits = self.net(ids[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        _update(self.optimizer, loss)
        return (loss.detach(),)


def _update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def total(losses: Iterable[torch.Tensor]) -> list[float]:
    """The losses as numbers, which waits until they are there."""
    return [float(loss) for loss in losses]
