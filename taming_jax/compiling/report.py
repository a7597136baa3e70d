"""Compiling one program, and what is told of it: a table to read, and the same as JSON."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax

from taming_jax.compiling.costs import Costs, costs
from taming_jax.compiling.hlo import parse
from taming_jax.compiling.programs import Program
from taming_jax.compiling.target import Target

GB = 1e9
# The second is what newer compilers of TPUs say.
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?)")
_EXCEEDS = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def measure(program: Program, target: Target) -> tuple[dict[str, Any], str]:
    """Compile a program -> (what is known of it, its text; "" where the compiler refuses it).

    Bytes and FLOPs are those of one device in one run. Cycles are None where the compiler estimates none.
    """
    started = time.perf_counter()
    lowered = program.lower()
    traced = time.perf_counter()
    with TemporaryDirectory() as folder:
        written = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            compiled = lowered.compile(compiler_options={**target.options, **written})
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            found = {"fits": False, "compile_s": round(time.perf_counter() - traced, 1), **_exhausted(str(error))}
            return found, ""
        seconds = time.perf_counter() - traced
        memory, text = compiled.memory_analysis(), _text(compiled, Path(folder))
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + outputs + memory.temp_size_in_bytes
    counted = costs(parse(text), program.trips)
    limit = {"memory_bytes": round(target.memory)} if target.memory else {}
    return {
        "fits": not target.memory or peak <= target.memory,
        "peak_bytes": peak,
        **limit,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": outputs,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        **_counts(counted, program, target.clock),
        **({"note": target.note} if target.note else {}),
        "trace_s": round(traced - started, 1),
        "compile_s": round(seconds, 1),
    }, text


def _text(compiled: Any, folder: Path) -> str:
    """The program's text. JAX cannot read every instruction of a newer compiler, which has written it itself, too."""
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError:
        written = sorted(folder.glob("*after_codegen.txt"), key=lambda file: file.stat().st_size)
        if not written:
            raise
        return written[-1].read_text(encoding="utf-8")


def _counts(counted: Costs, program: Program, clock: float) -> dict[str, Any]:
    return {
        "cycles": round(counted.cycles) if clock else None,
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
    found = _USED.search(message) or _EXCEEDS.search(message)
    if not found:
        return {"message": message.splitlines()[0]}
    used, there = (round(float(found[i]) * _UNITS[found[i + 1]]) for i in (1, 3))
    return {"peak_bytes": used, "memory_bytes": there}


def table(found: Mapping[str, Any]) -> str:
    """For people."""
    mesh = " ".join(f"{axis}={size}" for axis, size in found["mesh"].items())
    lines = [f"{found['program']} of {found['config']} on {found['slice']}, mesh {mesh}, batch {found['batch']}"]
    gb = lambda name: f"{found[name] / GB:.2f} GB"
    there = f" of {gb('memory_bytes')} that it may take" if "memory_bytes" in found else ""
    if "flops" not in found:  # refused
        needs = f"it takes {gb('peak_bytes')}" if "peak_bytes" in found else found["message"]
        return "\n".join([*lines, f"DOES NOT FIT: {needs}{there} (found in {found['compile_s']} s)"])
    lines += [
        f"{'fits' if found['fits'] else 'DOES NOT FIT'}: {gb('peak_bytes')} at most on a device{there}: arguments "
        f"{gb('argument_bytes')}, results beside them {gb('output_bytes')}, temporaries {gb('temporary_bytes')}; the "
        f"program itself {gb('code_bytes')}",
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
        cycles = "" if found["cycles"] is None else f"{found['cycles'] / n / 1e6:.2f} M cycles, "
        lines.append(f"a {found['per']} ({n:g} of them): {cycles}{found['hbm_bytes'] / n / GB:.3f} GB of traffic")
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
    lines += [found["note"]] if "note" in found else []
    lines.append(f"traced in {found['trace_s']} s, compiled in {found['compile_s']} s")
    return "\n".join(lines)
