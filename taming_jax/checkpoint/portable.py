"""Models as hubs keep them: config.json and model.safetensors, a folder for each network, and a model card."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from taming_jax.checkpoint.paths import FOLDER
from taming_jax.differences import few
from taming_jax.files import safetensors_arrays, write_whole
from taming_jax.limits import read_bytes, read_json
from taming_jax.settings import as_saved

CONFIG, WEIGHTS = "config.json", "model.safetensors"
DTYPES = ("float32", "float16", "bfloat16")  # in which parameters are written
HUB = "hf://"
LARGEST = 1 << 40  # bytes of WEIGHTS
PACKAGED = Path(__file__).parents[1] / "pretrained"
PRETRAINED = ("landscapes", "landscapes_class")  # the models that the package carries, by the names of their folders
REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def is_portable(path: str) -> bool:
    """Whether a directory holds a model in this form."""
    return all((epath.Path(path) / name).is_file() for name in (CONFIG, WEIGHTS))


def write_portable(folder: Path, params: Any, config: Mapping[str, Any], dtype: str = "float32") -> None:
    """Write one network, its arrays in `dtype`, one of DTYPES. Raises ValueError for another one, and for numbers
    that have no place in it."""
    from safetensors.numpy import save_file

    dtype = known_dtype(dtype)
    flat = flatten_dict(jax.device_get(params), sep="/")
    with np.errstate(over="ignore"):  # told below
        arrays = {name: np.ascontiguousarray(array, jnp.dtype(dtype)) for name, array in flat.items()}
    beyond = [name for name, array in arrays.items() if np.isfinite(flat[name]).all() > np.isfinite(array).all()]
    if beyond:
        raise ValueError(f"dtype={dtype!r} cannot hold the numbers of {few(beyond, most=3)}; take bfloat16 or float32.")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / WEIGHTS)
    text = json.dumps({"library_name": "taming_jax", **config}, indent=2)
    write_whole(folder / CONFIG, text + "\n")


def known_dtype(dtype: Any) -> str:
    """The name of a type that `write_portable` writes. Raises ValueError for another one."""
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = ""
    if name not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown; known: {', '.join(DTYPES)}.")
    return name


def read_config(path: str) -> dict[str, Any]:
    """The configuration of a model in this form. Raises ValueError where it is none of this project."""
    config = read_json(epath.Path(path) / CONFIG)
    if not isinstance(config, dict) or config.get("library_name") != "taming_jax" or "kind" not in config:
        raise ValueError(
            f"{path!r} holds a model of another library; python -m taming_jax.convert makes one of this of those that "
            "it knows."
        )
    config = {name: value for name, value in config.items() if name != "library_name"}
    return {**config, "data": as_saved(config["data"])} if "data" in config else config


def read_params(path: str, dtype: Any = None) -> Any:
    """The parameters, cast to `dtype`, default float32. Raises ValueError for a damaged file, and for arrays of numbers
    that are no parameters."""
    file = epath.Path(path) / WEIGHTS
    try:
        flat = safetensors_arrays(read_bytes(file, LARGEST))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is damaged: {error}; get it again") from error
    foreign = [
        f"{name} ({array.dtype})" for name, array in flat.items() if not jnp.issubdtype(array.dtype, jnp.floating)
    ]
    if foreign:
        raise ValueError(
            f"{str(file)!r} holds arrays that are no floats: {few(foreign, most=3)}; write it anew in one of "
            f"{', '.join(DTYPES)}."
        )
    if within := [name for name in flat if any(name[:i] in flat for i, c in enumerate(name) if c == "/")]:
        raise ValueError(f"{str(file)!r} has arrays within another one, {few(within, most=3)}; write it anew.")
    return unflatten_dict({name: a.astype(dtype or np.float32, copy=False) for name, a in flat.items()}, sep="/")


def fetched(path: str) -> str:
    """The folder of this machine that holds hf://OWNER/NAME[@REVISION], through huggingface_hub, which keeps what it
    has got; of a model that the package carries (`PRETRAINED`; "/first_stage" of one, too), where the working folder
    has no model of that name; other paths as they are. Raises ValueError where that library is missing or fails."""
    if not path.startswith(HUB):
        name, here = path.split("/")[0], epath.Path(path)
        trained = (here / FOLDER).is_dir() or (here / CONFIG).exists()  # a report beside it is no model
        return str(PACKAGED / path) if name in PRETRAINED and not trained else path
    named = REPOSITORY.fullmatch(path.removeprefix(HUB))
    if not named:
        raise ValueError(f"{path!r} names no model of a hub; expected hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(f"{path!r} needs the package huggingface_hub; pip install huggingface_hub") from error
    files = [f"*{name}" for name in (CONFIG, WEIGHTS, "README.md")]
    try:
        return str(huggingface_hub.snapshot_download(named[1], revision=named[2], allow_patterns=files))
    except Exception as error:  # of the network, of the hub, of rights: the library has many kinds
        raise ValueError(f"{path!r} could not be fetched: {' '.join(str(error).split())[:300]}") from error


def beside(path: str, name: str) -> str:
    """The folder of results in the directory of a model. Raises ValueError for one of a hub, which takes none."""
    if path.startswith(HUB):
        raise ValueError(
            f"{path!r} is on a hub, where no {name} can be written; name a folder for them: --out or sample.out"
        )
    return str(epath.Path(path) / name)


@dataclasses.dataclass(frozen=True)
class Card:
    """What a model card says: the licence by its name on the hub, such as "mit", the data, figures by their names, and
    more in words."""

    licence: str = ""
    data: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    words: str = ""


def write_card(folder: Path, title: str, config: Mapping[str, Any], card: Card) -> None:
    """README.md of a model in this form. What nobody said is said to be unknown."""
    settings = config.get("transformer") or config.get("model") or {}
    data = card.data or config.get("data", {}).get("path", "") or config.get("data", {}).get("source", "")
    origin = config.get("original", {})
    come = f" Converted from {origin['file']} ({origin.get('format', 'original')})." if "file" in origin else ""
    head = ["---", f"license: {card.licence or 'unknown'}", "library_name: taming_jax"]
    head += ["tags: [taming_jax, vqgan, image-generation, jax]", "---", ""]
    body = [f"# {title}", "", f"A model of kind `{config['kind']}` for taming_jax.{come}", "", card.words, ""]
    body += ["```python", "import taming_jax", "", 'model = taming_jax.load("THIS_FOLDER")', "```", ""]
    body += ["## Data", "", data or "Unknown.", "", "## Metrics", ""]
    body += [f"- {name}: {value:.6g}" for name, value in card.metrics.items()] or ["None were measured."]
    body += ["", "## Settings", "", *(f"- `{name}`: `{value!r}`" for name, value in settings.items())]
    body += ["", "## Licence", "", card.licence or "Unknown: ask whoever trained it.", ""]
    write_whole(folder / "README.md", "\n".join([*head, *body]))
