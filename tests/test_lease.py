"""One process a folder: refused by every path to it, taken over from the dead, and noticed where it is lost."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import until

from taming_jax import lease


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in {"BEAT": 0.05, "PATIENCE": 0.6, "SETTLE": 0.05}.items():
        monkeypatch.setattr(lease, name, seconds)


def of_another(folder, **changes):
    """What another process has left in the folder."""
    owner = dataclasses.replace(lease.Owner.this("training"), token="other", **changes)
    Path(folder, lease.FILE).write_text(json.dumps(dataclasses.asdict(owner)), encoding="utf-8")
    return owner


@pytest.mark.parametrize("way", ["same", "symlink", "relative", "above"])
def test_the_second_is_refused_by_every_path_and_told_of_the_first(way, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "a [1]"
    with lease.held(folder, "training"):
        (tmp_path / "link").symlink_to(folder)
        (tmp_path / "runs_too").symlink_to(tmp_path / "runs")
        monkeypatch.chdir(tmp_path)
        paths = {"same": folder, "symlink": tmp_path / "link", "relative": "runs/a [1]", "above": "runs_too/a [1]"}
        message = rf"is in use by a process of training \(host .+, pid {os.getpid()}, since 2"
        with pytest.raises(ValueError, match=message), lease.held(paths[way], "training"):
            pytest.fail("held twice")
        assert (folder / lease.FILE).exists()
    assert not folder.exists()  # which was made for it, and is empty
    with lease.held(folder, "training"):
        (folder / "history").touch()
    assert [path.name for path in folder.iterdir()] == ["history"]


def test_what_a_killed_process_leaves_is_taken_over_at_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(lease, "PATIENCE", 1e6)  # it is not waited for
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    of_another(tmp_path, pid=ended.pid)
    with lease.held(tmp_path, "training"):
        assert f"pid {ended.pid}" in caplog.text and "is taken over" in caplog.text
    of_another(tmp_path, started="1")  # this process's number, given again
    with lease.held(tmp_path, "training"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{}", "no JSON"])
def test_what_was_cut_in_the_middle_is_taken_over(content, tmp_path):
    (tmp_path / lease.FILE).write_text(content, encoding="utf-8")
    with lease.held(tmp_path, "training"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("alive", [True, False])
def test_on_another_host_only_a_heartbeat_tells_who_is_alive(alive, tmp_path, monkeypatch):
    owner, over = of_another(tmp_path, host="elsewhere", machine="elsewhere"), threading.Event()

    def beat():
        while not over.wait(0.05):
            os.utime(tmp_path / lease.FILE)

    thread = threading.Thread(target=beat)
    if alive:
        monkeypatch.setattr(lease, "PATIENCE", 60.0)  # the first heartbeat ends it
        thread.start()
        with pytest.raises(ValueError, match=rf"host elsewhere, pid {owner.pid}"), lease.held(tmp_path, "training"):
            pytest.fail("held twice")
        over.set(), thread.join()
    else:
        with lease.held(tmp_path, "training"):
            pass
        assert not list(tmp_path.iterdir())


def test_who_has_slept_and_lost_the_folder_writes_nothing_more(tmp_path):
    with lease.held(tmp_path, "training") as held:
        held.check()
        of_another(tmp_path, host="elsewhere")
        until(lambda: held._lost, 30)
        with pytest.raises(ValueError, match=r"was taken over by a process of training \(host elsewhere"):
            held.check()
    assert (tmp_path / lease.FILE).exists()  # it is the other's


@pytest.mark.parametrize("left", [False, True])
def test_of_many_that_come_at_once_one_has_the_folder(left, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    if left:
        of_another(tmp_path, pid=ended.pid)
    holding, refused, together = [], [], threading.Barrier(4)

    def come():
        mine = lease.Lease(tmp_path, "training")
        together.wait()
        try:
            mine.take()
            holding.append(mine)
        except ValueError:
            refused.append(mine)

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in holding:
        each.give_back()
    assert (len(holding), len(refused)) == (1, 3) and not list(tmp_path.iterdir())
