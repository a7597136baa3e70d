"""The cost of a pickle, counted from its opcodes. The scan ends before the unpickler runs the first of them.

A few bytes of a pickle may ask for gigabytes, or for a value that takes for ever to be hashed: a tuple that holds
another one twice, which holds another one twice, and so on. Here every opcode is looked at, with a stack of weights in
place of values: how many values one would go through to see all of each.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any, cast

from taming_jax.convert.tensors import Refused

MOST = 1_500_000  # opcodes; a training of 1000 arrays, with its averages and an optimizer, has 200 000
KEY = 64  # values within a key of a dictionary
WORK = 100  # values that calls may be given, for each opcode
LINE = 1 << 20  # bytes of an opcode that ends with its line
CAP = 1 << 60


class Bounded:
    """Some bytes as a file to read, from `start` on, whose reads take no more memory than there are bytes left."""

    def __init__(self, data: Any, start: int = 0) -> None:
        self._data, self._place, self._start = data, start, start

    def read(self, n: int) -> bytes:
        found = self._data[self._place : self._place + n]
        self._place += len(found)
        return found

    def readline(self) -> bytes:
        end = self._data.find(b"\n", self._place, self._place + LINE)
        return self.read(end + 1 - self._place if end >= 0 else LINE)

    def tell(self) -> int:
        return self._place - self._start

    def left(self) -> int:
        return len(self._data) - self._place


class _Value:
    """weight: how many values it holds, itself among them, those that are there twice counted twice."""

    __slots__ = ("weight",)

    def __init__(self, *parts: "_Value") -> None:
        self.weight = 1
        self.add(*parts)

    def add(self, *parts: "_Value") -> None:
        self.weight = min(CAP, self.weight + sum(part.weight for part in parts))


class _Text(_Value):
    """Python keeps the hash of one."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.weight += letters // 16


_PLAIN = _Value()


class _Scan:
    """The stack and the memo, as they would be after each opcode."""

    def __init__(self) -> None:
        self.stack: list[_Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, _Value] = {}
        self.place = self.count = self.work = 0

    def from_mark(self) -> list[_Value]:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def take(self, n: int) -> list[_Value]:
        """The topmost n, the last of them last."""
        if len(self.stack) < n:
            raise IndexError
        found = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return found

    def push(self, *parts: _Value) -> None:
        self.stack.append(_Value(*parts))

    def keys(self, found: list[_Value]) -> None:
        if any(key.weight > KEY and type(key) is not _Text for key in found):
            raise Refused(f"it has a key that consists of more than {KEY} values, which no checkpoint needs; refused")

    def call(self, *parts: _Value) -> None:
        """A function is given these."""
        self.work += sum(part.weight for part in parts)
        if self.work > WORK * (self.count + 1000):
            raise Refused("it gives the same large values to functions again and again; refused")

    def remember(self, place: int) -> None:
        if place > self.place:
            raise Refused(f"it remembers a value in place {place}, and has {self.place} bytes before it; refused")
        self.memo[place] = self.stack[-1]

    def pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def grow(self, *parts: _Value) -> None:
        if self.stack[-1] is not _PLAIN:  # which is one for all, and keeps nothing
            self.stack[-1].add(*parts)

    def fill(self, parts: list[_Value], keys: list[_Value]) -> None:
        self.keys(keys)
        self.grow(*parts)

    def made(self, parts: list[_Value], keys: list[_Value]) -> None:
        self.keys(keys)
        self.push(*parts)

    def reduced(self, parts: list[_Value]) -> None:
        self.call(*parts)
        self.push(*parts)

    def built(self) -> None:
        (state,) = self.take(1)
        self.call(state)
        self.grow(state)


def _pairs(parts: list[_Value]) -> tuple[list[_Value], list[_Value]]:
    return parts, parts[::2]


# What each opcode does to the stack and the memo; those that are not here push a plain value.
DOES: dict[str, Callable[[_Scan, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP", "READONLY_BUFFER"), lambda scan, _: None),
    "MARK": lambda scan, _: scan.marks.append(len(scan.stack)),
    "POP": lambda scan, _: scan.pop(),
    "POP_MARK": lambda scan, _: scan.from_mark(),
    "DUP": lambda scan, _: scan.stack.append(scan.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda scan, place: scan.remember(place)),
    "MEMOIZE": lambda scan, _: scan.remember(len(scan.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda scan, place: scan.stack.append(scan.memo[place])),
    **dict.fromkeys(("TUPLE", "LIST"), lambda scan, _: scan.push(*scan.from_mark())),
    "TUPLE1": lambda scan, _: scan.push(*scan.take(1)),
    "TUPLE2": lambda scan, _: scan.push(*scan.take(2)),
    "TUPLE3": lambda scan, _: scan.push(*scan.take(3)),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), lambda scan, _: scan.push()),
    "DICT": lambda scan, _: scan.made(*_pairs(scan.from_mark())),
    "FROZENSET": lambda scan, _: scan.made(*[scan.from_mark()] * 2),
    "APPEND": lambda scan, _: scan.fill(scan.take(1), []),
    "APPENDS": lambda scan, _: scan.fill(scan.from_mark(), []),
    "SETITEM": lambda scan, _: scan.fill(*_pairs(scan.take(2))),
    "SETITEMS": lambda scan, _: scan.fill(*_pairs(scan.from_mark())),
    "ADDITEMS": lambda scan, _: scan.fill(*[scan.from_mark()] * 2),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda scan, _: scan.reduced(scan.take(2))),
    "NEWOBJ_EX": lambda scan, _: scan.reduced(scan.take(3)),
    **dict.fromkeys(("INST", "OBJ"), lambda scan, _: scan.reduced(scan.from_mark())),
    "STACK_GLOBAL": lambda scan, _: scan.reduced(scan.take(2)),
    "BINPERSID": lambda scan, _: scan.made([], scan.take(1)[:0]),
    "BUILD": lambda scan, _: scan.built(),
}


def pickle_length(file: Bounded) -> int:
    """How many bytes the pickle takes with which a file begins. Raises Refused where to read it would cost more than
    in proportion to them, and ValueError where it is none."""
    scan, source = _Scan(), cast(IO[bytes], file)
    stack, does = scan.stack, DOES
    try:
        for opcode, argument, place in pickletools.genops(source):
            scan.count += 1
            scan.place, value = place or 0, cast(Any, argument)
            if do := does.get(opcode.name):
                do(scan, value)
            elif isinstance(value, (str, bytes)) and len(value) > 15:
                stack.append(_Text(len(value)))
            elif type(value) is int and value.bit_length() > 64:
                stack.append(_Value(*[_PLAIN] * (value.bit_length() // 128)))
            else:
                stack.append(_PLAIN)
            if scan.count > MOST:
                raise Refused(f"it has more than {MOST} opcodes, and checkpoints have a few for each array; refused")
            if opcode.name == "FRAME" and value > file.left():
                raise Refused(f"it has a part of {value} bytes where {file.left()} are left")
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle takes a value that it has not given") from error
    return file.tell()
