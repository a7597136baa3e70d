"""What a signal does to a program: one line, its status, nothing left behind; and to a program whose reader is gone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STOPS = {"INT": 130, "TERM": 143, "HUP": 129}

PROGRAM = """
import sys, time
from taming_jax.stopping import listen
listen()
from taming_jax import program, stopping
from taming_jax.files import whole
done = 0
def main():
    global done
    with stopping.telling(lambda: f"{done} of 9 files are written"), whole(sys.argv[1]) as attempt:
        attempt.write_text("half")
        done = int(sys.argv[2])
        print("ready", flush=True)
        WAIT
program.run_to_its_end(main)
"""
PATIENT = "time.sleep(60)"
DEAF = """
        stopping.GRACE = 0.2
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
"""


# As a shell starts a program in the foreground, whatever the tests run in.
FRESH = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
"""


def start(*arguments, wait=PATIENT, before=FRESH, program=PROGRAM, **options):
    code = before + program.replace("WAIT", wait)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, text=True, **pipes)


@pytest.mark.parametrize("name", STOPS)
def test_one_signal_or_several_end_a_program_in_one_line(name, tmp_path):
    rng = random.Random(name)
    done, others = rng.randrange(9), rng.choices(list(STOPS), k=rng.randrange(3))
    running = start(tmp_path / "out", done)
    assert running.stdout.readline() == "ready\n"
    for each in (name, *others):
        running.send_signal(getattr(signal, f"SIG{each}"))
        time.sleep(0.02)
    _, said = running.communicate(timeout=60)
    (line,) = said.splitlines()
    assert line.startswith("stopped by ") and line.endswith(f": {done} of 9 files are written")
    assert running.returncode == STOPS[name] and not list(tmp_path.iterdir())


def test_a_program_that_hears_nothing_is_ended_from_beside(tmp_path):
    running = start(tmp_path / "out", 3, wait=DEAF)
    running.stdout.readline()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert said.strip() == "stopped by Ctrl-C: 3 of 9 files are written" and running.returncode == 130


IN_GARBAGE = """
        class Garbage:
            def __del__(self):
                print("ready", flush=True)
                time.sleep(30)
        Garbage()
        time.sleep(60)
"""


def test_a_signal_that_comes_where_python_drops_what_is_raised_is_not_lost(tmp_path):
    running = start(tmp_path / "out", 5, wait=IN_GARBAGE)
    assert [running.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert said == "stopped by Ctrl-C: 5 of 9 files are written\n" and running.returncode == 130
    assert time.monotonic() - began < 5 and not list(tmp_path.iterdir())


BESIDE = """
        import threading
        def complain():
            print("ready", flush=True)
            while True:
                try:
                    raise RuntimeError("Event loop is closed")
                except RuntimeError:
                    if stopping.received():
                        sys.excepthook(*sys.exc_info())
        threading.Thread(target=complain, daemon=True).start()
        time.sleep(60)
"""


def test_what_libraries_complain_of_when_they_are_stopped_does_not_bury_the_line(tmp_path):
    running = start(tmp_path / "out", 7, wait=BESIDE)
    assert [running.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert said == "stopped by SIGTERM: 7 of 9 files are written\n" and running.returncode == 143


IMPORTS = """
from taming_jax.stopping import listen
listen()
print("ready", flush=True)
import time
time.sleep(60)  # in a module that is imported
"""


@pytest.mark.parametrize("name", STOPS)
def test_a_signal_during_the_imports_ends_a_program_in_one_line(name):
    running = start(program=IMPORTS)
    running.stdout.readline()
    running.send_signal(getattr(signal, f"SIG{name}"))
    _, said = running.communicate(timeout=60)
    assert len(said.splitlines()) == 1 and said.startswith("stopped by ") and running.returncode == STOPS[name]


@pytest.mark.parametrize("name", ["INT", "HUP"])
def test_an_ignored_signal_stays_ignored(name, tmp_path):
    """As under nohup, and of what a script starts in the background."""
    running = start(tmp_path / "out", 1, before=f"import signal; signal.signal(signal.SIG{name}, signal.SIG_IGN)")
    running.stdout.readline()
    running.send_signal(getattr(signal, f"SIG{name}"))
    time.sleep(0.3)
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 143


WRITES = """
import os, sys, time
from taming_jax.stopping import listen
listen()
from tqdm import tqdm
from taming_jax import program
def main():
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in tqdm(range(3), mininterval=0):
        print("a line " * 2000)
        print("another", file=sys.stderr)
    open(sys.argv[1], "w").write("saved")
program.run_to_its_end(main)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_is_gone_costs_nothing(unbuffered, tmp_path):
    """`tee` and `head` end before the program does."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    running = start(tmp_path / "out", program=WRITES, stdin=subprocess.PIPE, env=environment)
    running.stdout.readline()
    running.stdout.close(), running.stderr.close()
    running.stdin.write("go on\n"), running.stdin.close()
    assert running.wait(60) == 0 and (tmp_path / "out").read_text(encoding="utf-8") == "saved"


def test_a_terminal_that_is_gone_costs_nothing(tmp_path):
    controller, terminal = os.openpty()
    options = {"stdin": subprocess.PIPE, "stdout": terminal, "stderr": terminal}
    running = start(tmp_path / "out", program=WRITES, **options)
    os.close(terminal)
    assert os.read(controller, 5) == b"ready"
    os.close(controller)
    running.stdin.write("go on\n"), running.stdin.close()
    assert running.wait(60) == 0 and (tmp_path / "out").read_text(encoding="utf-8") == "saved"


BARS = """
import logging, sys, warnings
from taming_jax.stopping import listen
listen()
from tqdm import tqdm
from taming_jax import program
def main():
    logging.getLogger("taming_jax").setLevel(logging.INFO)
    for i in tqdm(range(5), mininterval=0):
        logging.getLogger("taming_jax.some").info("told %d", i)
        warnings.warn("be warned")
program.run_to_its_end(main)
"""


def test_no_line_of_the_log_runs_into_a_bar():
    _, said = start(program=BARS).communicate(timeout=60)
    told = [line for line in said.replace("\r", "\n").splitlines() if "told" in line or "be warned" in line]
    assert len(told) >= 6 and not any("it/s" in line or "%|" in line for line in told)


def test_tensorflow_is_asked_not_to_narrate_wherever_the_package_is_imported_first():
    names = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
    program = f"import taming_jax, os; print(*map(os.environ.get, {names}))"
    environment = {name: value for name, value in os.environ.items() if name not in names}
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert found.stdout == "3 0\n"
