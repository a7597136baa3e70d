"""The scripts that launch on TPU slices, Slurm and accelerators, without any: what would be run, and how quoted."""

import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

SCRIPTS = Path(__file__).parent.parent / "scripts"
MEASUREMENTS = SCRIPTS.parent / "benchmarks" / "accelerator.sh"
SLICE = {"PROJECT": "proj-1", "ZONE": "us-west4-a", "TPU_NAME": "slice-7"}
STAGE = ("--config=configs/imagenet_vqgan.py:16384", "--config.data.path=gs://b/with space", "--config.x=$(touch y);'")


def pod(*arguments: str, code: int = 0, **settings: str) -> tuple[list[list[str]], str]:
    """(the commands that a dry run prints, each as its words, what it says on stderr)."""
    command = [SCRIPTS / "tpu_pod.sh", "--dry-run", *arguments]
    environment = {"PATH": os.environ["PATH"], **settings}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, encoding="utf-8")
    assert found.returncode == code, found.stderr
    return [shlex.split(line) for line in found.stdout.splitlines()], found.stderr


def stand_in(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.iterdir()))
def test_bash_can_read_it(script):
    subprocess.run(["bash", "-n", SCRIPTS / script], check=True, timeout=300)
    assert "set -euo pipefail" in (SCRIPTS / script).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["create", "copy", "install", "logs", "status", "stop", "clean"])
def test_every_command_names_the_slice(command):
    commands, _ = pod(command, **SLICE)
    calls = [words for words in commands if words[0] == "gcloud"]
    assert calls and all(words[:4] == ["gcloud", "compute", "tpus", "tpu-vm"] for words in calls)
    for words in calls:
        assert {"--project=proj-1", "--zone=us-west4-a"} <= set(words)
        assert any(word == "slice-7" or word.startswith("slice-7:") for word in words)


def test_create():
    [words], _ = pod("create", **SLICE, TPU_TYPE="v5p-64", SPOT="1")
    assert words[4:6] == ["create", "slice-7"]
    assert {"--accelerator-type=v5p-64", "--version=v2-alpha-tpuv5", "--spot"} <= set(words)
    assert "--version=v2-alpha-tpuv6e" in pod("create", **SLICE, TPU_TYPE="v6e-16")[0][0]
    [words], _ = pod("create", **SLICE, TPU_TYPE="v9-8", TPU_VERSION="new")
    assert "--version=new" in words and "--spot" not in words
    assert "TPU_VERSION" in pod("create", **SLICE, TPU_TYPE="v9-8", code=2)[1]
    assert "SPOT=yes" in pod("create", **SLICE, SPOT="yes", code=2)[1]


def test_train_runs_on_all_workers_with_its_arguments_as_given():
    [words], _ = pod("train", "vqgan", *STAGE, **SLICE, WORKDIR="gs://bucket/runs/")
    assert "--worker=all" in words
    [remote] = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    inner = shlex.split(remote)
    start = inner.index("scripts/tpu_worker.sh")
    assert inner[start + 1 : start + 6] == ["vqgan", *STAGE, "--workdir=gs://bucket/runs/vqgan"]
    assert inner[start + 6 : start + 8] == [">>", "logs/vqgan.log"]
    subprocess.run(["bash", "-n"], input=remote, text=True, check=True, timeout=300, encoding="utf-8")
    [words], _ = pod("train", "transformer", "--config=c.py", "--workdir=gs://other", **SLICE)
    assert "transformer --config=c.py --workdir=gs://other >> logs/transformer.log" in words[-3]
    [words], _ = pod("train", "encode", "--config=c.py", "--out=gs://codes", **SLICE)
    assert "tpu_worker.sh encode --config=c.py --out=gs://codes >> logs/encode.log" in words[-3]


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("create",), {"ZONE": "z"}, "PROJECT is not set"),
        (("create",), {"PROJECT": "p"}, "ZONE is not set"),
        (("launch",), SLICE, "known: create, copy"),
        (("train", "gan", "--config=c"), SLICE, "known: vqgan, transformer, encode"),
        (("train", "encode", "--config=c"), SLICE | {"WORKDIR": "gs://b"}, "needs --out=gs://"),
        (("train", "vqgan", "--workdir=gs://b"), SLICE, "needs --config"),
        (("train", "vqgan", "--config", "c.py"), SLICE, "--name=value"),
        (("train", "vqgan", "--config=c.py"), SLICE | {"WORKDIR": "runs"}, "gs://BUCKET/FOLDER"),
        (("train", "vqgan", "--config=c.py", "--workdir=runs/x"), SLICE, "--workdir=runs/x: give gs://BUCKET/FOLDER"),
        (("train", "encode", "--config=c.py", "--out=codes"), SLICE, "--out=codes: give gs://BUCKET/FOLDER"),
        (("logs", "newest", "x;ls"), SLICE, "no worker's number"),
    ],
)
def test_mistakes_are_named_before_anything_runs(arguments, settings, message):
    commands, said = pod(*arguments, code=2, **settings)
    assert commands == [] and message in said


