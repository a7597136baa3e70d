"""What a compiled program costs on one device: cycles, memory traffic, FLOPs, collectives; loops multiplied out.

All of it is read from the program's text. Cycles are the compiler's own estimate, which knows nothing of the links
between devices: an estimate, not a measurement.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from taming_jax.compiling.hlo import HBM, Instruction, Module, Shape

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# What moves nothing by itself.
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "conditional", "call")
CUTS = ("slice", "dynamic-slice", "gather")
FREE += ("opt-barrier", "partition-id", "replica-id", "iota")


@dataclasses.dataclass
class Collective:
    """Collectives of one kind and type: how many run in all, the bytes of their results on one device, and how many of
    those bytes travel while something else is computed. largest: the largest result."""

    kind: str
    dtype: str
    count: float = 0
    bytes: float = 0
    overlapped: float = 0
    largest: str = ""
    largest_bytes: int = 0


@dataclasses.dataclass
class Costs:
    """Of a run of the program on one device. unknown: loops whose length the text does not tell, counted once."""

    cycles: float = 0
    hbm_bytes: float = 0
    flops: float = 0
    copied_bytes: float = 0  # of hbm_bytes, by copies alone: arrays brought into another layout or place
    collectives: dict[tuple[str, str], Collective] = dataclasses.field(default_factory=dict)
    unknown: list[str] = dataclasses.field(default_factory=list)

    def collective_rows(self) -> list[dict[str, Any]]:
        """As JSON, the most bytes first."""
        rows = sorted(self.collectives.values(), key=lambda found: -found.bytes)
        return [
            {
                "kind": row.kind,
                "dtype": row.dtype,
                "count": round(row.count),
                "bytes": round(row.bytes),
                "overlapped": round(row.overlapped),
                "largest": row.largest,
            }
            for row in rows
        ]


def costs(module: Module, trips: Mapping[str, float] = MappingProxyType({})) -> Costs:
    """trips: how often loops run whose end is known at run time only, by the end of their scope in the traced program,
    such as {"pass_0/while": 3.5}; the longest that fits counts."""
    found, seen = Costs(), defaultdict[str, set](set)
    _walk(module, module.entry, 1.0, trips, found, seen)
    return found


def loop_instructions(module: Module) -> list[Instruction]:
    """Everything that runs within a loop, in this or in computations that it calls."""
    found: dict[str, Mapping[str, Instruction]] = {}

    def visit(name: str) -> None:
        if name in found:
            return
        found[name] = module.computations[name]
        for instruction in module.computations[name].values():
            for inner in [*instruction.calls, *([instruction.attribute("body")] * (instruction.opcode == "while"))]:
                visit(inner)

    for body in module.loops:
        visit(body)
    return [instruction for instructions in found.values() for instruction in instructions.values()]


def _walk(
    module: Module,
    name: str,
    times: float,
    trips: Mapping[str, float],
    found: Costs,
    seen: dict[str, set],
) -> None:
    instructions = module.computations[name]
    for instruction in instructions.values():
        found.cycles += times * instruction.cycles
        if instruction.opcode == "while":
            n = module.trips(name, instruction)
            if n is None:
                fitting = [end for end in trips if instruction.scope.endswith(end)]
                if not fitting:
                    found.unknown.append(instruction.scope)
                n = trips[max(fitting, key=len)] if fitting else 1
            _walk(module, instruction.attribute("body"), times * n, trips, found, seen)
            continue
        if instruction.opcode in ("call", "conditional"):
            for inner in instruction.calls:
                _walk(module, inner, times, trips, found, seen)
            continue
        _add_collective(instruction, instructions, times, found, seen[name])
        if instruction.opcode == "fusion" or instruction.opcode.startswith("async-start"):
            for inner in instruction.calls:
                _inside(module, inner, times, found, seen[name])
        found.flops += times * _flops(instruction, instructions)
        moved = times * _moved(module, instruction, instructions)
        found.hbm_bytes += moved
        if instruction.opcode.startswith("copy") or is_copy(module, instruction):
            found.copied_bytes += moved


def _inside(module: Module, name: str, times: float, found: Costs, seen: set) -> None:
    """What a fusion computes and sends; what it reads and writes is counted from outside."""
    instructions = module.computations[name]
    for instruction in instructions.values():
        _add_collective(instruction, instructions, times, found, seen)
        found.flops += times * _flops(instruction, instructions)
        for inner in instruction.calls:
            _inside(module, inner, times, found, seen)


def _add_collective(
    instruction: Instruction, around: Mapping[str, Instruction], times: float, found: Costs, seen: set
) -> None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return
    # The steps of an asynchronous one stand in several fusions, and share its channel.
    chain = re.search(r'chain_id="(\d+)"', instruction.rest)
    if chain:
        mark = (instruction.attribute("channel_id"), chain[1])
        if mark in seen:
            return
        seen.add(mark)
    overlaps = instruction.opcode.endswith("-start") or chain is not None
    overlaps = overlaps and '"is_sync":true' not in instruction.rest  # GPUs write all as if they were asynchronous
    shapes = instruction.shapes
    if instruction.opcode == "all-gather-start" or instruction.opcode == "collective-permute-start":
        n = len(instruction.operands)  # which stand before the results
        shapes = shapes[n : 2 * n] or shapes
    if kind == "reduce-scatter":
        shapes = tuple(around[name].shapes[0] for name in instruction.operands if name in around)
    for shape in shapes:
        row = found.collectives.setdefault((kind, shape.dtype), Collective(kind, shape.dtype))
        row.bytes += times * shape.bytes
        row.overlapped += times * shape.bytes * overlaps
        if shape.bytes >= row.largest_bytes:
            row.largest, row.largest_bytes = str(shape), shape.bytes
    dtypes = {shape.dtype for shape in shapes}
    for dtype in dtypes:
        found.collectives[(kind, dtype)].count += times


def _flops(instruction: Instruction, around: Mapping[str, Instruction]) -> float:
    if instruction.opcode == "custom-call":
        return _library_flops(instruction, around)
    if instruction.opcode == "convolution":
        image, kernel = (around[name].shapes[0] for name in instruction.operands[:2])
        return _convolution_flops(instruction, image, kernel, instruction.shapes[0])
    if instruction.opcode != "dot":
        return 0.0
    left = around[instruction.operands[0]].shapes[0]
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
    axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
    return 2.0 * float(np.prod(instruction.shapes[0].sizes)) * float(np.prod([left.sizes[axis] for axis in axes]))


def _library_flops(call: Instruction, around: Mapping[str, Instruction]) -> float:
    """Of NVIDIA's libraries, which GPUs' programs call. Gradients of a convolution are written by its own window."""
    found = re.search(r'custom_call_target="__(\w+)\$(\w+)"', call.rest)
    if not found:
        return 0.0
    operands = [around[name].shapes[0] for name in call.operands if name in around]
    kind, result = found[2], call.shapes[0]
    if kind.startswith("convForward") or kind.startswith("convBiasActivationForward"):
        return _convolution_flops(call, operands[0], operands[1], result)
    if kind == "convBackwardInput":
        return _convolution_flops(call, result, operands[1], operands[0])
    if kind == "convBackwardFilter":
        return _convolution_flops(call, operands[0], result, operands[1])
    if kind.startswith("fmha"):  # attention: two products, and five backward, where the weights are made again
        scores = re.search(r'"intermediate_tensor_shape": ?\{.*?"dimensions": ?\[([^\]]*)\]', call.rest)
        sizes = [int(size) for size in re.findall(r"\d+", scores[1])] if scores else [0]
        products = 5 if kind.endswith("Backward") else 2
        return products * 2.0 * float(np.prod(sizes)) * operands[0].sizes[-1]
    return 0.0


def _convolution_flops(instruction: Instruction, image: Shape, weights: Shape, output: Shape) -> float:
    """Twice the products; those with the zeros of padding and dilation do not count, since TPUs' compilers write matrix
    products with a batch as convolutions that are made of them."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    if not labels:
        return 0.0
    left, right, out = labels[1], labels[2], labels[3]
    inputs, kernel, result = image.sizes, weights.sizes, output.sizes
    products = float(result[out.index("b")] * result[out.index("f")] * kernel[right.index("i")])
    window = {key: value.split("x") for key, value in re.findall(r"(\w+)=([\dx_\-]+)", _window(instruction.rest))}
    for n in range(len(window.get("size", ()))):
        one = lambda key, default, n=n: window[key][n] if key in window else default
        low = int(one("pad", "0_0").rsplit("_", 1)[0])
        stride, dilation, holes = (int(one(key, "1")) for key in ("stride", "rhs_dilate", "lhs_dilate"))
        places = np.arange(result[out.index(str(n))])[:, None] * stride - low
        places = places + np.arange(kernel[right.index(str(n))])[None] * dilation
        inside = (places >= 0) & (places <= (inputs[left.index(str(n))] - 1) * holes) & (places % holes == 0)
        products *= int(inside.sum())
    return 2.0 * products / int(instruction.attribute("batch_group_count") or 1)


