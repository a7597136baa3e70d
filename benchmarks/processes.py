"""Trainings as processes of this machine: alone, or several joined by the distributed runtime as hosts would be."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The demo's data needs no TensorFlow, whose import takes longer than these trainings.
START = "import runpy, sys; sys.modules['tensorflow'] = None; sys.argv = sys.argv[1:]; sys.path.insert(0, '.'); {}"
PROGRAM = "runpy.run_path(sys.argv[0], run_name='__main__')"

DATA = ("size=16", "n_train=32", "n_val=12")
STEPS = ("steps=6", "log_every=1", "eval_every=3", "image_every=6", "save_every=3")
# Constant, so that a training with more steps begins as one with fewer.
TINY = [
    "--config.optimizer.schedule=constant",
    *(f"--config.data.{setting}" for setting in DATA),
    *(f"--config.train.{setting}" for setting in STEPS),
]
FIRST = ["train_vqgan.py", "--config=configs/demo_vqgan.py:tiny", *TINY, "--config.loss.disc_learn_start=0"]
FIRST += ["--config.loss.disc_start=2", "--config.loss.disc_ramp=2"]
SECOND = ["train_transformer.py", "--config=configs/demo_class.py:tiny", *TINY]


class Group:
    """`count` processes of one program, of so many virtual CPU devices each; what process i writes is in logs/i.txt.

    cache: folder of compiled programs, which makes all but the first start quick. more: further environment.
    prepare: Python that runs in each process before the program.
    """

    def __init__(
        self,
        command: Sequence[str],
        logs: Path,
        *,
        count: int = 1,
        devices: int = 1,
        cache: Path | str = "",
        prepare: str = "",
        **more: str,
    ):
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment |= more
        environment["XLA_FLAGS"] = f"{more.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        if cache:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        if count > 1:
            environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{_free_port()}", "JAX_NUM_PROCESSES": str(count)}
        start = [sys.executable, "-c", START.format(f"{prepare}\n{PROGRAM}" if prepare else PROGRAM)]
        self.processes, self.began = [], time.monotonic()
        for i in range(count):
            with (logs / f"{i}.txt").open("w", encoding="utf-8") as log:
                process = subprocess.Popen(
                    [*start, *map(str, command)],
                    cwd=ROOT,
                    env=environment | ({"JAX_PROCESS_ID": str(i)} if count > 1 else {}),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)

    def wait(self, seconds: float = 300) -> list[int]:
        """The exit statuses, once all have ended. Raises TimeoutError, and ends them, where that takes longer."""
        end = time.monotonic() + seconds
        try:
            return [process.wait(max(0.1, end - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"not all processes ended within {seconds} s:\n{self.output()}") from error
        finally:
            self.end()

    def kill(self, i: int = 0, how: int = signal.SIGKILL) -> None:
        self.processes[i].send_signal(how)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def output(self, i: int | None = None) -> str:
        """What process i wrote, or all of them."""
        paths = sorted(self.logs.glob("*.txt")) if i is None else [self.logs / f"{i}.txt"]
        return "\n".join(path.read_text(errors="replace", encoding="utf-8") for path in paths)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
