"""The priors, each a way to learn and draw the tokens of images under a condition; and what they share in drawing:
filters on logits, cached decoding, sliding windows.

They know nothing of files or of training, and need neither TensorFlow nor a checkpoint: parameters, ids and keys in,
ids out.
"""

from taming_jax.priors.autoregressive import Autoregressive
from taming_jax.priors.base import Job, Prior, Sequences, TokenLossConfig
from taming_jax.priors.masked import Masked

PRIORS: dict[str, type[Prior]] = {"autoregressive": Autoregressive, "masked": Masked}

__all__ = ["PRIORS", "Autoregressive", "Job", "Masked", "Prior", "Sequences", "TokenLossConfig"]
