"""What a configuration holds: one dataclass a program, made of the settings of its parts.

A checkpoint keeps the same tree as JSON, with the `kind` of model beside it, so that it can be opened knowing only its
path.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from taming_jax.conditioning import ConditionConfig
from taming_jax.data.config import AS_SET, DataConfig, Needs, check_missing
from taming_jax.data.pipeline import num_labels
from taming_jax.models.discriminator import Discriminator, DiscriminatorConfig
from taming_jax.models.feature_discriminator import FeatureDiscriminator, FeatureDiscriminatorConfig
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.priors.base import TokenLossConfig
from taming_jax.priors.filters import FILTER_NAMES, Filters, check_guidance, with_filters
from taming_jax.priors.rejection import rounds_for
from taming_jax.settings import PathText, below, check, from_dict, to_dict
from taming_jax.sharding import MeshConfig
from taming_jax.training.loop import TrainConfig
from taming_jax.training.optim import DiscOptimizerConfig, OptimizerConfig, make_optimizer
from taming_jax.training.transformer import TransformerTraining
from taming_jax.training.vqgan import VQGANTraining
from taming_jax.training.vqgan_loss import VQGANLossConfig
from taming_jax.two_stage import TwoStage


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """What `sample.py` draws.

    n: images in all, spread over the classes. per_class: this many of each class instead. classes: numbers or names
    with commas between them, empty for all. batch_size: drawn at once. temperature 0 is greedy; top_k, top_p: None for
    no limit. guidance, guidance_schedule, guidance_power, guidance_interval, steps, choice_temperature: see
    `priors.filters.Filters`; guidance above 1 needs condition dropout in training.
    stride: rows and columns that a sliding window moves at a time; above 1 faster, but an approximation.
    size: height and width in pixels, () for the size of the condition or of the training images; others than the
    training's are drawn by a sliding window.
    condition: for maps and objects, a file or a folder to read them from: label maps (PNG), depth (PNG, NPY),
    photographs for edges, low_res and image, pose maps (NPY), JSON lists of objects; empty for the validation data of
    the training. unlabelled: the value in label maps for "no label", -1 for none; missing: the values in depth maps for
    "nothing measured", as in DataConfig; None: as in training.
    complete: a picture to complete; keep: its mask, top, bottom, left, right or a file (a picture, white where
    it stays), empty for all of it, which `size` then extends to the right and downwards.
    scorer, accept: rejection sampling by a function "module:function" that keeps the best share `accept` of the images
    of a condition (see taming_jax.priors.rejection). animate: also a GIF of the order in which each image was drawn.
    out: the folder, empty for `samples` in the working directory. step: the checkpoint, "" for the newest, "best" for
    the best by its metric. mesh: of the devices that draw; `tensor` for a transformer that is too large for one.
    """

    n: int = 16
    per_class: int | None = None
    classes: str = ""
    seed: int = 0
    batch_size: int = 16
    size: tuple[int, ...] = ()
    condition: PathText = ""
    unlabelled: int | None = None
    missing: str | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0
    guidance_schedule: str = "constant"
    guidance_power: float = 1.0
    guidance_interval: tuple[int, ...] = ()
    steps: int | None = None
    choice_temperature: float | None = None
    stride: int = 1
    complete: PathText = ""
    keep: PathText = ""
    scorer: str = ""
    accept: float = 1.0
    animate: bool = False
    out: PathText = ""
    step: str = ""
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        self.filters()  # refuses what cannot be drawn with
        for name in ("n", "batch_size"):
            check(self, name, getattr(self, name) >= 1, "it must be at least 1")
        check(self, "per_class", self.per_class is None or self.per_class >= 1, "it must be at least 1, or None")
        sides = len(self.size) in (0, 2) and min(self.size, default=1) >= 1
        check(self, "size", sides, "it must be (height, width) in pixels, or ()")
        known = self.unlabelled is None or -1 <= self.unlabelled <= 255
        check(self, "unlabelled", known, "it must be 0 to 255, -1, or None")
        check_missing(self)
        rounds_for(self.accept)
        together = f"it goes together with a share below 1 to keep, and accept={self.accept}"
        check(self, "scorer", (self.accept < 1) == bool(self.scorer), together)
        check(self, "keep", bool(self.complete) or not self.keep, "it needs the picture, in complete")

    def filters(self) -> Filters:
        """How tokens are drawn. Raises ValueError for what cannot be drawn with."""
        return Filters(**{name: getattr(self, name) for name in FILTER_NAMES})


def saved_filters(config: Mapping[str, Any]) -> Filters:
    """The filters of a checkpoint's settings. Raises ValueError for what cannot be drawn with."""
    said = with_filters(config.get("sample", {}))
    return from_dict(Filters, {name: said[name] for name in FILTER_NAMES}, "config.sample")


