"""A compiled program's text as XLA prints it: computations, instructions, shapes, and how often loops run."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4}
SIZES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
HBM = 0  # the memory space of arrays that name none; 1 is the chip's own memory (VMEM), others hold signals

_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array: its type, its sizes, and its layout as the compiler writes it ("2,1,0:T(8,128)(2,1)S(1)")."""

    dtype: str
    sizes: tuple[int, ...]
    layout: str = ""

    @property
    def space(self) -> int:
        """The memory that it lies in, `HBM` or another."""
        found = _SPACE.search(self.layout)
        return int(found[1]) if found else HBM

    @property
    def bytes(self) -> int:
        """Of its elements alone."""
        return SIZES.get(self.dtype, 0) * math.prod(self.sizes)

    @property
    def padded_bytes(self) -> int:
        """With what fills up the tiles of its layout: 64 numbers in a row of 128 lanes take the whole row."""
        order = [int(axis) for axis in self.layout.split(":")[0].split(",") if axis.strip().isdigit()]
        tile = _TILE.search(self.layout)
        sizes = [self.sizes[axis] for axis in reversed(order)] if len(order) == len(self.sizes) else [*self.sizes]
        if tile and sizes:
            tiles = [int(size) for size in tile[1].split(",")][-len(sizes) :]
            for i, size in enumerate(reversed(tiles), 1):
                sizes[-i] = -(-sizes[-i] // size) * size
        return SIZES.get(self.dtype, 0) * math.prod(sizes)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.sizes))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation. shapes: of the result, or of the parts of a tuple. rest: its attributes, as text."""

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    def attribute(self, name: str) -> str:
        """The value of `name=value` where it is one word; else ""."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""

    @property
    def calls(self) -> list[str]:
        """The computations that it runs, but for those of a loop."""
        found = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        if found:
            return [name.strip().lstrip("%") for name in found[1].split(",")]
        names = [self.attribute(key) for key in ("calls", "true_computation", "false_computation")]
        names += [self.attribute("to_apply")] if self.opcode == "call" else []
        return [name for name in names if name]

    @property
    def scope(self) -> str:
        """Where it comes from in the traced program, such as "jit(step)/GPT/block_0/attention/out/dot_general"."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def cycles(self) -> int:
        """The compiler's estimate; 0 where it gives none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(found[1]) if found else 0


@dataclasses.dataclass(frozen=True)
class Module:
    """The computations of a program by their names, each its instructions by theirs in their order, and the one that it
    starts with."""

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str

    def root(self, computation: str) -> Instruction:
        """What a computation returns."""
        instructions = list(self.computations[computation].values())
        return next((found for found in instructions if found.is_root), instructions[-1])

    @functools.cached_property
    def loops(self) -> dict[str, tuple[str, Instruction]]:
        """The body of each loop -> (the computation that the loop stands in, the loop)."""
        found = {}
        for name, instructions in self.computations.items():
            for instruction in instructions.values():
                if instruction.opcode == "while":
                    found[instruction.attribute("body")] = (name, instruction)
        return found

    def trips(self, computation: str, loop: Instruction) -> int | None:
        """How often a loop of this computation runs: from 0 up to a constant, as those of `lax.scan` do. None where its
        end is known at run time only."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known[1])
        condition = loop.attribute("condition")
        end = self._end_of(condition)
        if isinstance(end, str):  # a part of what the loop carries
            end = self._constant(computation, loop.operands[0], int(end))
        return end

    def _end_of(self, condition: str) -> int | str | None:
        """What the counter of a loop is compared with: a number, the place of one in what is carried as text, or None
        for something else."""
        instructions, root = self.computations[condition], self.root(condition)
        arguments: tuple[str, ...] = ()
        if root.opcode == "fusion" or root.opcode == "call":
            arguments, inner = root.operands, root.calls[0]
            inside, root = self.computations[inner], self.root(inner)
        else:
            inside = instructions
        if root.opcode != "compare" or "direction=LT" not in root.rest:
            return None
        end = inside[root.operands[1]]
        if end.opcode == "parameter" and arguments:
            end = instructions[arguments[int(end.operands[0])]]
        if end.opcode == "constant":
            return int(end.operands[0])
        return end.attribute("index") if end.opcode == "get-tuple-element" else None

    def _constant(self, computation: str, name: str, index: int) -> int | None:
        """The part `index` of a tuple, where that is a constant."""
        instructions = self.computations[computation]
        found = instructions[name]
        if found.opcode != "tuple":
            return None
        found = instructions[found.operands[index]]
        while found.opcode in ("copy", "bitcast"):
            found = instructions[found.operands[0]]
        return int(found.operands[0]) if found.opcode == "constant" and found.operands[0].isdigit() else None


def parse(text: str) -> Module:
    """The text of a compiled program, `compiled.as_text()`. Raises ValueError where it holds no program."""
    computations: dict[str, dict[str, Instruction]] = {}
    current: dict[str, Instruction] = {}
    entry = ""
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            current = computations.setdefault(start[2], {})
            entry = start[2] if start[1] else entry
        elif found := _instruction(line):
            current[found.name] = found
    if not entry:
        raise ValueError("this is no text of a compiled program: it has no ENTRY.")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    head = _HEAD.match(line)
    if not head:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    shapes = tuple(_shapes(rest[:end]))
    rest = rest[end:].lstrip()
    opened = rest.find("(")
    if opened < 0:
        return None
    closed = _closing(rest, opened)
    inside = re.sub(r"/\*.*?\*/", "", rest[opened + 1 : closed])
    operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or tuple(part.strip() for part in inside.split(","))
    return Instruction(head[2], shapes, rest[:opened], operands, rest[closed + 1 :], bool(head[1]))


def _shapes(text: str) -> Iterator[Shape]:
    for dtype, sizes, layout in _SHAPE.findall(text):
        yield Shape(dtype, tuple(map(int, sizes.split(","))) if sizes else (), layout)


def _closing(text: str, opened: int) -> int:
    """The place of the bracket that closes the one at `opened`."""
    depth = 0
    for place in range(opened, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    return len(text) - 1
