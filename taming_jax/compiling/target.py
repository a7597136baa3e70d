"""What a program is compiled for, whoever makes it."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices that are described and not there: they compile, and cannot compute.

    name: as given. clock: in MHz, where the compiler estimates cycles, else 0. memory: bytes that a program may take of
    each device, where the compiler does not refuse what is too large itself, else 0. options: of the compiler. flags:
    the environment variable with those of the user. packages: whose versions matter. note: what the figures leave out.
    """

    name: str
    devices: list[Any]
    clock: float
    flags: str
    packages: tuple[str, ...]
    memory: float = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""