def _window(rest: str) -> str:
    found = re.search(r"window=\{([^}]*)\}", rest)
    return found[1] if found else ""


def _in_hbm(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.padded_bytes for shape in shapes if shape.space == HBM)


def _moved(module: Module, instruction: Instruction, around: Mapping[str, Instruction]) -> float:
    """Bytes that an instruction reads from the device's memory and writes there."""
    opcode = instruction.opcode
    if opcode in FREE or opcode.endswith("-done") or opcode.endswith("-update"):
        return 0
    operands = [around[name].shapes for name in instruction.operands if name in around]
    if opcode == "fusion":
        return _fusion_moved(module, instruction, operands)
    if opcode == "dynamic-slice":
        return 2 * _in_hbm(instruction.shapes)
    if opcode == "dynamic-update-slice":
        return 2 * _in_hbm(operands[1])
    if opcode == "slice-start":  # the result is a tuple of operand, slice and signal
        return _in_hbm(instruction.shapes[1:2]) + instruction.shapes[1].padded_bytes * (_in_hbm(operands[0]) > 0)
    if opcode.endswith("-start"):  # the result is a tuple with the operand
        return sum(map(_in_hbm, operands)) + _in_hbm(instruction.shapes[:1])
    if opcode == "custom-call" and not instruction.shapes[0].sizes:
        return 0
    return sum(map(_in_hbm, operands)) + _in_hbm(instruction.shapes)


