"""What has changed in a configuration since a training was saved: what does no harm, and what must not go unseen."""

import re
from collections.abc import Mapping
from typing import Any

from taming_jax.differences import flat

# By the path of a setting; the first pattern that matches counts. What matches none changes how training goes on.
RULES: tuple[tuple[str, str], ...] = (
    (r"(mesh|sample)\.|workdir$|first_stage$|init_from$", "harmless"),  # the last two are of the start only
    (r"train\.(?!seed$)", "harmless"),
    (r"data\.(workers|download|n_val|val_resize)$|(model|transformer)\.remat$|transformer\.attention$", "harmless"),
    (
        r"data\.(path|root|val_path|maps|depths|boxes|val_boxes)$|loss\.(lpips|feature)_path$|condition\.stage$|remap$",
        "place",
    ),
    (r"(model|discriminator|transformer)\.(dtype|residual_dtype|\w*dropout|drop_path)$", "training"),
    (r"model\.(beta|legacy_beta|kl_weight|ema_\w+|entropy_\w+|estimator)$", "training"),  # fit any saved state
    (r"model\.kmeans$", "harmless"),  # of the first step only
    # Their arrays are there, or not.
    (
        r"optimizer\.(ema_decay|skip_above)$|loss\.(disc_weight|feature_weight|lecam_weight|guard)$|model\.restart_below$",
        "switch",
    ),
    (r"usage_window$", "model"),  # the size of such an array
    (r"(model|(feature_)?discriminator|transformer|condition)\.|kind$|order$|prior$", "model"),
)


def compare(saved: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, list[str]]:
    """The differences of two saved forms of an experiment, in words, by what they mean: "harmless", "training" (the
    same model, trained otherwise) or "model" (another model). A setting that only one of them knows is no difference.
    """
    found: dict[str, list[str]] = {"harmless": [], "training": [], "model": []}
    before, now = flat(saved), flat(given)
    for path in sorted(before.keys() & now.keys()):
        if before[path] != now[path]:
            meaning = _meaning(path, before[path], now[path], now["kind"])
            if meaning == "harmless" and (_matters(path, before) or _matters(path, now)):
                meaning = "training"
            found[meaning].append(f"config.{path}: saved {before[path]!r}, given {now[path]!r}")
    return found


def _matters(path: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting that is harmless elsewhere has a say in how a training with these settings goes on."""
    if path == "train.steps":
        return settings.get("optimizer.schedule") == "cosine"  # which ends with them
    if path in ("train.eval_every", "data.n_val", "data.val_resize"):
        return bool(settings.get("loss.guard"))  # which heeds what evaluations find
    return False


def _meaning(path: str, before: Any, now: Any, kind: str) -> str:
    if path == "data.size" and kind == "two_stage":  # the length of the sequences
        return "model"
    rule = next((meaning for pattern, meaning in RULES if re.match(pattern, path)), "training")
    if rule == "switch":
        return "training" if bool(before) == bool(now) else "model"
    if rule != "place":
        return rule
    # Files may have moved; but they have not come or gone, and `first_stage` is no place.
    same = bool(before) == bool(now) and "first_stage" not in (before, now)
    return "harmless" if same else "model" if path == "condition.stage" else "training"
