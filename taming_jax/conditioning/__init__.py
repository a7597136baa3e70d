"""What an image can be conditioned on: how long each kind is, its vocabulary, and how a batch becomes tokens.

Condition tokens stand before the image's in the transformer's sequence and share its embedding table with no offset
(paper, section 3.2). To add a kind: write a class with the members of `Condition`, and name it in `CONDITIONS` and
`make_condition`.
"""

from typing import Any

from taming_jax.conditioning.base import Condition, ConditionConfig
from taming_jax.conditioning.coordinate import Coordinate
from taming_jax.conditioning.files import LABEL_MAP
from taming_jax.conditioning.labels import ClassLabel, NoCondition
from taming_jax.conditioning.objects import ObjectsCondition
from taming_jax.conditioning.spatial import KINDS, LowResolution, StageCondition, resize_nearest
from taming_jax.models.content import CONTENTS
from taming_jax.models.vqgan import VQGAN
from taming_jax.settings import Size, sides

__all__ = [
    "CONDITIONS",
    "KINDS",
    "ClassLabel",
    "Condition",
    "ConditionConfig",
    "Coordinate",
    "LowResolution",
]
__all__ += [
    "NoCondition",
    "ObjectsCondition",
    "StageCondition",
    "annotations_of",
    "has_stage",
    "make_condition",
    "resize_nearest",
]

CONDITIONS = ("none", "class_label", "coordinate", *KINDS, "boxes", "points")


def annotations_of(config: ConditionConfig) -> tuple[str, ...]:
    """The `annotations` of a condition, before there is one; () for an unknown kind."""
    if config.kind in KINDS:
        beside = ClassLabel.annotations if config.n_classes else ()
        return (*CONTENTS[KINDS[config.kind].contents[0]].annotations, *beside)
    others: dict[str, Any] = {"class_label": ClassLabel, "coordinate": Coordinate}
    others |= {"boxes": ObjectsCondition, "points": ObjectsCondition}
    return others[config.kind].annotations if config.kind in others else ()


def has_stage(config: ConditionConfig) -> bool:
    """Whether the condition is read by a first stage of its own. Raises ValueError where none is named."""
    if config.kind in KINDS and not config.stage:
        raise ValueError(
            f"config.condition.kind={config.kind!r} needs config.condition.stage: the working directory of the first "
            "stage that reads it, or 'first_stage' for the image's own."
        )
    return config.kind in KINDS and config.stage != "first_stage"


def make_condition(
    config: ConditionConfig, first_stage: VQGAN, size: Size, stage: VQGAN | None = None, color_profiles: bool = True
) -> Condition:
    """The condition that the settings name, for training images of `size`, a side or (height, width) in pixels.

    stage: the network that reads it, where `has_stage`. color_profiles: as in `DataConfig`. Raises ValueError for an
    unknown kind, a missing setting, or parts that do not fit.
    """
    if config.kind == "none":
        return NoCondition()
    if config.kind in ("class_label", "boxes", "points"):
        _check_classes(config)
    if config.kind == "class_label":
        return ClassLabel(config.n_classes, config.class_names)
    if config.kind == "coordinate":
        height, width = sides(size)
        if height % config.factor or width % config.factor:
            raise ValueError(f"config.condition.factor={config.factor} does not divide the images' {size} pixels.")
        return Coordinate(config.n_codes, config.factor, (height // config.factor, width // config.factor))
    if config.kind in ("boxes", "points"):
        return ObjectsCondition(
            centres=config.kind == "points",
            n_classes=config.n_classes,
            names=config.class_names,
            places=config.n_codes,
            max_objects=config.max_objects,
            encode_crop=config.encode_crop,
            group_flag=config.group_flag,
            more_flags=config.more_flags,
        )
    if config.kind in KINDS:
        own = has_stage(config)
        network = stage if own else first_stage
        assert network is not None
        _check_stage(config, network, first_stage)
        if config.size and isinstance(config.size, int) and not isinstance(size, int):
            raise ValueError(
                f"config.condition.size={config.size} is the side of a square, but the images are {size}; give "
                "(height, width) of that shape."
            )
        parts = (config.kind, network, own, size, config.size, first_stage.config.in_channels)
        beside = {**_class_beside(config, network), "color_profiles": color_profiles}
        if config.kind == "low_res":
            if any(side % config.scale for side in sides(size)):
                raise ValueError(f"config.condition.scale={config.scale} does not divide the images' {size} pixels.")
            return LowResolution(*parts, **beside, scale=config.scale)
        return StageCondition(*parts, **beside)
    raise ValueError(f"config.condition.kind={config.kind!r} is unknown; known: {', '.join(CONDITIONS)}.")


def _class_beside(config: ConditionConfig, stage: VQGAN) -> dict[str, Any]:
    """Of a map, as fields of its condition. Raises ValueError for labels that the map does not have, and for another
    number of them than of classes."""
    if not config.n_classes:
        return {}
    _check_classes(config)
    labels, named = stage.config.in_channels if KINDS[config.kind].file is LABEL_MAP else 0, config.class_from
    if named and (len(named) != config.n_classes or not all(0 <= label < labels for label in named)):
        raise ValueError(
            f"config.condition.class_from={named}; expected one of the {labels} labels of the map for each of the "
            f"{config.n_classes} classes, or ()."
        )
    return {"classes": ClassLabel(config.n_classes, config.class_names), "class_from": named}


def _check_classes(config: ConditionConfig) -> None:
    if config.n_classes < 1:
        raise ValueError(
            f"config.condition.n_classes={config.n_classes}; {config.kind} needs at least 1: set it to the number of "
            "classes of the data."
        )
    if config.class_names and len(config.class_names) != config.n_classes:
        raise ValueError(
            f"config.condition has {len(config.class_names)} class_names for n_classes={config.n_classes}."
        )


def _check_stage(config: ConditionConfig, stage: VQGAN, first_stage: VQGAN) -> None:
    """Raise ValueError where the network cannot read this kind of map of the images that the first stage reads."""
    contents = KINDS[config.kind].contents
    if stage.config.content not in contents:
        raise ValueError(
            f"config.condition.stage={config.stage!r} reads {stage.config.content}, but config.condition.kind="
            f"{config.kind!r} needs one that reads {' or '.join(contents)}."
        )
    channels = first_stage.config.in_channels
    if contents == ("image",) and channels not in (1, stage.config.in_channels):  # grey ones are read as any
        raise ValueError(
            f"config.condition.stage={config.stage!r} reads images of {stage.config.in_channels} channels, but those "
            f"of config.first_stage have {channels}; name one that reads as many, such as 'first_stage'."
        )
