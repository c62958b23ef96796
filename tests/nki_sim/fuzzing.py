"""Random programs over all instructions, the functions of nki.language and the methods of tensors,
and what must be true of each of them.

Every statement ends in a result or in one of the simulator's own errors. Those that end in a result
also do so in the other modes: with the same bits without checks, with the same account on shapes.

``python tests/nki_sim/fuzzing.py --programs 100000 --seed 1`` runs many (from the repository's
folder), prints how they ended, and exits with 1 if one ended in any other exception.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import inspect
import os
import random
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from nki_sim.install import install

    install()

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

import nki_sim
from nki_sim.constants import PSUM, SBUF, Engine, MemoryRegion
from nki_sim.dtypes import TABLE
from nki_sim.engines import INSTRUCTIONS
from nki_sim.engines.base import REACH, READ, Instruction, Operand
from nki_sim.errors import SimulationError
from nki_sim.machine import current
from nki_sim.operators import OPS, Op
from nki_sim.views import StrayTensor

PLATFORMS = ("trn1", "trn2", "trn2", "trn3")
SIZES = (1, 2, 4, 8, 8, 16, 31, 32, 33, 64)
DTYPES = tuple(TABLE)
COMMON = ("float32", "float32", "bfloat16", "bfloat16", "int32", "uint32", "float16", "uint8")
OPERATORS = tuple(OPS.values())
ODD: tuple[Any, ...] = (
    0, 1, 2.5, -1, None, True, "x", (), [0] * 32, [[1, 8]], [[1, 16]], [[1]], 2**40, -(2**31),
    float("nan"), float("inf"), 1e300, np.float32(1), object(), [], {}, b"", (1, 2, 3), [[0, 0]],
)  # fmt: skip
"""Values that some parameter takes and most do not."""

HINTS: dict[str, tuple[Any, ...]] = {
    "axis": (1, 1, (1,), 2, [4], [1, 2], [3, 4], 0, -1),
    "name": (None, "n", "m", 3),
    "pattern": ([[1, 8]], [[0, 1]], [[1, 16]], [[1, 4], [4, 2]], [[-1, 8]], 5),
    "shuffle_mask": ([0] * 32, list(range(32)), [255] * 32, [31] * 31 + [255], [1, 0] * 16),
    "cmp_op": (nl.equal, nl.less, nl.greater_equal, nl.not_equal),
    "channel_multiplier": (0, 1, -1, 1.5),
    "offset": (0, 3, -2),
    "value": (0, 1, 1.0, -3.5, 255),
    "imm": (0.0, -1e30, 7),
    "accumulate": (None, None, True, False),
    "is_transpose": (False, False, True),
    "tile_position": ((), (), (0, 0), (32, 0), (64, 64)),
    "tile_size": ((), (), (128, 128), (32, 32), (64, 64)),
}
"""Likely values by parameter; operators and enumerations are found by annotation and name."""


USUAL = {"P": 4, "F": 8, "N": 8, "K": 4, "M": 4, "R": 1, "D": 4, "S": 4, "E": 32} | {
    "B": 8, "T": 6, "U": 9, "G": 16, "I": 16, "J": 1, "W": 6,
}  # fmt: skip
"""Sizes that most instructions accept."""


METHODS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "__getitem__": (
        (0, 1, -1, slice(0, 2), slice(None, None, 2), slice(1, 100), Ellipsis, None, (0, 0), "x",
         (slice(0, 2), 1), (Ellipsis, slice(0, 4)), (slice(None), slice(4, 2)), nl.ds(0, 2), 2**40),
    ),
    "reshape": (((2, -1), (4, 8), (4, 2, 4), (4, 4, 2), (32,), (0,), "x", 5, (4, 2.0), (1, 32)),),
    "view": (("uint8", "int16", "float32", "bfloat16", "float8_e4m3fn_x4", "no", None, 3),),
    "ap": (
        ([[8, 4], [1, 8]], [[8, 4], [0, 3]], [[16, 2], [2, 4]], [[1, 2]], [], [[1, 2, 3]], 4,
         [[8, 0]]),
        (0, 0, 1, 8, -1, None, 2.0),
    ),
    "slice": ((0, 1, 2, -1, "x"), (0, 1, -3, None), (1, 2, 100), (1, 2, 0)),
    "select": ((0, 1, 2, -1, None), (0, 1, -1, 100, "x")),
    "vector_select": ((0, 1), (0, None, "x")),
    "permute": (((0, 1), (1, 0), (0, 2, 1), (0,), "x", 3, (0, 0)),),
    "broadcast": ((0, 1, 2, -1, 7), (1, 4, 0, -1, "x")),
    "expand_dim": ((0, 1, 2, 3, -1, 9, None),),
    "squeeze_dim": ((0, 1, 2, -1, 9, None),),
    "reshape_dim": ((0, 1, 2, -1, 9), ((2, 4), (4, 2), (8,), (0,), (3, 3), (-1, 2), "x", 2)),
    "flatten_dims": ((0, 1, 2, -1), (0, 1, 2, -1, 9)),
    "rearrange": (
        (("p", "f"), ("p", ("a", "b")), ("p", ("a", "p")), "p f", (), None),
        (("p", "f"), ("p", "b", "a"), ("f", "p"), ("p", ("b", "a")), 3),
        ({}, {"a": 2}, {"a": 3}, {"b": 0}, None),
    ),
    "is_contiguous": (),
    "get_pattern": (),
}  # fmt: skip
"""Methods of tensors with values for each argument, some of them wrong."""

FUNCTIONS = tuple(
    name
    for name, function in sorted(vars(nl).items())
    if inspect.isfunction(function)
    and not name.startswith("_")
    and function.__module__.startswith("nki_sim")
    and name not in ("device_print", "while_loop", "fori_loop", "dynamic_range", "no_reorder")
    and name not in ("make", "vendor", "current", "enter_no_reorder")
) + tuple(name for name in OPS if hasattr(nl, name))
"""Functions of nki.language, and the operators when they are called like functions."""


class Fuzzer:
    """Makes one random statement; the same seed makes the same statement.

    `pool` are the tensors of the statements before it.
    """

    def __init__(self, seed: str, pool: list[Any]) -> None:
        self.rng = random.Random(seed)
        self.pool = pool

    # -- tensors -----------------------------------------------------------------------------------

    def sizes(self, instruction: type[Instruction], engine: Engine) -> dict[str, int]:
        """Sizes of all axis letters: equal letters agree."""
        chosen = {letter: self.rng.choice(SIZES) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
        if self.rng.random() < 0.7:
            chosen |= USUAL
            if self.rng.random() < 0.5:
                chosen["P"] = self.rng.choice((1, 16, 32, 64, 128))
            if self.rng.random() < 0.3 and "pattern" not in instruction.example:
                chosen["F"] = self.rng.choice((1, 2, 16, 31, 300))
        if self.rng.random() < 0.9:
            for limit in instruction.limits:
                if limit.engine in (None, engine):
                    size = chosen.get(limit.axis, limit.lowest)
                    chosen[limit.axis] = min(max(size, limit.lowest), limit.highest)
        return chosen

    def dtype(self, operand: Operand, shared: str) -> str:
        draw = self.rng.random()
        if draw < 0.6 and shared in operand.dtypes:
            return shared
        return self.rng.choice(operand.dtypes if draw < 0.95 else DTYPES)

    def shape(self, operand: Operand, sizes: dict[str, int]) -> tuple[int, ...]:
        axes = [int(a) if a.isdigit() else sizes[a] for a in operand.axes]
        if len(axes) == 1:
            total = axes[0]
            parts = [d for d in (1, 2, 4, 8, 16, 32) if total % d == 0]
            rows = self.rng.choice(parts)
            return rows, total // rows
        free = axes[1]
        if free % 2 == 0 and self.rng.random() < 0.2:
            return axes[0], 2, free // 2
        return axes[0], free

    def memory(self, operand: Operand, engine: Engine) -> MemoryRegion:
        legal = [m for m in operand.memories if m in REACH.get(engine, ())]
        if not legal or self.rng.random() < 0.03:
            return self.rng.choice(list(MemoryRegion))
        if SBUF in legal and self.rng.random() < 0.6:
            return SBUF
        if engine is Engine.tensor and PSUM in legal and operand.access is not READ:
            return PSUM
        return self.rng.choice(legal)

    def tensor(self, shape: tuple[int, ...], dtype: str, memory: Any, fill: bool) -> Any:
        """A tile of a shape, plain or as a window onto a larger one, usually with contents."""
        draw = self.rng.random()
        outer, index = list(shape), None
        if draw < 0.15:  # columns of a wider tile
            extra = self.rng.choice((1, 2, 5))
            outer[-1] += extra
            first = self.rng.randint(0, extra)
            index = (Ellipsis, slice(first, first + shape[-1]))
        elif draw < 0.2:  # every second column
            outer[-1] *= 2
            index = (Ellipsis, slice(0, outer[-1], 2))
        elif draw < 0.3 and shape[0] <= 64:  # rows of a taller tile
            start = self.rng.choice((32, 64, 64, 96, 5))
            outer[0] = min(128, start + shape[0])
            index = (slice(start, start + shape[0]),)
        base = nl.ndarray(tuple(outer), dtype=dtype, buffer=memory)
        if fill:
            self.fill(base)
        if index is not None:
            return base[index]
        if draw > 0.95 and len(shape) == 2:
            rows, columns = shape
            return base.ap([[columns, rows], [self.rng.choice((0, 1)), columns]], offset=0)
        return base.view("uint8") if draw > 0.94 else base

    def fill(self, base: Any) -> None:
        """Random bits in a new tensor: every value that its type has, NaN and infinity included."""
        storage = base.storage
        bits = np.random.default_rng(self.rng.getrandbits(32))
        any_bits = self.rng.random() < 0.3
        storage.complete()
        if storage.hollow:
            return
        kind = storage.element(storage.dtype)
        if any_bits:
            storage.buffer[...] = bits.integers(0, 256, storage.length, np.uint8)
        else:
            numbers = bits.standard_normal(storage.length // kind.itemsize) * 4
            with np.errstate(all="ignore"):
                storage.buffer[...] = numbers.astype(kind).view(np.uint8)
        if TABLE[storage.dtype].kind == "bool":
            storage.buffer[...] &= 1

    # -- arguments ---------------------------------------------------------------------------------

    def argument(self, parameter: inspect.Parameter, example: dict[str, Any]) -> Any:
        """A value for a parameter that is no tensor."""
        name, default, draw = parameter.name, parameter.default, self.rng.random()
        if draw < 0.01:
            return self.rng.choice(ODD)
        if name in example and draw < 0.7:
            return example[name]
        if name in HINTS and draw < 0.9:
            return self.rng.choice(HINTS[name])
        known = example.get(name, default)
        if isinstance(known, Op) or name.startswith(("op", "reduce_op", "cmp")):
            return self.rng.choice(OPERATORS) if name != "operand0" else self.number()
        if isinstance(known, nisa.engine):
            return self.rng.choice((nisa.engine.unknown, nisa.engine.unknown, *nisa.engine))
        if isinstance(known, type(nisa.reduce_cmd.idle)) or hasattr(type(known), "__members__"):
            return self.rng.choice(list(type(known)))
        if isinstance(known, bool):
            return self.rng.random() < 0.5
        if isinstance(known, int | float):
            return self.number()
        return known if known is not inspect.Parameter.empty else self.rng.choice(ODD)

    def number(self) -> Any:
        return self.rng.choice((0, 1, 2, 8, -1, 0.5, -2.25, 1e-3, 3e38, 0.0, 31, 255))

    def call(self, instruction: type[Instruction]) -> dict[str, Any]:
        """Arguments of one call, mostly legal ones."""
        function = getattr(nisa, instruction.opcode)
        operands = {operand.name: operand for operand in instruction.operands}
        engine = self.rng.choice((instruction.engines[0], *instruction.engines))
        sizes, shared = self.sizes(instruction, engine), self.rng.choice(COMMON)
        arguments: dict[str, Any] = {}
        for parameter in inspect.signature(function).parameters.values():
            needed = parameter.default is inspect.Parameter.empty
            if not needed and self.rng.random() < 0.6 and parameter.name not in instruction.example:
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            operand = operands.get(parameter.name)
            if parameter.name == "name" and self.rng.random() < 0.9:
                continue
            if parameter.name == "engine" and self.rng.random() < 0.8:
                arguments["engine"] = engine
            elif operand is None:
                arguments[parameter.name] = self.argument(parameter, instruction.example)
            else:
                arguments[parameter.name] = self.operand(operand, sizes, shared, engine)
        return arguments

    def statement(self) -> tuple[str, Callable[[], Any], list[Any]]:
        """What a statement is called, how to run it, and the tensors that it may write to."""
        draw = self.rng.random()
        if draw < 0.7 or not self.pool:
            instruction = self.rng.choice(INSTRUCTIONS)
            arguments = self.call(instruction)
            used = [value for value in arguments.values() if hasattr(value, "storage")]
            function = getattr(nisa, instruction.opcode)
            return instruction.opcode, lambda: function(**arguments), used
        if draw < 0.9:
            name = self.rng.choice(list(METHODS))
            values = [self.rng.choice(choices) for choices in METHODS[name]]
            tensor = self.rng.choice(self.pool)
            return f"tensor.{name}", lambda: getattr(tensor, name)(*values), []
        name = self.rng.choice(FUNCTIONS)
        values = [self.anything() for _ in range(self.rng.choice((0, 1, 1, 2, 2, 3)))]
        return f"nl.{name}", lambda: getattr(nl, name)(*values), []

    def anything(self) -> Any:
        """A tensor of the program, or some other value."""
        draw = self.rng.random()
        if draw < 0.6 and self.pool:
            return self.rng.choice(self.pool)
        if draw < 0.75:
            return self.rng.choice(((4, 8), (128, 4), 1, (1,), [1], "float32", "bfloat16", nl.sbuf))
        return self.rng.choice(ODD) if draw < 0.9 else self.number()

    def operand(self, operand: Operand, sizes: dict[str, int], shared: str, engine: Engine) -> Any:
        """A tensor, or what may stand in its place."""
        if operand.scalar and self.rng.random() < 0.5:
            return self.number()
        if operand.optional and self.rng.random() < 0.3:
            return None
        if self.rng.random() < 0.01:
            return self.rng.choice(ODD)
        shape = self.shape(operand, sizes)
        if self.rng.random() < 0.03:
            shape = (self.rng.choice(SIZES), self.rng.choice(SIZES))
        again = [t for t in self.pool if t.shape == shape and t.dtype in operand.dtypes]
        if again and self.rng.random() < 0.4:
            return self.rng.choice(again)
        written = operand.access is not READ
        fill = self.rng.random() < (0.3 if written else 0.97)
        return self.tensor(shape, self.dtype(operand, shared), self.memory(operand, engine), fill)


@dataclasses.dataclass
class Run:
    """What one program did in one mode.

    Attributes:
        passed: numbers of the statements that ended in a result.
        endings: per statement, its opcode and how it ended.
        tensors: those of all statements that ended in a result, in order.
        account: one row per instruction of those statements.
        fault: the first ending that is neither a result nor a simulator's error.
    """

    passed: list[int] = dataclasses.field(default_factory=list)
    endings: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    tensors: list[Any] = dataclasses.field(default_factory=list)
    account: list[Any] = dataclasses.field(default_factory=list)
    fault: str = ""


def run(seed: int, length: int, mode: str, chosen: list[int] | None = None) -> Run:
    """Program number `seed` in a mode; of its statements all, or the chosen ones."""
    os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = PLATFORMS[seed % len(PLATFORMS)]
    done = Run()

    def program() -> None:
        for number in range(length):
            _statement(seed, number, mode, chosen is None or number in chosen, done)

    with nki_sim.mode(mode), nki_sim.record(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nki.jit(program)()
    return done


def _statement(seed: int, number: int, mode: str, wanted: bool, done: Run) -> None:
    """Make and run one statement, and note how it ended."""
    fuzzer = Fuzzer(f"{seed} {number}", list(done.tensors))
    what, ending = "making arguments", "result"
    events = current("fuzzing").launch.instructions
    before = len(events)
    try:
        what, action, used = fuzzer.statement()
        done.tensors = [t for t in done.tensors if not any(t is one for one in used)]
        if wanted:
            made = action()
            done.passed.append(number)
            done.account += [
                (e.opcode, e.engine, e.elements, e.bytes, e.macs) for e in events[before:]
            ]
            done.tensors += [*used, *([made] if hasattr(made, "storage") else [])]
    except SimulationError as error:
        ending = type(error).__name__
        if wanted and mode != "full":
            done.fault = done.fault or _tell(seed, number, mode, what, error)
    except Exception as error:
        ending = "wrong call" if _signature_mismatch(error) else "fault"
        if ending == "fault":
            done.fault = done.fault or _tell(seed, number, mode, what, error)
    if wanted:
        done.endings.append((what, ending))


def _signature_mismatch(error: Exception) -> bool:
    """Whether Python itself refused a call of this file's, for the number of its arguments."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, TypeError) and frames[-1].filename == __file__


