"""How every program begins and ends: its log, errors in one line, exit codes, and what a signal does."""

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging as absl_logging
from tqdm import tqdm

from taming_jax import stopping
from taming_jax.files import printable
from taming_jax.memory import out_of_memory
from taming_jax.names import forgive_output


class Failed(SystemExit):
    """The program ends with an error that the user can mend; its line is printed already."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(code)
        self.line = line

    def __str__(self) -> str:
        return self.line


@contextlib.contextmanager
def readable_errors(code: int = 1) -> Iterator[None]:
    """An error within the block that the user can mend ends the program in one line, with this exit code."""
    try:
        yield
    except (ValueError, FloatingPointError, OSError) as error:
        fail(f"error: {printable(str(error))}", code)
    except Exception as error:
        if words := out_of_memory(error):
            fail(f"error: {words}", code)
        if not _several() or stopping.received():
            raise
        traceback.print_exc()
        fail(
            f"error: {type(error).__name__}, see above. Where it says that a connection was closed or timed out, "
            "another process has ended, and its log says why. The same command on all of them goes on from the "
            "newest complete checkpoint.",
            code,
        )


def fail(line: str, code: int = 1) -> None:
    """End the program with a line, and without waiting for other processes, which may wait for this one."""
    if _several():
        stopping.leave(code, line)
    print(line, file=sys.stderr, flush=True)
    raise Failed(line, code)


def run_to_its_end(main: Callable[[], Any]) -> None:
    """Call main, and end the process where a signal has stopped it: in one line, with status 130 for Ctrl-C, 143 for
    SIGTERM and 129 for a closed terminal. To be called as the last line of a program that has called `listen`."""
    forgive_output()
    log_beside_bars()
    stopping.begin()
    code, line = 0, ""
    try:
        main()
    except SystemExit as ended:
        if not stopping.received() or isinstance(ended, Failed):
            raise
        code, line = (0, str(ended.code)) if isinstance(ended.code, str) else (0, "")
    except BaseException as error:
        if stopped := _stopped(error):
            stopping.leave(128 + stopped.number, str(stopped))
        raise
    if number := stopping.received():
        if _several():  # those that stop at the same step end together
            with contextlib.suppress(Exception):
                sys.modules["jax"].distributed.shutdown()
        stopping.leave(code or 128 + number, line)


def _stopped(error: BaseException | None) -> stopping.Stopped | None:
    """The stop behind an error, of which a library may have made another one."""
    while error is not None and not isinstance(error, stopping.Stopped):
        error = error.__cause__ or error.__context__
    return error


def log_beside_bars() -> None:
    """Write what is logged, and warnings, such that no progress bar is torn."""
    root, absl_handler = logging.getLogger(), absl_logging.get_absl_handler()
    absl_logging.use_absl_handler()
    root.removeHandler(absl_handler)
    if not any(isinstance(handler, _BesideBars) for handler in root.handlers):
        handler = _BesideBars()
        handler.setFormatter(absl_logging.PythonFormatter())
        root.addHandler(handler)
    logging.captureWarnings(True)


class _BesideBars(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def _several() -> bool:
    """Whether this is one of several processes."""
    jax = sys.modules.get("jax")
    return bool(jax and jax.distributed.is_initialized() and jax.process_count() > 1)