def _fusion_moved(module: Module, fusion: Instruction, operands: list[tuple[Shape, ...]]) -> float:
    """As XLA counts: of an operand that is only cut, what is cut out; of one that is written into, what is written."""
    inside = module.computations[fusion.calls[0]]
    users = defaultdict(list)
    for instruction in inside.values():
        for name in instruction.operands:
            users[name].append(instruction)
    moved = 0.0
    written_into = set()
    for root in _roots(module.root(fusion.calls[0]), inside):
        while root.opcode in ("bitcast", "copy", "convert") and root.operands[0] in inside:
            root = inside[root.operands[0]]
        if root.opcode == "dynamic-update-slice":
            target = inside[root.operands[0]]
            while target.opcode == "bitcast":
                target = inside[target.operands[0]]
            written_into.add(target.name)
            if _in_hbm(fusion.shapes):
                moved += inside[root.operands[1]].shapes[0].padded_bytes
        elif root.shapes:
            moved += _in_hbm(root.shapes)
    for instruction in inside.values():
        if instruction.opcode != "parameter" or instruction.name in written_into:
            continue
        number = int(instruction.operands[0])
        if number >= len(operands) or not _in_hbm(operands[number]):
            continue
        readers = users[instruction.name]
        cut = [found for found in readers if found.opcode in CUTS and found.operands[0] == instruction.name]
        if readers and len(cut) == len(readers):
            moved += sum(reader.shapes[0].padded_bytes for reader in readers)
        else:
            moved += _in_hbm(operands[number])
    return moved


def _roots(root: Instruction, inside: Mapping[str, Instruction]) -> list[Instruction]:
    """What a fusion writes: its root, or the parts of that."""
    return [inside[name] for name in root.operands if name in inside] if root.opcode == "tuple" else [root]


def is_copy(module: Module, instruction: Instruction) -> bool:
    """Whether a fusion does nothing but bring an array into another layout."""
    if instruction.opcode != "fusion":
        return False
    kinds = {found.opcode for found in module.computations[instruction.calls[0]].values()}
    return "copy" in kinds and kinds <= {"parameter", "copy", "bitcast", "tuple", "transpose", "reshape"}
