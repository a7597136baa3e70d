"""Settings that change what a training takes and not what it learns, to be tried one after the other."""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MESHES = ({"data": -1, "fsdp": 1, "tensor": 1}, {"data": 1, "fsdp": -1, "tensor": 1})
PARTS = (1, 2, 4)  # config.optimizer.accumulate


def choices(settings: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(what is chosen, by the path of each setting; the settings with it): remat, parts and meshes."""
    second = "first_stage" in settings
    network, remats = ("transformer", ("", "dots", "block")) if second else ("model", (False, True))
    for mesh, parts, remat in itertools.product(MESHES if second else MESHES[:1], PARTS, remats):
        changed = copy.deepcopy(dict(settings))
        changed["mesh"].update(mesh)
        changed["optimizer"]["accumulate"] = parts
        changed[network]["remat"] = remat
        axes = {f"mesh.{axis}": size for axis, size in mesh.items() if size != 1}
        yield {f"{network}.remat": remat, "optimizer.accumulate": parts, **axes}, changed


def find(
    settings: Mapping[str, Any], compiled: Callable[[dict[str, Any]], dict[str, Any]], tell: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """All choices, the best first: those that fit, by the compiler's cycles, those that do not by what they would take.

    compiled: settings -> what is known of the program, as JSON; ValueError is a choice that cannot be made, such as
    parts that do not divide the batch. tell: is given a line after each.
    """
    found = []
    for chosen, changed in choices(settings):
        try:
            known = compiled(changed)
        except ValueError as error:
            tell(f"{words(chosen)}: {error}")
            continue
        found.append({"chosen": chosen, **known})
        tell(line(found[-1]))
    return sorted(found, key=_rank)


def _rank(found: Mapping[str, Any]) -> tuple[bool, float]:
    return not found["fits"], found["cycles"] if found["fits"] else found.get("peak_bytes", float("inf"))


def line(found: Mapping[str, Any]) -> str:
    """One choice, in a line."""
    takes = f"{found['peak_bytes'] / 1e9:.1f} GB" if "peak_bytes" in found else found["message"]
    if not found["fits"]:
        return f"does not fit: {takes}; {words(found['chosen'])}"
    moved = sum(row["bytes"] for row in found["collectives"]) / 1e9
    return f"{found['cycles'] / 1e6:.1f} M cycles, {takes}, collectives {moved:.1f} GB; {words(found['chosen'])}"


def words(chosen: Mapping[str, Any]) -> str:
    """As flags."""
    return " ".join(f"--config.{path}={value}" for path, value in chosen.items())
