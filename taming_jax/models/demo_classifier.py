"""A small classifier of the demo's data, whose features make distances mean something there without a download."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax import Array

SIDE = 64  # pixels
WIDTHS = (32, 48, 64, 96, 128)
N_KINDS = 10  # of objects in scenes, of labels in landscapes
FEATURES = str(WIDTHS[-1])  # their name: as those of Inception, by their number


class DemoClassifier(nn.Module):
    """Images (b, 64, 64, 3) in [-1, 1] -> features by name, all float32.

    "128": means over positions of the last convolution, (b, 128). "logits", "logits_unbiased": (b, n_classes), of the
    class, with and without the head's bias. "kinds": (b, 10), logits of whether each kind of object (of a landscape's
    labels) is in the picture, which is learned beside the class so that the features tell more than the main object.
    """

    n_classes: int

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        for i, width in enumerate(WIDTHS):
            x = nn.Conv(width, (3, 3), strides=2 if i != 1 else 1, name=f"conv_{i}")(x)
            x = nn.relu(nn.GroupNorm(8, name=f"norm_{i}")(x))
        features = x.mean(axis=(1, 2))
        head = self.param("class_kernel", nn.initializers.lecun_normal(), (WIDTHS[-1], self.n_classes))
        bias = self.param("class_bias", nn.initializers.zeros, (self.n_classes,))
        unbiased = features @ head
        kinds = nn.Dense(N_KINDS, name="kinds")(features)
        return {FEATURES: features, "logits": unbiased + bias[None], "logits_unbiased": unbiased, "kinds": kinds}


def demo_classifier_shapes(n_classes: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array in its weight file."""
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    variables = jax.eval_shape(DemoClassifier(n_classes).init, jax.random.key(0), image)
    return {k: v.shape for k, v in flatten_dict(variables["params"], sep="/").items()}
