"""The programs of both stages as they are compiled for real, with arrays that are shapes alone: nothing is loaded.

What is compiled is what the programs run: the step of `training.loop`, the functions of `trained.evaluation`, and
those of `trained.sampler`, with the shardings that these give.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from taming_jax import sharding
from taming_jax.data.config import DataConfig
from taming_jax.data.records import blank_record
from taming_jax.experiment import SampleConfig, TransformerExperiment, VQGANExperiment, saved_form
from taming_jax.models.gpt import cast_layers, with_layers_apart
from taming_jax.models.lpips import LPIPS, SMALLEST
from taming_jax.models.vqgan import VQGAN
from taming_jax.priors.base import Job, traced_for
from taming_jax.priors.window import go_on, schedule_for, start_walk
from taming_jax.trained.evaluation import make_image_eval, make_token_eval
from taming_jax.trained.loading import two_stage
from taming_jax.trained.sampler import rows_at_once
from taming_jax.trained.stages import condition_needs
from taming_jax.two_stage import TwoStage

PROGRAMS = ("train", "eval", "sample", "window")


@dataclasses.dataclass(frozen=True)
class Program:
    """A function with abstract arguments, as `jax.jit` takes them.

    per, times: what one run consists of, such as the drawing of a token by all images, and how many there are.
    trips: of loops that end at run time, see `costs.costs`.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    mesh: jax.sharding.Mesh
    options: Mapping[str, Any]
    per: str = "step"
    times: float = 1
    trips: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def lower(self) -> Any:
        """Traced and lowered for the devices of the mesh."""
        with jax.set_mesh(self.mesh):
            return jax.jit(self.function, **self.options).lower(*self.arguments)


def first_stage_program(experiment: VQGANExperiment, mesh: jax.sharding.Mesh, name: str) -> Program:
    """`train` or `eval` of a first stage. Raises ValueError for another program."""
    training, data = experiment.training(), experiment.data.meeting(experiment.needs)
    state = placed(jax.eval_shape(training.init, _key()), mesh)
    lpips = replicated(_lpips(), mesh) if experiment.loss.perceptual_weight else None
    heads = training.feature_discriminator
    frozen = {"lpips": lpips, "features": replicated(heads.network_shapes(), mesh) if heads else None}
    points = experiment.model.in_channels if experiment.model.content == "pose" else 0
    if name == "train":
        return _training_program(training, state, frozen, batch_of(data, mesh, points=points), mesh)
    if name == "eval":
        arguments = (state.params, batch_of(data, mesh, points=points, valid=True), lpips)
        return Program(make_image_eval(training.model), arguments, mesh, {}, "batch")
    raise ValueError(f"--program={name!r} is none of a first stage; known: train, eval.")


def second_stage_program(
    experiment: TransformerExperiment, first: VQGAN, second: VQGAN | None, mesh: jax.sharding.Mesh, name: str
) -> Program:
    """A program of a second stage on these networks. Raises ValueError for an unknown one, or what does not fit."""
    model = two_stage(saved_form(experiment), first, second)
    training, needs = experiment.training(model), condition_needs(experiment.condition)
    state = placed(jax.eval_shape(training.init, _key()), mesh)
    networks = {"first_stage": first, **({"condition_stage": second} if second else {})}
    stages = {key: placed(_params(network), mesh) for key, network in networks.items()}
    if name in ("train", "eval"):
        batch = _codes(model, experiment.data, mesh) or batch_of(experiment.data.meeting(needs), mesh)
        if name == "train":
            return _training_program(training, state, stages, batch, mesh)
        batch["valid"] = jax.ShapeDtypeStruct(
            (experiment.data.batch_size,), jnp.bool_, sharding=sharding.batch_sharding(mesh)
        )
        return Program(make_token_eval(model), (state.params, stages, batch), mesh, {}, "batch")
    apart = dataclasses.replace(model, gpt=with_layers_apart(model.gpt))
    if name == "sample":
        return _sampling_program(apart, experiment.sample, mesh)
    if name == "window":
        return _window_program(apart, experiment.sample, mesh)
    raise ValueError(f"--program={name!r} is unknown; known: {', '.join(PROGRAMS)}.")


def _training_program(training: Any, state: Any, frozen: Any, batch: Any, mesh: jax.sharding.Mesh) -> Program:
    options = {"donate_argnums": 0, "out_shardings": (jax.tree.map(lambda x: x.sharding, state), None)}
    return Program(training.step, (state, frozen, batch), mesh, options)


def _sampling_program(model: TwoStage, settings: SampleConfig, mesh: jax.sharding.Mesh) -> Program:
    job = _job(model, settings, mesh, model.grid)
    options = {"out_shardings": sharding.replicated(mesh)}
    steps = model.prior.steps(settings.filters())
    return Program(model.prior.sample, (_drawing_params(model, mesh), job), mesh, options, "token", steps)