@dataclasses.dataclass(frozen=True)
class VQGANExperiment:
    """A training of the first stage. workdir: where `--workdir` is not given.

    init_from: the directory of a model to start from, such as a converted one, with its discriminators.
    freeze: "encoder" keeps encoder, quantizer and codes of init_from bit for bit, and trains the decoder alone.
    usage_window: how many of the last ids are kept, to log the use of codes over them; 0: none.
    """

    workdir: PathText
    data: DataConfig
    init_from: PathText = ""
    freeze: str = ""
    usage_window: int = 0
    model: VQGANConfig = VQGANConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    feature_discriminator: FeatureDiscriminatorConfig = FeatureDiscriminatorConfig()
    loss: VQGANLossConfig = VQGANLossConfig()
    optimizer: OptimizerConfig = OptimizerConfig(b1=0.5, b2=0.9)
    disc_optimizer: DiscOptimizerConfig = DiscOptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        with below("optimizer"):
            has_none = "a first stage has no table of tokens, and its codes do not decay"
            check(self.optimizer, "decay_embeddings", not self.optimizer.decay_embeddings, has_none)
        with below("disc_optimizer"):
            self.disc_optimizer.beside(self.optimizer)  # refuses what cannot be

    def training(self) -> VQGANTraining:
        """Of these networks. Raises ValueError where the settings do not fit one another."""
        data, loss = self.data, self.loss
        make = partial(make_optimizer, batch_size=data.batch_size, steps=self.train.steps)
        return VQGANTraining(
            model=VQGAN(self.model),
            discriminator=Discriminator(self.discriminator) if loss.disc_weight else None,
            feature_discriminator=FeatureDiscriminator(self.feature_discriminator) if loss.feature_weight else None,
            loss=loss,
            optimizer=make(self.optimizer),
            disc_optimizer=make(self.disc_optimizer.beside(self.optimizer)) if loss.adversarial else None,
            batch_shape=(data.batch_size, *data.sides, self.model.in_channels),
            accumulate=self.optimizer.accumulate,
            ema_decay=self.optimizer.ema_decay,
            seed=self.train.seed,
            init_from=self.init_from,
            freeze=self.freeze,
            usage_window=self.usage_window,
            sizes=data.sizes,
        )

    @property
    def needs(self) -> Needs:
        """What the network reads of the data."""
        return Needs(self.model.reads.annotations)

    def check_channels(self) -> None:
        """Raise ValueError where the network reads another number of channels than the data has."""
        expected = self.model.reads.data_channels(num_labels(self.data, self.needs), self.data.channels)
        if expected and self.model.in_channels != expected:
            image = self.model.content == "image"
            raise ValueError(
                f"config.model.in_channels={self.model.in_channels}, but the data's {self.model.content} has "
                f"{expected} channels{' (config.data.channels)' if image else ''}; set it and out_channels to that."
            )


@dataclasses.dataclass(frozen=True)
class TransformerExperiment:
    """A training of the second stage, and what `sample.py` draws from it.

    first_stage: the working directory of a trained first stage. prior: a name of `priors.PRIORS`. order: a name of
    `nn.orders.ORDERS`.
    pkeep: share of input image ids kept in training. condition_dropout: share of training images whose condition is
    hidden, for classifier-free guidance; takes one id more. init_from: the directory of a second stage to start from.
    remap: a list of the codes that the data uses, made by `taming_jax.codes_used`, so that the vocabulary can be as
    small; unknown: where other codes go, see `nn.quantizers.Remap`.
    """

    workdir: PathText
    first_stage: PathText
    data: DataConfig
    init_from: PathText = ""
    transformer: GPTConfig = GPTConfig()
    condition: ConditionConfig = ConditionConfig()
    prior: str = "autoregressive"
    order: str = "row_major"
    pkeep: float = 1.0
    condition_dropout: float = 0.0
    remap: PathText = ""
    unknown: str = "random"
    optimizer: OptimizerConfig = OptimizerConfig(weight_decay=0.01)
    token_loss: TokenLossConfig = TokenLossConfig()
    mesh: MeshConfig = MeshConfig()
    train: TrainConfig = TrainConfig()
    sample: SampleConfig = SampleConfig()

    def __post_init__(self) -> None:
        with below("sample"):
            check_guidance(self.sample.guidance, self.condition_dropout)  # training draws with it, but not at once
        with below("data"):
            check(self.data, "sizes", not self.data.sizes, "a second stage learns from images of one size")

    def training(self, model: TwoStage) -> TransformerTraining:
        """Of the transformer of this model."""
        optimizer = make_optimizer(self.optimizer, batch_size=self.data.batch_size, steps=self.train.steps)
        return TransformerTraining(
            model=model,
            optimizer=optimizer,
            accumulate=self.optimizer.accumulate,
            ema_decay=self.optimizer.ema_decay,
            seed=self.train.seed,
            init_from=self.init_from,
            loss=self.token_loss,
        )


def saved_form(experiment: VQGANExperiment | TransformerExperiment, needs: Needs = AS_SET) -> Mapping[str, Any]:
    """The JSON that goes into a checkpoint.

    needs: of the training. The saved settings of the data meet them, so that they alone give batches as in training.
    """
    kind = "two_stage"
    if isinstance(experiment, VQGANExperiment):
        kind, experiment = "vqgan", dataclasses.replace(experiment, model=experiment.model.settled)
    return {"kind": kind, **to_dict(experiment), "data": to_dict(experiment.data.meeting(needs))}
