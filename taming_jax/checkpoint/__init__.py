"""Checkpoints, and the only folder that knows Orbax.

A working directory holds `checkpoints/STEP/{params,train,config,sums}`: `params` is what loading the model needs,
`train` the rest of the training state, `config` the whole configuration as JSON, and `sums` tells whether all of it is
still as it was saved. So a directory can be read knowing only its path.
"""

from taming_jax.checkpoint.event_loops import wait_for_all_tasks
from taming_jax.checkpoint.failures import DamagedCheckpoint, MissingCheckpoint, quiet_orbax
from taming_jax.checkpoint.paths import FOLDER, check_path
from taming_jax.checkpoint.portable import beside
from taming_jax.checkpoint.read import (
    find_step,
    has_checkpoint,
    load_config,
    load_discriminator,
    load_params,
    shape_difference,
)
from taming_jax.checkpoint.saved import Saved, has_model, open_saved, with_newest
from taming_jax.checkpoint.store import CONDITION_STAGE, DAMAGED, FIRST_STAGE, Checkpoints, save_model

__all__ = [
    "CONDITION_STAGE",
    "DAMAGED",
    "FIRST_STAGE",
    "FOLDER",
    "Checkpoints",
    "DamagedCheckpoint",
    "MissingCheckpoint",
    "Saved",
    "beside",
    "check_path",
    "find_step",
    "has_checkpoint",
    "has_model",
    "load_config",
    "load_discriminator",
    "load_params",
    "open_saved",
    "quiet_orbax",
    "save_model",
    "shape_difference",
    "with_newest",
]

wait_for_all_tasks()
