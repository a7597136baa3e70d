"""How the page ends, with a program of its own for each test: by signals while XLA draws, and its temporary folders."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import page_models
import pytest
from page_client import draw, named, serving, told
from waiting import until

from taming_jax.page import folders
from taming_jax.page.queue import Full, Queue

ROOT = Path(__file__).parent.parent
# The page with a model that draws by long calls of XLA, in place of those of --workdir.
PROGRAM = """
import sys
from taming_jax.stopping import listen
listen()
import jax, page_models
from taming_jax.page import __main__ as program, folders
from taming_jax.program import run_to_its_end

class Busy(page_models.Patient):
    def draw(self, asked, progress, show):
        with folders.folder() as folder:
            (folder / "file").write_bytes(b"")
            matrix = jax.numpy.ones((600, 600))
            while True:
                jax.lax.fori_loop(0, 30, lambda i, x: x @ matrix / 600, matrix).block_until_ready()
                progress(1)
                progress = lambda steps: None  # one that is too long to be waited for

program._painters = lambda workdirs: [Busy(page_models.painter("none"))]
sys.argv[1:] = ["--port=0"]
run_to_its_end(program.main)
"""


def ask(address, path, body=None):
    with urllib.request.urlopen(f"{address}{path}", body, timeout=60) as answer:
        return json.loads(answer.read())


@contextlib.contextmanager
def killed_in_the_end(process):
    """A test that fails must not wait for a program that goes on."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_it_in_one_line_while_it_draws(name, tmp_path):
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TMPDIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM]
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, encoding="utf-8"
        ) as page,
        killed_in_the_end(page),
    ):
        address = page.stdout.readline().split()[0]
        form = json.dumps({"model": 0, "height": 16, "width": 16}).encode()
        drawn, waits = (ask(address, "draw", form)["name"] for _ in range(2))
        until(lambda: ask(address, f"drawing?name={drawn}")["done"])
        assert list(tmp_path.glob("taming_jax_page_*/file"))
        begun = time.monotonic()
        page.send_signal(getattr(signal, name))
        until(lambda: ask(address, f"drawing?name={waits}")["state"] == "failed")
        assert ask(address, f"drawing?name={waits}")["error"] == "The page was ended."
        with pytest.raises(urllib.error.HTTPError, match="503"):
            ask(address, "draw", form)
        out, errors = page.communicate(timeout=60)
    assert time.monotonic() - begun < 30 and page.returncode == 128 + getattr(signal, name)
    assert errors.strip().count("\n") == 0 and "a picture was being drawn and 1 waited" in errors and not out
    assert not list(tmp_path.glob("taming_jax_page_*"))


def test_the_queue_ends_with_the_next_step_or_without_it():
    slow = page_models.Patient(page_models.painter("none"))
    with serving(slow) as page:
        name = named(draw(page, labels=None))
        until(lambda: told(page, name)["state"] == "drawing")
        assert page.queue.unfinished() == (1, 0) and page.unfinished() == "a picture was being drawn"
        slow.go.release()
        assert page.queue.end("over", 300)  # far less: it waits for one step
        assert (told(page, name)["state"], told(page, name)["error"]) == ("failed", "over")
        with pytest.raises(Full, match="over"):
            page.queue.add(None, 1)
        assert not page.queue.end("over", 300)
    stuck = Queue(lambda asked, progress, show: time.sleep(1) or ([], None))
    drawing = stuck.add(None, 1)
    until(lambda: drawing.state == "drawing")
    assert stuck.end("over", 0.01) and drawing.state == "failed"
    time.sleep(1.5)
    assert drawing.state == "failed"  # what comes after all changes nothing that was told


def test_folders_of_a_killed_page_are_removed_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hold = "from taming_jax.page.folders import folder\nwith folder() as f: print(f, flush=True); input()"
    start = lambda: subprocess.Popen(
        [sys.executable, "-c", hold],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
    )
    (tmp_path / "taming_jax_pages").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_bytes(b"")
    (tmp_path / "taming_jax_page_link").symlink_to(tmp_path / "mine")
    (tmp_path / "taming_jax_page_file").write_bytes(b"")
    with start() as killed, start() as alive, folders.folder() as own:
        left, held = (Path(page.stdout.readline().decode().strip()) for page in (killed, alive))
        killed.kill()
        killed.wait()
        assert left.is_dir()
        folders.remove_left()
        assert not left.exists() and held.is_dir() and own.is_dir() and (tmp_path / "mine" / "file").exists()
        assert {path.name for path in tmp_path.iterdir()} - {held.name, own.name} == {
            "mine",
            "taming_jax_pages",
            "taming_jax_page_link",
            "taming_jax_page_file",
        }
        alive.communicate(b"\n", timeout=60)
        assert not held.exists()
        folders.remove_all()
        assert not own.exists()