@pytest.mark.parametrize("endpoints", ["10.0.0.4,10.0.0.5", "unknown:1:10.0.0.4,unknown:2:10.0.0.5"])
def test_a_worker_finds_the_others(tmp_path, endpoints):
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "tpu_worker.sh"
    script.write_text((SCRIPTS / script.name).read_text(encoding="utf-8"), encoding="utf-8")
    stand_in(
        tmp_path / "bin", "curl", f'case "${{@: -1}}" in */agent-worker-number) echo 1;; *) echo {endpoints};; esac'
    )
    show = 'echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID $*"'
    stand_in(tmp_path / ".venv" / "bin", "python", show)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PORT": "99"}
    for stage, program in (("vqgan", "train_vqgan.py"), ("encode", "-m taming_jax.encode_dataset")):
        command = ["bash", script, stage, "--config=c.py"]
        found = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=300, encoding="utf-8"
        )
        assert found.stdout == f"10.0.0.4:99 2 1 {program} --config=c.py\n"


@pytest.mark.parametrize(("setting", "windowed"), [({}, False), ({"WINDOWED_EINSUM": "1"}, True)])
def test_a_worker_sets_the_flags_of_the_compiler(tmp_path, setting, windowed):
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "tpu_worker.sh"
    script.write_text((SCRIPTS / script.name).read_text(encoding="utf-8"), encoding="utf-8")
    stand_in(tmp_path / "bin", "curl", 'case "${@: -1}" in */agent-worker-number) echo 0;; *) echo a;; esac')
    stand_in(tmp_path / ".venv" / "bin", "python", 'echo "$LIBTPU_INIT_ARGS"')
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LIBTPU_INIT_ARGS": "--mine=1", **setting}
    command = ["bash", script, "vqgan", "--config=c.py"]
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=300, encoding="utf-8"
    ).stdout
    flags = found.split()
    assert "--xla_tpu_run_space_to_batch=false" in flags and flags[-1] == "--mine=1"
    assert ("--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000" in flags) is not windowed


def gke(*arguments: str, code: int = 0, **settings: str) -> tuple[dict, str]:
    """(the manifest as Kubernetes reads it, what is said on stderr)."""
    command, environment = [SCRIPTS / "gke.sh", *arguments], {"PATH": os.environ["PATH"], **settings}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, encoding="utf-8")
    assert found.returncode == code, found.stderr
    return yaml.safe_load(found.stdout) or {}, found.stderr


@pytest.mark.parametrize(
    ("type_", "accelerator", "topology", "hosts"),
    [
        ("v5litepod-16", "tpu-v5-lite-podslice", "4x4", 4),
        ("v5p-64", "tpu-v5p-slice", "2x4x4", 8),
        ("v6e-16", "tpu-v6e-slice", "4x4", 4),
        ("v4-32", "tpu-v4-podslice", "2x2x4", 4),
    ],
)
def test_a_jobset_asks_for_whole_slices(type_, accelerator, topology, hosts):
    found, _ = gke("vqgan", *STAGE, IMAGE="here/taming:1", TPU_TYPE=type_, SLICES="2", ACCOUNT="robot")
    [replicated] = found["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod_ = job["template"]["spec"]
    assert (replicated["replicas"], job["parallelism"], job["completions"]) == (2, hosts, hosts)
    assert sorted(pod_["nodeSelector"].values()) == sorted([accelerator, topology])
    assert pod_["serviceAccountName"] == "robot"
    [container] = pod_["containers"]
    words = [word.replace("$(", "$$(") for word in STAGE]  # as Kubernetes wants it, and hands it on as it was
    assert container["command"] == ["python", "train_vqgan.py", *words]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert "windowed_einsum_mib=1000000" in container["env"][0]["value"]


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("vqgan", {}, "IMAGE is not set"),
        ("gan", {"IMAGE": "i"}, "known: vqgan, transformer, encode"),
        ("vqgan", {"IMAGE": "i", "TPU_TYPE": "v9-8"}, "none of v4, v5litepod"),
        ("vqgan", {"IMAGE": "i", "TPU_TYPE": "v4-24"}, "set TOPOLOGY"),
        ("vqgan", {"IMAGE": "i", "TPU_TYPE": "v6e-32", "TOPOLOGY": "4x4"}, "has not the chips"),
        ("vqgan", {"IMAGE": "i", "TPU_TYPE": "v6e-1", "TOPOLOGY": "1x1"}, "hosts with 4 chips"),
        ("vqgan", {"IMAGE": "i", "SLICES": "two"}, "SLICES=two"),
        ("vqgan", {"IMAGE": "i", "NAME": "a: b"}, "small letters"),
    ],
)
def test_a_jobset_with_a_mistake_is_not_printed(stage, settings, message):
    found, said = gke(stage, "--config=c.py", code=2, **settings)
    assert found == {} and message in said


