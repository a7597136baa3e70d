"""The small first stage of all tests that need some first stage; those that need other sizes replace what they need."""

from taming_jax.models.vqgan import VQGANConfig

TINY = VQGANConfig(
    resolution=16, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), z_channels=8, embed_dim=8, n_embed=20,
    norm_groups=4,
)  # fmt: skip
