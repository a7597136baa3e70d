"""Programs that are killed, sent signals, run out of disk, find a spoiled checkpoint or lose a process: what they leave
is compared with an undisturbed run. Small networks on CPU; about 15 minutes on two cores, and one for six signals.

python benchmarks/faults.py [signals kills processes disk damage] [--kills 20] [--workdir DIR]
    [--program NAME ...] [--signals KILL INT HUP TERM TWO] [--count 100] [--seed 0]

`signals` sends so many in all, at random moments, to programs (first, second, draw, encode, samples) that are started
again until they come to their end; TWO are two at once. It works in parts: a part is a program, and --seed.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from processes import FIRST, ROOT, SECOND, TINY, Group

sys.path.insert(0, str(ROOT))

import jax

from taming_jax import checkpoint
from taming_jax.checkpoint import read

KILLED = ["--config.train.steps=600", "--config.train.save_every=4", "--config.train.eval_every=1000"]
KILLED += ["--config.train.image_every=1000"]
HEARTBEAT = 10
PATIENCE = 1800  # seconds for one run, on a machine that has other work
# Processes that share few cores compile at different speeds, and their collectives wait for one another 30 s at most.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_opt_preset=FAST_COMPILE"


def history(workdir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def run(command: list[str], root: Path, name: str, **options) -> Group:
    """A training to its end; raises RuntimeError where it has another."""
    group = start(command, root, name, **options)
    statuses = group.wait(PATIENCE)
    if any(statuses):
        raise RuntimeError(f"{name} ended with {statuses}:\n{group.output()[-4000:]}")
    return group


def start(command: list[str], root: Path, name: str, **options) -> Group:
    workdir = options.pop("workdir", root / name)
    return Group([*command, f"--workdir={workdir}"], root / "logs" / name, cache=root / "cache", **options)


def same(a: Path, b: Path) -> bool:
    """Whether two trainings left the same, bit for bit: the history, and all arrays of the last checkpoint."""
    folders = [checkpoint.find_step(str(workdir)) for workdir in (a, b)]
    trees = [[read.load_tree(folder, item) for item in ("params", "train")] for folder in folders]
    leaves = [jax.tree.leaves(tree) for tree in trees]
    equal = all(np.array_equal(x, y) for x, y in zip(*leaves, strict=True))
    return equal and folders[0].name == folders[1].name and history(a) == history(b)


LOSSES = ("train/total_loss", "train/disc_loss", "train/loss", "val/nll", "val/psnr")


def difference(a: Path, b: Path) -> str:
    """Of two histories, relative: the largest of the losses, and of all measures, of which some nearly cancel."""
    one, two = history(a), history(b)
    if [line.keys() for line in one] != [line.keys() for line in two]:
        return "do not have the same steps and measures"
    found = {(i, name): abs(x[name] - y[name]) for i, (x, y) in enumerate(zip(one, two)) for name in x}
    relative = {(i, name): gap / max(abs(one[i][name]), 1e-9) for (i, name), gap in found.items()}
    losses = max(value for (_, name), value in relative.items() if name in LOSSES)
    return f"losses differ by {losses:.1e}, any measure by {max(relative.values()):.1e}"


def kills(root: Path, n: int) -> None:
    """SIGKILL at n moments: half of them while a checkpoint is written, the others anywhere from the start on."""
    command = [*FIRST, *KILLED]
    run(command, root, "undisturbed")
    rng, at_saves = random.Random(0), 0
    folder = root / "killed" / "checkpoints"
    for i in range(n):
        group = start(command, root, "killed")
        running = lambda process=group.processes[0]: process.poll() is None
        for _ in range(rng.randrange(8)):  # some way on first
            known = saves(folder)
            while running() and not saves(folder) - known:
                time.sleep(0.005)
        if i % 2:
            while running() and saves(folder, unfinished=True):  # what the last kill left goes at the start
                time.sleep(0.001)
            while running() and not saves(folder, unfinished=True):
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            at_saves += bool(saves(folder, unfinished=True))
        else:
            time.sleep(rng.uniform(0, 4))
        if not running():
            raise RuntimeError(f"the training ended before kill {i + 1}:\n{group.output()[-2000:]}")
        group.end()
        left = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        print(f"kill {i + 1}: left {', '.join(left) or 'nothing'}", flush=True)
    run(command, root, "killed")
    equal = same(root / "undisturbed", root / "killed")
    print(f"{n} kills, {at_saves} of them while a checkpoint was written: same bits {equal}")


def saves(folder: Path, unfinished: bool = False) -> set[str]:
    """The checkpoints that are there, or those that are being written."""
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return {name for name in names if name.isdigit() != unfinished}


def processes(root: Path) -> None:
    """Two and four processes against one with as many devices; then one of two dies, and four go on."""
    run(FIRST, root, "first", devices=4, XLA_FLAGS=QUICK)
    for count in (2, 4):
        run(FIRST, root, f"first_of_{count}", count=count, devices=4 // count, XLA_FLAGS=QUICK)
        print(f"first stage, {count} processes: {difference(root / 'first', root / f'first_of_{count}')}")
    command = [*SECOND, f"--config.first_stage={root / 'first'}", f"--config.train.heartbeat_timeout={HEARTBEAT}"]
    run(command, root, "second", devices=4, XLA_FLAGS=QUICK)
    for count in (2, 4):
        name = f"second_of_{count}"
        group = run(command, root, name, count=count, devices=4 // count, XLA_FLAGS=QUICK)
        quiet = all("Parameters:" not in group.output(i) for i in range(1, count))
        found = difference(root / "second", root / name)
        print(f"second stage, {count} processes: {found}; only the first one logs: {quiet}")

    endless = [*command, "--config.train.steps=100000"]
    group = start(endless, root, "lost", count=2, devices=2, XLA_FLAGS=QUICK)
    wait_for(root / "lost" / "checkpoints" / "3", group)
    group.kill(1)
    began = time.monotonic()
    statuses = group.wait(HEARTBEAT + 60)
    told = "another task died" in group.output(0) or "another process has ended" in group.output(0)
    print(f"one of two killed: the other ended after {time.monotonic() - began:.1f} s, {statuses}, said why: {told}")
    newest = checkpoint.find_step(str(root / "lost")).name
    command += [f"--config.train.steps={int(newest) + 6}"]
    run(command, root, "lost", count=4, devices=1, XLA_FLAGS=QUICK)
    run(command, root, "not_lost", devices=4, XLA_FLAGS=QUICK)
    print(f"restarted from step {newest} as four processes: {difference(root / 'not_lost', root / 'lost')}")

    group = start(endless, root, "stopped", count=2, devices=2, XLA_FLAGS=QUICK)
    wait_for(root / "stopped" / "checkpoints" / "3", group)
    group.kill(1, signal.SIGTERM)
    statuses = group.wait(120)
    newest = checkpoint.find_step(str(root / "stopped")).name
    steps = int(newest), max(line["step"] for line in history(root / "stopped"))
    print(f"SIGTERM to one of two: ended with {statuses}, saved step {steps[0]} of {steps[1]}")


def wait_for(path: Path, group: Group) -> None:
    while not path.exists():
        if any(process.poll() is not None for process in group.processes):
            raise RuntimeError(f"a process ended before {path}:\n{group.output()[-4000:]}")
        time.sleep(0.1)


def disk(root: Path) -> None:
    """A save that does not fit, on a small file system where one may be mounted, else with a limit on files."""
    steps = ["--config.train.steps=12", "--config.train.save_every=3"]
    run([*FIRST, *steps], root, "roomy")
    newest = Path(checkpoint.find_step(str(root / "roomy")))
    size = sum(path.stat().st_size for path in newest.rglob("*"))
    workdir = root / "full"
    with small_disk(workdir, int(2.6 * size)) as (kind, prepare, enlarge):
        group = start([*FIRST, *steps], root, "full", workdir=workdir / "run", prepare=prepare)
        statuses = group.wait(PATIENCE)
        left = sorted(saves(workdir / "run" / "checkpoints"), key=int)
        said = [line for line in group.output().splitlines() if line.startswith("error:")]
        print(f"{kind}: ended with {statuses}, complete checkpoints {left}; it said:\n  {' '.join(said)}")
        enlarge()
        run([*FIRST, *steps], root, "full", workdir=workdir / "run")
        print(f"with room again: same bits {same(root / 'roomy', workdir / 'run')}")


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator:
    """(what it is, Python for the process, a function that makes it larger)."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
    if mounted.returncode:
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 20}, resource.RLIM_INFINITY))"
        yield f"files of at most {size // 20} bytes", limit, lambda: None
        return
    try:
        larger = ["mount", "-o", f"remount,size={10 * size}", folder]
        yield f"a tmpfs of {size} bytes", "", lambda: subprocess.run(larger, check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


def damage(root: Path) -> None:
    """The newest checkpoint is cut, or a single bit of it is wrong."""
    run([*FIRST, "--config.train.steps=12"], root, "whole")
    for how in ("cut", "one bit"):
        name = how.replace(" ", "_")
        run([*FIRST, "--config.train.steps=9"], root, name)
        newest = Path(checkpoint.find_step(str(root / name)))
        path = max((newest / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
        group = run([*FIRST, "--config.train.steps=12"], root, name)
        said = [line for line in group.output().splitlines() if "is damaged" in line]
        print(f"{how}: same bits {same(root / 'whole', root / name)}; it said:\n  {' '.join(said)[:400]}")


KINDS = ("KILL", "INT", "HUP", "TERM", "TWO")
STATUS = {"INT": 130, "TERM": 143, "HUP": 129}
# As a shell starts a program in the foreground, also where this one runs in the background.
FOREGROUND = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); s.signal(s.SIGHUP, s.SIG_DFL)"
STOPPED = ["--config.train.steps=24", "--config.train.save_every=5", "--config.train.eval_every=6"]
STOPPED += ["--config.train.image_every=12"]


STOPPED_FIRST = [*FIRST, *STOPPED, "--config.model.ch=8", "--config.model.norm_groups=4"]
STOPPED_SECOND = [*SECOND, *STOPPED, "--config.transformer.n_layer=1", "--config.transformer.n_embd=32"]


def signalled(root: Path, programs: list[str], kinds: list[str], count: int, seed: int) -> None:
    """`count` signals, in turn to each program, each at a random moment of a run; a table of what became of them."""
    run(STOPPED_FIRST, root, "first_stage", prepare=FOREGROUND, XLA_FLAGS=QUICK)
    first = f"--config.first_stage={root / 'first_stage'}"
    run([*STOPPED_SECOND, first], root, "model", prepare=FOREGROUND, XLA_FLAGS=QUICK)
    drawn = ["sample.py", "--config=configs/demo_class.py:tiny", f"--workdir={root / 'model'}"]
    drawn += ["--config.sample.n=24", "--config.sample.batch_size=2"]
    codes = [
        "taming_jax/encode_dataset.py",
        "--config=configs/demo_class.py:tiny",
        *TINY,
        first,
        "--images_per_shard=4",
    ]
    judged = ["taming_jax/evaluate.py", "samples", root / "model", "--n=24", "--draw_batch=2", "--features=demo"]
    known = {  # the command, the folder that it writes, the name of which is in what it writes
        "first": lambda out: [*STOPPED_FIRST, f"--workdir={out}"],
        "second": lambda out: [*STOPPED_SECOND, first, f"--workdir={out}"],
        "draw": lambda out: [*drawn, f"--config.sample.out={out}"],
        "encode": lambda out: [*codes, f"--out={out}"],
        "samples": lambda out: [*judged, f"--out={out / 'result.json'}"],
    }
    rows = [_signalled(root, name, known[name], kinds, len(range(i, count, len(programs))), seed)
            for i, name in enumerate(programs)]  # fmt: skip
    columns = ("program", "signals", *kinds, "runs", "same bits", "wrong")
    print(
        "\n" + "\n".join(" | ".join(f"{row[x]!s:>9}" for x in columns) for row in (dict(zip(columns, columns)), *rows))
    )
    if wrong := sum(row["wrong"] for row in rows):
        sys.exit(f"{wrong} wrong")


def _signalled(root: Path, name: str, command: Callable, kinds: list[str], count: int, seed: int) -> dict[str, object]:
    """A row of the table. wrong: what is not as it should be, each printed when it shows."""
    rng, out = random.Random(f"{seed} {name}"), root / name / "out"
    needs = "; sys.modules.pop('tensorflow')" if name == "encode" else ""
    begin = lambda: Group(
        command(out), root / "logs" / name, cache=root / "cache", prepare=FOREGROUND + needs, XLA_FLAGS=QUICK
    )
    row: dict[str, object] = {"program": name, "signals": 0, **dict.fromkeys(kinds, 0), "runs": 0, "same bits": 0}
    for _ in range(2):  # the first one compiles
        shutil.rmtree(out, ignore_errors=True)
        began = time.monotonic()
        if any(begin().wait(PATIENCE)):
            raise RuntimeError(f"{name} does not run; see {root / 'logs' / name}")
    seconds, whole, wrong = time.monotonic() - began, _left(name, out), 0
    shutil.rmtree(out)
    sent, finished = 0, False
    while sent < count or not finished:  # the last run comes to its end
        before = _unfinished(out)  # what a kill has left stays until a run comes to it
        group, kind = begin(), rng.choice(kinds) if sent < count else ""
        moment, process = rng.uniform(0, seconds), group.processes[0]
        while kind and process.poll() is None and time.monotonic() - group.began < moment:
            time.sleep(0.01)
        if kind and process.poll() is None:
            numbers = [kind] if kind != "TWO" else rng.choices(list(STATUS), k=2)
            children = _children(process.pid)
            for number in numbers:
                process.send_signal(getattr(signal, f"SIG{number}"))
                time.sleep(rng.uniform(0, 1) ** 3)
            sent, row["signals"], row[kind] = sent + 1, row["signals"] + 1, row[kind] + 1
            (status,) = group.wait(PATIENCE)
            said = [f"{kind} at {moment:.1f} s of {seconds:.1f}: ended with {status}"]
            problems = _problems(name, out, numbers, status, group.output(), children)
            if kind != "KILL":
                problems += [f"{path} is left" for path in sorted(_unfinished(out) - before)]
            wrong += bool(problems)
            print(name, *said, *problems, sep="; ", flush=True)
        (status,) = group.wait(PATIENCE)
        finished = status == 0
        if finished:
            row["runs"] += 1
            equal = _left(name, out) == whole and not _unfinished(out)
            row["same bits"] += equal
            wrong += not equal
            if not equal:
                found = _left(name, out)
                different = sorted(k for k in whole.keys() | found.keys() if whole.get(k) != found.get(k))
                print(name, "differs in", different, "and left", sorted(_unfinished(out)))
            shutil.rmtree(out)
    return {**row, "wrong": wrong}


def _problems(name: str, out: Path, sent: list[str], status: int, said: str, children: list[int]) -> list[str]:
    """What a signal has left that it should not."""
    found = []
    # Of two at once either may come first; a negative one: before its first line, or after its last.
    known = [0, *(STATUS.get(kind) for kind in sent), *(-getattr(signal, f"SIG{kind}") for kind in sent)]
    if "init_import_site" in said:  # Python had not come to the program yet
        return found
    if status not in known:
        found.append(f"a status of {status}")
    if sent == ["KILL"]:
        return found
    bad = [word for word in ("Traceback", "terminate called", "Fatal Python", "FATAL") if word in said]
    found += [f"it said {said[max(0, said.index(word) - 200) :][:3000]}" for word in bad]
    found += [f"process {pid} goes on" for pid in children if Path(f"/proc/{pid}").exists()]
    if name in ("first", "second") and status > 0 and (out / "metrics.jsonl").exists() and "saved;" in said:
        newest, last = checkpoint.find_step(str(out)).name, max(line["step"] for line in history(out))
        if int(newest) < last:
            found.append(f"saved step {newest} of {last}")
    return found


def _unfinished(out: Path) -> set[str]:
    """Locks, and what has no name of its own yet."""
    marks = lambda name: name == "in_use.lock" or name.startswith(".") or "tmp" in name
    return {str(path.relative_to(out)) for path in out.rglob("*") if marks(path.name)} if out.exists() else set()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
    except OSError:
        return []


def _left(name: str, out: Path) -> dict[str, object]:
    """What a run leaves, but for when it ran."""
    found: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        inner = str(path.relative_to(out))
        if "checkpoints" not in path.parts and path.suffix not in (".json", ".md") and path.name != "times.jsonl":
            found[inner] = hashlib.sha256(path.read_bytes()).hexdigest()
    if name in ("first", "second"):
        folder = checkpoint.find_step(str(out))
        trees = [read.load_tree(folder, item) for item in ("params", "train")]
        found["step"] = folder.name
        found |= {f"array {i}": np.asarray(x).tobytes() for i, x in enumerate(jax.tree.leaves(trees))}
    if name == "samples":
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        found["figures"] = {key: value for key, value in result.items() if key != "protocol"}
    if name == "encode":
        found["info"] = (out / "info.json").read_text(encoding="utf-8")
    return found


TESTS = {"signals": signalled, "kills": kills, "processes": processes, "disk": disk, "damage": damage}
PROGRAMS = ("first", "second", "draw", "encode", "samples")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", default=[], metavar="TEST", help=f"of {', '.join(TESTS)}; default all")
    parser.add_argument("--kills", type=int, default=20, help="how often to kill")
    parser.add_argument("--program", nargs="+", default=PROGRAMS, choices=PROGRAMS, help="of signals; default all")
    parser.add_argument("--signals", nargs="+", default=KINDS, choices=KINDS, help="of signals; default all")
    parser.add_argument("--count", type=int, default=100, help="how many signals in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of signals")
    parser.add_argument("--workdir", help="where to work; default: a temporary folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.tests) - set(TESTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    root = Path(arguments.workdir or tempfile.mkdtemp(prefix="taming_jax_faults_")).resolve()
    for name in arguments.tests or TESTS:
        shutil.rmtree(root / name, ignore_errors=True)
        began = time.monotonic()
        (root / name).mkdir(parents=True)
        (root / "cache").mkdir(exist_ok=True)
        (root / name / "cache").symlink_to(root / "cache")
        given = {"kills": [arguments.kills]}
        given["signals"] = [list(arguments.program), list(arguments.signals), arguments.count, arguments.seed]
        TESTS[name](root / name, *given.get(name, []))
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
