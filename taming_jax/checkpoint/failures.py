"""Reading and saving that fails: what counts as damage of a checkpoint, and how it is said."""

import contextlib
import errno
import json
import logging
import os
import re
import time
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from taming_jax.checkpoint.paths import complete_steps
from taming_jax.checkpoint.sums import WrongSum
from taming_jax.files import printable

REMOVING = 10  # tenths of a second that removing a checkpoint may take


class DamagedCheckpoint(ValueError):
    """A checkpoint that is complete, but cannot be read or is not as it was saved."""


class NoFile(ValueError):
    """A pipe or a device where a file should be."""


class MissingCheckpoint(ValueError):
    """A checkpoint that is not there, or no longer, as a training that keeps its newest ones removes the others."""


def _innermost(error: BaseException) -> BaseException:
    """What began it: Orbax wraps what fails, and several failures in groups."""
    while inner := error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__:
        error = inner
    return error


def _short(error: BaseException) -> str:
    """The innermost reason that Orbax gives, in one line: what was done stands at its beginning, why not at its end."""
    error = _innermost(error)
    text = printable(" ".join(str(error).split(" [tensorstore_spec=")[0].split())) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:97]} ... {text[-98:]}"


# How TensorStore begins to say that a file is missing, shorter than it was or cannot be decoded; where the operating
# system refuses to read one, its number stands behind.
_DAMAGE = re.compile(r"NOT_FOUND:|(DATA_LOSS|OUT_OF_RANGE|FAILED_PRECONDITION):(?!.*os_error_code)", re.DOTALL)


def _is_damage(error: BaseException) -> bool:
    """Whether reading failed by what the files are. Anything else, as a disk that does not answer, may pass."""
    error = _innermost(error)
    spoiled = (WrongSum, NoFile, FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError)
    return isinstance(error, spoiled) or bool(isinstance(error, ValueError) and _DAMAGE.match(str(error)))


def _no_room(error: BaseException) -> bool:
    """Whether writing failed since a disk or a quota is full."""
    error, full = _innermost(error), (errno.ENOSPC, errno.EDQUOT)
    told = any(f"os_error_code='{number}'" in str(error) for number in full)  # TensorStore's way
    return told or (isinstance(error, OSError) and error.errno in full)


@contextlib.contextmanager
def reading(folder: epath.Path, everywhere: bool = False) -> Iterator[None]:
    """Turns what goes wrong in reading a checkpoint into DamagedCheckpoint where its files are at fault, else OSError.

    everywhere: on all processes alike. What is read may then not wait for other processes: these would wait in vain
    for one that fails, and it for them.
    """
    failure: Exception | None = None
    try:
        _check_files(folder)
        yield
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise  # the devices' matter
    except Exception as error:
        failure = error
    worst = 0 if failure is None else 1 if _is_damage(failure) else 2
    if everywhere and jax.process_count() > 1:
        worst = int(np.max(multihost_utils.process_allgather(np.int32(worst))))
    if not worst:
        return
    which = f"the checkpoint of step {folder.name} in {str(folder.parent.parent)!r}"
    reason = _short(failure) if failure else "found by another process"
    if not everywhere and failure is not None and _removed(folder):
        raise MissingCheckpoint(
            f"{which} was removed meanwhile, as a training does that keeps its newest ones alone; the same command "
            "takes a newer one."
        ) from None
    if worst == 1:
        raise DamagedCheckpoint(
            f"{which} is damaged ({reason}); name another one, train on from an older one, or get its files again."
        ) from None  # the reason stands in it, and below it would be pages of Orbax
    kind = f"{type(failure).__name__}: " if failure else ""
    raise OSError(
        f"{which} could not be read ({kind}{reason}), which need not be its files' fault; remove the cause and give "
        "the same command again, or move this checkpoint away."
    ) from failure


def _check_files(folder: epath.Path) -> None:
    """Raise NoFile where something in a checkpoint is neither a folder nor a file, such as a pipe that one would wait
    at for ever."""
    waiting = [] if "://" in str(folder) else [str(folder)]
    while waiting:
        with contextlib.suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif not (entry.is_file() or entry.is_dir()) and os.path.exists(entry.path):
                    raise NoFile(f"{printable(entry.name)} is neither a file nor a folder")


def _removed(folder: epath.Path) -> bool:
    """Whether a checkpoint is no longer there. Where there are newer ones, one that is being removed is waited for."""
    newer = [step for step in complete_steps(folder.parent) if step > int(folder.name)]
    for _ in range(REMOVING if newer else 1):
        if not folder.exists():
            return True
        if newer:
            time.sleep(0.1)
    return False


def save_failure(step: int | None, workdir: str, intact: str, error: BaseException) -> OSError:
    """What Orbax says when a save fails, as one error; intact: which checkpoint can be gone back to."""
    when = "When there is room to write again" if _no_room(error) else "When the cause is removed"
    return OSError(
        f"The checkpoint of step {step} in {workdir!r} could not be saved ({_short(error)}). {intact} {when}, the same "
        "command goes on from there."
    )


def quiet_orbax() -> None:
    """Let Orbax tell only what nobody raises. Called again, it does nothing.

    It narrates each file that it touches, and shows errors that it raises as well; what a user can act on is raised
    here with our own words.
    """
    logging.getLogger("absl").addFilter(_worth_telling)


def _worth_telling(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname or (record.levelno >= logging.ERROR and not record.exc_info)