def _window_program(model: TwoStage, settings: SampleConfig, mesh: jax.sharding.Mesh) -> Program:
    factor = model.first_stage.config.factor
    if len(settings.size) != 2:
        raise ValueError("--program=window needs config.sample.size, the height and width of the images in pixels.")
    grid = model.first_stage.config.grid(settings.size[0], settings.size[1])
    if grid == model.grid:
        raise ValueError(
            f"config.sample.size={settings.size} are {grid} codes, those of training, which are drawn without a "
            f"window; ask for another size, a multiple of {factor}."
        )
    job = _job(model, settings, mesh, grid)
    schedule = schedule_for(
        model.prior, job.condition.shape, job.given.shape, stride=settings.stride, together=max(grid)
    )
    chunks = [int(passes.bounds[-1]) for passes in schedule.passes]
    trips: dict[str, float] = {f"pass_{kind}/while": n / schedule.steps for kind, n in enumerate(chunks)}
    abstract = replicated(schedule, mesh)
    walk = jax.eval_shape(functools.partial(start_walk, model.prior), job, abstract)
    shardings = sharding.batch_sharding(mesh), sharding.batch_sharding(mesh, axis=1)
    ids = jax.ShapeDtypeStruct(walk[0].shape, walk[0].dtype, sharding=shardings[0])
    kept = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings[1]), walk[1])
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(mesh))
    arguments = (_drawing_params(model, mesh), job, abstract, (ids, kept), step, step)
    options = {"donate_argnums": 3, "out_shardings": shardings}
    trips["while"] = schedule.steps
    return Program(functools.partial(go_on, model.prior), arguments, mesh, options, "row of codes", grid[0], trips)


def _job(model: TwoStage, settings: SampleConfig, mesh: jax.sharding.Mesh, grid: tuple[int, int]) -> Job:
    """What is drawn at once, `batch_size` images of a grid."""
    sliding, where = grid != model.grid, sharding.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        n = sharding.filled_up(settings.batch_size, mesh, 1 if sliding else rows_at_once())
    array: Any = lambda shape, dtype: jax.ShapeDtypeStruct((n, *shape), dtype, sharding=where)
    places = model.condition.grid
    condition = (model.condition.length,) if places is None else grid if sliding else places
    return Job(
        condition=array(condition, jnp.int32),
        given=array(grid, jnp.int32),
        keep=array(grid, jnp.bool_),
        key=replicated(_key(), mesh),
        numbers=array((), jnp.int32),
        filters=replicated(traced_for(model.prior, settings.filters(), grid), mesh),
    )


def batch_of(data: DataConfig, mesh: jax.sharding.Mesh, *, points: int = 0, valid: bool = False) -> dict[str, Any]:
    """A batch as `pipeline.make_batches` gives it, by the shapes of a record. points: key points of a figure."""
    record, where = blank_record(data, points), sharding.batch_sharding(mesh)
    dtypes = {"image": np.dtype(np.float32), "segmentation": np.dtype(np.int32)}
    arrays = {name: np.asarray(value) for name, value in record.items() if valid or name != "valid"}
    return {
        name: jax.ShapeDtypeStruct((data.batch_size, *x.shape), dtypes.get(name, x.dtype), sharding=where)
        for name, x in arrays.items()
    }


def _codes(model: TwoStage, data: DataConfig, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """A batch of codes, where the data is codes; else {}."""
    if data.source != "codes":
        return {}
    condition = model.condition.grid or (model.condition.length,)
    shapes = {"codes": model.grid, "condition_codes": condition, "class_label": ()}
    where = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((data.batch_size, *shape), jnp.int32, sharding=where)
        for name, shape in shapes.items()
    }


def placed(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shapes with the shardings that the rules name."""
    return _with(tree, sharding.state_shardings(tree, mesh))


def replicated(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shapes of arrays that are whole on every device."""
    return _with(tree, jax.tree.map(lambda _: sharding.replicated(mesh), tree))


def _with(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=s), tree, shardings)


def _drawing_params(model: TwoStage, mesh: jax.sharding.Mesh) -> Any:
    """The transformer's parameters as `sample.py` holds them."""
    params = jax.eval_shape(model.prior.init, _key())
    return placed(jax.eval_shape(lambda params: cast_layers(params, model.gpt.config.dtype), params), mesh)


def _params(network: VQGAN) -> Any:
    config = network.config
    image = jax.ShapeDtypeStruct((1, config.resolution, config.resolution, config.in_channels), jnp.float32)
    return jax.eval_shape(network.init, _key(), image)["params"]


def _lpips() -> Any:
    image = jax.ShapeDtypeStruct((1, SMALLEST, SMALLEST, 3), jnp.float32)
    return jax.eval_shape(LPIPS().init, _key(), image, image)["params"]


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def with_classes_assumed(experiment: TransformerExperiment) -> TransformerExperiment:
    """Where the number of classes is the data's matter, one class: the tables are as long as the codes need anyway."""
    condition = experiment.condition
    if condition.kind in ("class_label", "boxes", "points") and condition.n_classes == 0:
        condition = dataclasses.replace(condition, n_classes=1)
    return dataclasses.replace(experiment, condition=condition)
