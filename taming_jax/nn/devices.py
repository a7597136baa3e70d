"""What kind of devices a program is traced for, where the best way to compute something depends on it."""

import jax


def on_tpu() -> bool:
    """Whether what is traced here is for TPUs: those of the mesh under `jax.set_mesh`, else the default devices."""
    return _platform() == "tpu"


def on_cpu() -> bool:
    """The same of CPUs."""
    return _platform() == "cpu"


def _platform() -> str:
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.device_kind.split()[0].lower()
