"""Compiling one program, and what is told of it: a table to read, and the same as JSON."""

import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from taming_jax.compiling.costs import Costs, costs
from taming_jax.compiling.hlo import parse
from taming_jax.compiling.programs import Program

GB = 1e9
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def measure(program: Program, clock: float) -> tuple[dict[str, Any], str]:
    """Compile a program -> (what is known of it, its text; "" where it does not fit).

    clock: of the device in MHz, for the estimated time; 0 where cycles are not known. Bytes and FLOPs are those of one
    device in one run.
    """
    started = time.perf_counter()
    lowered = program.lower()
    traced = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found = {"fits": False, "compile_s": round(time.perf_counter() - traced, 1), **_exhausted(str(error))}
        return found, ""
    seconds = time.perf_counter() - traced
    memory, text = compiled.memory_analysis(), compiled.as_text()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + outputs + memory.temp_size_in_bytes
    counted = costs(parse(text), program.trips)
    return {
        "fits": True,
        "peak_bytes": peak,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": outputs,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        **_counts(counted, program, clock),
        "trace_s": round(traced - started, 1),
        "compile_s": round(seconds, 1),
    }, text


def _counts(counted: Costs, program: Program, clock: float) -> dict[str, Any]:
    return {
        "cycles": round(counted.cycles),
        "estimated_ms": counted.cycles / clock / 1e3 if clock else None,
        "hbm_bytes": round(counted.hbm_bytes),
        "copied_bytes": round(counted.copied_bytes),
        "flops": counted.flops,
        "collectives": counted.collective_rows(),
        "per": program.per,
        "times": program.times,
        "loops_counted_once": sorted(set(counted.unknown)),
    }


def _exhausted(message: str) -> dict[str, Any]:
    """What the compiler says it would need."""
    found = _USED.search(message)
    if not found:
        return {"message": message.splitlines()[0]}
    used, there = (round(float(found[i]) * _UNITS[found[i + 1]]) for i in (1, 3))
    return {"peak_bytes": used, "memory_bytes": there}


def table(found: Mapping[str, Any]) -> str:
    """For people."""
    mesh = " ".join(f"{axis}={size}" for axis, size in found["mesh"].items())
    lines = [f"{found['program']} of {found['config']} on {found['slice']}, mesh {mesh}, batch {found['batch']}"]
    if not found["fits"]:
        needs = f"it takes {found['peak_bytes'] / GB:.1f} GB" if "peak_bytes" in found else found["message"]
        there = f", and a device has {found['memory_bytes'] / GB:.1f}" if "memory_bytes" in found else ""
        return "\n".join([*lines, f"DOES NOT FIT: {needs}{there} (found in {found['compile_s']} s)"])
    gb = lambda name: f"{found[name] / GB:.2f} GB"
    lines += [
        f"fits: {gb('peak_bytes')} at most on a device: arguments {gb('argument_bytes')}, results beside them "
        f"{gb('output_bytes')}, temporaries {gb('temporary_bytes')}; the program itself {gb('code_bytes')}",
        f"{found['flops'] / 1e12:.3f} TFLOP and {found['hbm_bytes'] / GB:.2f} GB of memory traffic on a device"
        f", {found['copied_bytes'] / GB:.2f} of it copies",
    ]
    if found["estimated_ms"] is not None:
        lines.append(
            f"{found['cycles'] / 1e6:.1f} M cycles, {found['estimated_ms']:.1f} ms by the compiler's own estimate, "
            "without collectives: not a measurement"
        )
    if found["times"] != 1:
        n = found["times"]
        lines.append(
            f"a {found['per']} ({n:g} of them): {found['cycles'] / n / 1e6:.2f} M cycles, "
            f"{found['hbm_bytes'] / n / GB:.3f} GB of traffic"
        )
    for row in found["collectives"]:
        share = row["overlapped"] / row["bytes"] if row["bytes"] else 0
        lines.append(
            f"  {row['kind']:18s} {row['dtype']:5s} {row['count']:6d} times {row['bytes'] / GB:9.3f} GB, "
            f"{share:4.0%} beside computation, the largest {row['largest']}"
        )
    if not found["collectives"]:
        lines.append("  no collectives")
    for scope in found["loops_counted_once"]:
        lines.append(f"  counted once, since its end is known at run time only: the loop {scope}")
    lines.append(f"traced in {found['trace_s']} s, compiled in {found['compile_s']} s")
    return "\n".join(lines)
