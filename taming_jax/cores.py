"""How many CPU cores this process may use, which in a job or a container are fewer than the machine has."""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def allowed(root: Path = Path("/")) -> int:
    """The number of cores: of those that the process may run on, as many as its cgroups have time for; at least 1.

    root: where /proc and the cgroups lie.
    """
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on; it heeds PYTHON_CPU_COUNT as well
        there = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        there = len(os.sched_getaffinity(0))
    else:  # macOS and Windows
        there = os.cpu_count()
    return max(1, min([there or 1, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """How many cores' time each cgroup around this process has, where it is limited."""
    groups: dict[str, str] = {}  # controller, such as "cpu", or "" in version 2 -> the process's group
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        groups |= {name: group for name in controllers.split(",")}
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2":
            controller, quota_of = "", _version_2
        elif kinds[0] == "cgroup" and "cpu" in kinds[2].split(","):
            controller, quota_of = "cpu", _version_1
        else:
            continue
        mounted, place = (_plain(field) for field in fields[3:5])
        for folder in _around(groups.get(controller, "/"), mounted):
            quota = quota_of(root / place.lstrip("/") / folder)
            if quota is not None:
                yield quota


def _around(group: str, mounted: str) -> list[PurePosixPath]:
    """The folders below a mount that limit a group: its own and those above it. mounted: the group that the mount shows
    at its top, in a container often the process's own."""
    path = PurePosixPath(group)
    below = next((path.relative_to(top) for top in (mounted, "/") if path.is_relative_to(top)), PurePosixPath())
    return [] if ".." in below.parts else [below, *below.parents]


def _version_2(folder: Path) -> float | None:
    """Of a file such as "200000 100000": microseconds of each period of so many; "max" is no limit."""
    quota, period = [*next(iter(_lines(folder / "cpu.max")), "").split(), "", ""][:2]
    return _share(quota, period)


def _version_1(folder: Path) -> float | None:
    quota, period = (next(iter(_lines(folder / f"cpu.cfs_{name}_us")), "") for name in ("quota", "period"))
    return _share(quota.strip(), period.strip())


def _share(quota: str, period: str) -> float | None:
    """How many cores that are; None for "max", -1 and whatever else is no limit."""
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        return int(quota) / int(period)
    return None


def _plain(field: str) -> str:
    r"""A field of mountinfo, which has "\040" for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _lines(path: Path) -> list[str]:
    """Nothing where there is no such file, or none that may be read."""
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    return []