def problem(seed: int, length: int) -> tuple[str, Run]:
    """What is wrong with program number `seed`, or an empty text; and how it went in full."""
    first = run(seed, length, "full")
    if first.fault:
        return first.fault, first
    text = _compare_modes(seed, length, first.passed)
    return text, first


def _compare_modes(seed: int, length: int, chosen: list[int]) -> str:
    """What differs between the modes when the chosen statements of a program run."""
    full = run(seed, length, "full", chosen)
    while full.passed != chosen and not full.fault:  # some needed what a refused one left behind
        chosen = full.passed
        full = run(seed, length, "full", chosen)
    for mode in ("unchecked", "shapes"):
        other = run(seed, length, mode, full.passed)
        if other.fault:
            return other.fault
        if other.account != full.account:
            return f"seed {seed}: another account in mode {mode}"
        if mode == "unchecked":
            for one, same in zip(full.tensors, other.tensors, strict=True):
                if not _same_bits(one, same):
                    return f"seed {seed}: other bits in mode {mode}: {one}"
    return full.fault


def _same_bits(checked: Any, unchecked: Any) -> bool:
    """Whether all that the checked run wrote is the same in the other run; repeated elements of a
    window, of which it is undefined who writes last, do not count, nor do windows that leave their
    tensor, which nothing can have written.
    """
    if 0 in checked.strides or isinstance(checked, StrayTensor):
        return True
    written = checked.written_map()
    itemsize = checked.array.itemsize
    left, right = (np.ascontiguousarray(t.array).view(f"u{itemsize}") for t in (checked, unchecked))
    return bool((left == right)[written].all())


