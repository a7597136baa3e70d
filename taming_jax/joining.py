"""Whether this process is one of several, by what its launcher has left in the environment, and joining the others."""

import contextlib
import dataclasses
import logging
import threading
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from taming_jax import stopping

log = logging.getLogger(__name__)

HOSTS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# What JAX reads of a process that srun has started. A shell within salloc or a batch file has only some of it.
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
ORTE = "OMPI_MCA_orte_hnp_uri"  # where Open MPI's mpirun is, up to version 4; JAX reads it
JOB = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")  # the same in all processes of one mpirun
PORTS = range(61440, 65535)  # of which a job takes one by its name
STARTED_LATE = 280  # seconds to wait for processes that are started one by one; at 300 the runtime aborts
STARTED_TOGETHER = 120  # the same for what one command has started


@dataclasses.dataclass(frozen=True)
class Launcher:
    """A program that starts several processes, by the names of the variables that it sets in each."""

    name: str
    size: str
    rank: str
    local_size: str
    local_rank: str

    def count(self, environment: Mapping[str, str]) -> int:
        """Of how many processes this is one; 1 where the variables are not all there, as in a shell that kept some."""
        if self.size not in environment or self.rank not in environment:
            return 1
        return _whole(environment, self.size)

    def local_devices(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """A process takes one device where there are several on its host, else all."""
        alone = environment.get(self.local_size, "") == "1" or self.local_rank not in environment
        if alone or "JAX_LOCAL_DEVICE_IDS" in environment:
            return {}
        return {"local_device_ids": [_whole(environment, self.local_rank)]}


TORCHRUN = Launcher("torchrun", "WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK")
OPEN_MPI = Launcher("mpirun", *(f"OMPI_COMM_WORLD_{name}" for name in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")))
HYDRA = Launcher("mpiexec", "PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID")
MVAPICH = Launcher("mpirun", *(f"MV2_COMM_WORLD_{name}" for name in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")))


def join(environment: Mapping[str, str], heartbeat_timeout: int) -> None:
    """Join the other processes where the environment says that there are any, see `sharding.start_distributed`."""
    options: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat_timeout}
    missing = [name for name in HOSTS if name not in environment]
    launcher = _launcher(environment)
    if not missing:
        count, rank = (_whole(environment, name) for name in HOSTS[1:])
        options |= {"num_processes": count, "process_id": rank}
        _initialize(environment[HOSTS[0]], options, f"{count} processes", HOSTS, STARTED_LATE)
    elif len(missing) < len(HOSTS) and not (launcher and HOSTS[0] in environment):
        given = ", ".join(name for name in HOSTS if name not in missing)
        raise ValueError(f"{given} given, but not {', '.join(missing)}: set all three for several processes, or none")
    elif launcher:
        count, rank = launcher.count(environment), _whole(environment, launcher.rank)
        if launcher is OPEN_MPI and ORTE in environment and HOSTS[0] not in environment:
            _initialize("", options, f"{count} processes", (launcher.size, launcher.rank), STARTED_TOGETHER)
            return
        options |= {"num_processes": count, "process_id": rank, "cluster_detection_method": "deactivate"}
        options |= launcher.local_devices(environment)
        address = _address(launcher, environment)
        _initialize(address, options, f"{count} processes", (launcher.size, launcher.rank), STARTED_TOGETHER)
    elif _in_slice(environment) or _in_slurm_step(environment):
        _initialize("", options, "the other processes", (), STARTED_LATE)


def _launcher(environment: Mapping[str, str]) -> Launcher | None:
    """The launcher of which this is one of several processes. What srun has started may itself start processes, which
    then have the variables of both; those that a script has set by hand may be the same in all, and come last."""
    order = [OPEN_MPI, MVAPICH]
    if "TORCHELASTIC_RUN_ID" in environment:
        order.insert(0, TORCHRUN)
    elif not (_in_slice(environment) or _in_slurm_step(environment)):
        order += [TORCHRUN, HYDRA]
    return next((launcher for launcher in order if launcher.count(environment) > 1), None)


def _address(launcher: Launcher, environment: Mapping[str, str]) -> str:
    """Where the first process answers. Raises ValueError where the launcher does not say."""
    if HOSTS[0] in environment:
        return environment[HOSTS[0]]
    if "MASTER_ADDR" in environment and "MASTER_PORT" in environment:
        port = _whole(environment, "MASTER_PORT")
        if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun itself answers at this port
            port += 1 if port < 65535 else -1
        host = environment["MASTER_ADDR"]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    job = next((environment[name] for name in JOB if name in environment), "")
    if job and environment.get(launcher.local_size) == environment[launcher.size]:  # all of them on this host
        return f"127.0.0.1:{PORTS[zlib.crc32(job.encode()) % len(PORTS)]}"
    count, rank = (f"{name}={environment[name]}" for name in (launcher.size, launcher.rank))
    passed = {OPEN_MPI: "mpirun -x", HYDRA: "mpiexec -genv"}.get(launcher, launcher.name)
    raise ValueError(
        f"{count} and {rank} say that this is one of several processes of {launcher.name}, but not where the first one "
        f"is: set JAX_COORDINATOR_ADDRESS=HOST:PORT in all of them ({passed} JAX_COORDINATOR_ADDRESS=...), HOST being "
        f"that of the first; for a single process unset {launcher.size}."
    )


def _initialize(address: str, options: dict[str, Any], others: str, told_by: tuple[str, ...], seconds: int) -> None:
    by = f", as {' and '.join(told_by)} say" if told_by else ""
    what = f"{others}{f' at {address}' if address else ''}{by}"
    log.info("Joining %s; waiting for all of them, up to %d s.", what, seconds)
    with _limited(seconds, what, told_by), stopping.telling(lambda: f"it was waiting for {what}"):
        try:
            if address:
                jax.distributed.initialize(address, **options)
            else:  # which JAX finds
                jax.distributed.initialize(**options)
        except RuntimeError as error:
            raise ValueError(f"{what} cannot be joined: {str(error).splitlines()[0]}") from error


@contextlib.contextmanager
def _limited(seconds: int, what: str, told_by: tuple[str, ...]) -> Iterator[None]:
    """End the process where the block takes longer: the runtime would abort it, with a page of its own."""
    alone = f" For a single process unset {', '.join(told_by)}." if told_by else ""
    line = f"error: waited {seconds} s for {what}, and not all have come. Start all of them, with one command.{alone}"
    timer = threading.Timer(seconds, stopping.leave, (1, line))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _in_slurm_step(environment: Mapping[str, str]) -> bool:
    """Whether srun has started this process as one of several."""
    if any(name not in environment for name in SLURM):
        return False
    # salloc may start its one shell by srun, with the job's number of tasks in SLURM_NTASKS
    return min(_whole(environment, x) for x in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS") if x in environment) > 1


def _in_slice(environment: Mapping[str, str]) -> bool:
    """Whether this is one of several hosts of TPUs, of one slice or of several."""
    slices = environment.get("MEGASCALE_NUM_SLICES", "")
    return "," in environment.get("TPU_WORKER_HOSTNAMES", "") or (slices.isdecimal() and int(slices) > 1)


def _whole(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise ValueError(f"{name}={environment[name]!r} in the environment; expected a whole number") from None
