"""The CPU cores that a process may use, by its affinity and by the quotas of its cgroups."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

from taming_jax import cores


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """One of 64 cores, all of which the process may run on."""
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


def version_2(root, group, quotas, mounted="/", place="/sys/fs/cgroup"):
    """A process in a group of version 2; quotas: folder below the mount -> what its cpu.max says."""
    write(root, f"0::{group}\n", f"30 23 0:26 {mounted} {place} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n")
    for folder, text in quotas.items():
        put(root / place.replace(r"\040", " ").strip("/") / folder / "cpu.max", text)


def version_1(root, group, quotas, mounted="/", controllers="cpu,cpuacct"):
    """A process in a group of version 1; quotas: folder below the mount -> (quota, period)."""
    place = f"/sys/fs/cgroup/{controllers}"
    mounts = "29 23 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    mounts += f"31 30 0:27 {mounted} {place} rw,nosuid shared:9 - cgroup cgroup rw,{controllers}\n"
    mounts += "32 30 0:28 / /sys/fs/cgroup/cpuset rw,nosuid shared:9 - cgroup cgroup rw,cpuset\n"
    write(root, f"5:cpuset:/other\n4:{controllers}:{group}\n1:name=systemd:/a:b\n0::/init\n", mounts)
    for folder, (quota, period) in quotas.items():
        put(root / place.strip("/") / folder / "cpu.cfs_quota_us", f"{quota}\n")
        put(root / place.strip("/") / folder / "cpu.cfs_period_us", f"{period}\n")


def write(root, groups, mounts):
    put(root / "proc/self/cgroup", groups)
    put(root / "proc/self/mountinfo", "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n" + mounts)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_without_cgroups_it_is_the_affinity(tmp_path, monkeypatch):
    assert cores.allowed(tmp_path) == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 17})
    assert cores.allowed(tmp_path) == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    assert cores.allowed(tmp_path) == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.allowed(tmp_path) == 1
    monkeypatch.setattr(os, "process_cpu_count", lambda: 5, raising=False)  # Python 3.13
    assert cores.allowed(tmp_path) == 5


@pytest.mark.parametrize("seed", range(4))
def test_a_quota_is_rounded_up_in_both_versions(tmp_path, seed):
    rng = np.random.default_rng(seed)
    period = int(rng.choice([20_000, 50_000, 100_000]))
    quota = int(rng.integers(1000, 20 * period))
    expected = min(64, math.ceil(quota / period))
    version_2(tmp_path / "2", "/", {"": f"{quota} {period}\n"})
    version_1(tmp_path / "1", "/", {"": (quota, period)}, controllers=str(rng.choice(["cpu", "cpu,cpuacct"])))
    assert [cores.allowed(tmp_path / version) for version in "12"] == [expected] * 2


def test_the_tightest_group_around_the_process_counts(tmp_path, monkeypatch):
    version_2(tmp_path, "/user/job 7/step", {"user": "600000 100000\n", "user/job 7": "250000 100000\n"})
    put(tmp_path / "sys/fs/cgroup/user/job 7/step/cpu.max", "max 100000\n")
    put(tmp_path / "sys/fs/cgroup/user/another/cpu.max", "100000 100000\n")
    assert cores.allowed(tmp_path) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert cores.allowed(tmp_path) == 2


def test_a_container_sees_its_own_group_at_the_top_of_the_mount(tmp_path):
    version_1(tmp_path / "1", "/docker/0123", {"": (400_000, 100_000)}, mounted="/docker/0123")
    version_2(tmp_path / "2", "/kube/pod/0123", {"": "150000 100000\n"}, mounted="/kube/pod/0123")
    version_2(tmp_path / "named", "/", {"": "500000 100000\n"}, place=r"/my\040groups")
    assert [cores.allowed(tmp_path / name) for name in ("1", "2", "named")] == [4, 2, 5]


@pytest.mark.parametrize("text", ["max 100000\n", "", "\n", "0 100000\n", "-1 100000\n", "200000\n", "a b\n", "1 0\n"])
def test_what_is_no_limit_limits_nothing(tmp_path, text):
    version_2(tmp_path, "/", {"": text})
    assert cores.allowed(tmp_path) == 64


def test_foreign_lines_are_passed_over(tmp_path):
    write(tmp_path, "\nx\n0::/../../up\n", "\n1 2\n30 23 0:26 / /g rw - cgroup2\n31 23 0:26 / /g rw - cgroup2 c rw\n")
    put(tmp_path / "g/cpu.max", "100000 100000\n")  # another's: the process is in none below
    (tmp_path / "proc/self/cgroup").write_bytes(b"0::/\xff\xfe\n")
    assert cores.allowed(tmp_path) == 1  # its group is unknown there, but all are below the top
    write(tmp_path, "0::/../../up\n", "31 23 0:26 / /g rw - cgroup2 c rw\n")
    assert cores.allowed(tmp_path) == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_decoding_and_evaluation_take_as_many_threads(tmp_path):
    """Of a process that may run on one core of, as it seems, 64."""
    program = """
import concurrent.futures, os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.cpu_count, asked = lambda: 64, []
class Spy(concurrent.futures.ThreadPoolExecutor):
    def __init__(self, n=None, *rest, **more):
        asked.append(n)
        super().__init__(n, *rest, **more)
concurrent.futures.ThreadPoolExecutor = Spy
from PIL import Image
from taming_jax.data.config import DataConfig
from taming_jax.quality import images, statistics
Image.new("RGB", (8, 8)).save("0.png")
found = images.of_files(".")
class Features:
    prepare = staticmethod(lambda image: image)
list(statistics._prepared(found, Features(), 1, 1, 0))
print(DataConfig().threads, DataConfig(workers=7).threads, asked)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, encoding="utf-8"
    )
    assert result.stdout.strip() == "1 7 [1, 1]", result.stderr