def _tell(seed: int, number: int, mode: str, what: str, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    last = next((f for f in reversed(frames) if "nki_sim/" in f.filename), frames[-1])
    return (
        f"seed {seed} statement {number} in mode {mode}, {what}: "
        f"{type(error).__name__}: {str(error)[:200]} at {Path(last.filename).name}:{last.lineno}"
    )


def main() -> int:
    """Run many programs and print how their statements ended."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--programs", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first program")
    parser.add_argument("--length", type=int, default=8, help="statements per program")
    options = parser.parse_args()
    endings: collections.Counter[str] = collections.Counter()
    legal: collections.Counter[str] = collections.Counter()
    found: dict[str, str] = {}
    began = time.monotonic()
    for seed in range(options.seed, options.seed + options.programs):
        text, full = problem(seed, options.length)
        endings.update(ending for _, ending in full.endings)
        legal.update(opcode for opcode, ending in full.endings if ending == "result")
        if text:
            found.setdefault(re.sub(r"seed \d+ statement \d+|[-.\d]+ |\(.*?\)", "", text), text)
    for text in found.values():
        print(text)
    print(f"{options.programs} programs in {time.monotonic() - began:.0f} s: {dict(endings)}")
    missing = sorted({i.opcode for i in INSTRUCTIONS} - set(legal))
    print(f"results by instruction: {dict(legal.most_common())}; none of {missing}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