def slurm(tmp_path: Path, training: str, *arguments: str) -> subprocess.Popen:
    """The job, with a `training` in place of srun's process. As Slurm's, srun kills it where it is itself told to end,
    while scancel signals it alone."""
    stand_in(tmp_path, "training", f"echo $$ > {tmp_path}/task; {training}")
    stand_in(tmp_path, "srun", f"trap 'kill -KILL $!; exit 137' TERM; {tmp_path}/training \"$@\" & wait $!")
    stand_in(tmp_path, "scancel", f'[[ "$*" == "--signal=TERM 17" ]] && kill -TERM "$(cat {tmp_path}/task)"')
    stand_in(tmp_path, "scontrol", f'echo "$*" > {tmp_path}/requeued')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "SLURM_GPUS_ON_NODE": "4"}
    environment["SLURM_CPUS_PER_TASK"] = "12"
    command = ["bash", SCRIPTS / "slurm.sbatch", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8")


@pytest.mark.parametrize("status", [0, 1, 143])
def test_slurm_job_ends_as_its_training(tmp_path, status):
    with slurm(tmp_path, f'echo "$JAX_LOCAL_DEVICE_IDS $*"; exit {status}', "transformer", "--config=a b") as job:
        output, _ = job.communicate(timeout=300)
    assert job.returncode == status and not (tmp_path / "requeued").exists()
    options = "--kill-on-bad-exit=1 --cpus-per-task=12"
    assert output == f"0,1,2,3 {options} .venv/bin/python train_transformer.py --config=a b\n"


def test_slurm_job_goes_back_into_the_queue_at_its_limit(tmp_path):
    training = "trap 'kill $!; echo saved; exit 143' TERM; sleep 30 & echo started; wait"
    with slurm(tmp_path, training, "vqgan", "--config=c.py") as job:
        assert job.stdout is not None and job.stdout.readline() == "started\n"
        job.send_signal(signal.SIGUSR1)
        output, _ = job.communicate(timeout=300)
    assert (output, job.returncode) == ("saved\n", 143)
    assert (tmp_path / "requeued").read_text(encoding="utf-8") == "requeue 17\n"


def test_slurm_job_without_a_stage_says_how():
    job = subprocess.run(
        ["bash", SCRIPTS / "slurm.sbatch", "gan", "x"], capture_output=True, text=True, timeout=300, encoding="utf-8"
    )
    assert job.returncode == 2 and "vqgan|transformer|encode" in job.stderr


def measurements(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The measurements, with a python that only says what it was asked."""
    stand_in(tmp_path / "bin", "python", 'echo "$PWD: $*" | tee -a "$SAID"')
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SAID": str(tmp_path / "said")}
    command = ["bash", MEASUREMENTS, *arguments]
    return subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )


def test_measurements_take_paths_from_where_they_are_started(tmp_path):
    (tmp_path / "photos").mkdir()
    assert measurements(tmp_path, "results.txt", "photos").returncode == 0
    found = (tmp_path / "results.txt").read_text(encoding="utf-8")
    for line in (tmp_path / "said").read_text(encoding="utf-8").splitlines():
        assert line.startswith(f"{SCRIPTS.parent}: ") and line in found
    assert f"train.py --input {tmp_path}/photos " in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected one or two arguments, not 0; usage"),
        (("no/results.txt",), "cannot write to 'no/results.txt'"),
        ((".",), "cannot write to '.'"),
        (("results.txt", "photos"), "no such folder: 'photos'"),
        (("results.txt", "a", "b"), "not 3"),
    ],
)
def test_measurements_with_a_mistake_do_not_begin(arguments, message, tmp_path):
    found = measurements(tmp_path, *arguments)
    assert found.returncode == 2 and message in found.stderr and not (tmp_path / "said").exists()
