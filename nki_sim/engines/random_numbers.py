"""Random numbers of the vector and GpSimd engines, reproducible but not the hardware's.

Per partition, the generator is XORWOW (Marsaglia 2003): five words of state and a counter. GpSimd
keeps one per partition (6 words), the vector engine four (24 words) that take turns. How hardware
spreads a seed over the partitions, in which order it draws, and what it holds before the first seed
are not documented; here a seed is hashed for each word, an instruction draws the elements of a
partition in order, and the state before the first seed is that of seed 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..constants import SBUF, Engine, NcVersion
from ..dtypes import FLOATS, INTEGERS, NUMBERS, Array, store
from ..machine import PARTITIONS, Program
from ..views import NkiTensor
from . import alu
from .accumulators import lanes
from .base import LANES, READ, WRITE, Instruction, Limit, Operand, Rule, Sizes

WORDS = {Engine.gpsimd: 6, Engine.vector: 24}
"""Words of state per partition."""

_XORWOW_WORDS = 6
_WEYL = np.uint32(362437)
_FIDELITY = "approximate (another sequence than the hardware's)"


def hashed_state(seed: int, words: int) -> Array:
    """State [128, words] from a 32-bit seed: one hashed word for each place (murmur3's mixer)."""
    with np.errstate(over="ignore"):
        place = np.arange(PARTITIONS * words, dtype=np.uint32) * np.uint32(0x9E3779B9)
        mixed = place + np.uint32(seed & 0xFFFFFFFF) + np.uint32(1)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    return (mixed ^ (mixed >> np.uint32(16))).reshape(PARTITIONS, words)


def state(program: Program, engine: Engine) -> Array:
    """The state [128, words] of an engine's generators."""
    found = program.random.get(engine)
    if found is None:
        found = program.random[engine] = hashed_state(0, WORDS[engine])
    return found


def draw(program: Program, engine: Engine, partitions: slice, count: int) -> Array:
    """The next `count` 32-bit numbers of each of the partitions, [P, count] uint32."""
    window = state(program, engine)[partitions]
    streams = window.reshape(len(window), -1, _XORWOW_WORDS)
    words = [streams[:, :, k].copy() for k in range(_XORWOW_WORDS)]
    steps = -(-count // streams.shape[1])
    result = np.empty((len(window), steps, streams.shape[1]), np.uint32)
    for step in range(steps):
        result[:, step] = _next(words)
    for k, word in enumerate(words):
        streams[:, :, k] = word
    return result.reshape(len(window), -1)[:, :count]


def _next(words: list[Array]) -> Array:
    """One step of XORWOW on all generators; `words` are x, y, z, w, v and the counter."""
    x, last = words[0], words[4]
    mixed = x ^ (x >> np.uint32(2))
    fresh = (last ^ (last << np.uint32(4))) ^ (mixed ^ (mixed << np.uint32(1)))
    counter = words[5] + _WEYL
    words[:] = [words[1], words[2], words[3], last, fresh, counter]
    return np.asarray(fresh + counter)


def uniform(bits: Array) -> Array:
    """Numbers in [0, 1) with 24 bits, fp32, of 32 random bits each."""
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


@dataclass(slots=True, eq=False)
class Rng(Instruction):
    """dst = random bits, the lowest of 32 for narrower integers."""

    opcode: ClassVar[str] = "rng"
    engines: ClassVar = (Engine.vector, Engine.gpsimd)
    engine_since: ClassVar = {Engine.gpsimd: NcVersion.gen3}
    operands: ClassVar = (Operand("dst", "PF", WRITE, dtypes=INTEGERS),)
    numerics: ClassVar[str] = "32 random bits, truncated"
    fidelity: ClassVar[str] = _FIDELITY

    dst: NkiTensor

    def execute(self, program: Program) -> None:
        bits = draw(program, self.engine, lanes(self.dst), self.dst.free)
        target = self.dst.array
        target[...] = bits.astype(target.dtype).reshape(target.shape)


def _empty_range(instruction: Any, _: Sizes) -> str | None:
    lowest, highest = instruction.min, instruction.max
    if isinstance(lowest, NkiTensor) or isinstance(highest, NkiTensor) or lowest < highest:
        return None
    return f"min={lowest!r}, max={highest!r}"


@dataclass(slots=True, eq=False)
class Rand2(Instruction):
    """dst = uniform random numbers in [min, max]."""

    opcode: ClassVar[str] = "rand2"
    engines: ClassVar = (Engine.vector,)
    since: ClassVar[NcVersion] = NcVersion.gen4
    operands: ClassVar = (
        Operand("dst", "PF", WRITE, dtypes=tuple(t for t in NUMBERS if t != "bool")),
        Operand("min", "P1", READ, dtypes=("float32",), scalar=True),
        Operand("max", "P1", READ, dtypes=("float32",), scalar=True),
    )
    rules: ClassVar = (Rule("min < max", _empty_range, "order the bounds", "rand2"),)
    numerics: ClassVar[str] = "24 random bits scaled in fp32, one rounding on write"
    fidelity: ClassVar[str] = _FIDELITY
    example: ClassVar[dict[str, Any]] = {}

    dst: NkiTensor
    min: NkiTensor | float
    max: NkiTensor | float

    def execute(self, program: Program) -> None:
        share = uniform(draw(program, self.engine, lanes(self.dst), self.dst.free))
        lowest, highest = alu.operand32(self.min), alu.operand32(self.max)
        values = np.float32(1) * lowest + (highest - lowest) * share
        alu.write(self.dst, values.astype(np.float32))


def _probability_type(instruction: Any, _: Sizes) -> str | None:
    prob, data = instruction.prob, instruction.data
    if isinstance(prob, NkiTensor):
        wrong = data.dtype in INTEGERS and prob.dtype != "float32"
        return f"prob {prob} for data {data}" if wrong else None
    return None if 0 <= prob <= 1 else f"prob={prob!r}"


@dataclass(slots=True, eq=False)
class Dropout(Instruction):
    """dst = data, with zeros in its place with probability `prob`; what is kept is not scaled."""

    opcode: ClassVar[str] = "dropout"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (
        Operand("dst", "PF", WRITE),
        Operand("data", "PF", READ),
        Operand("prob", "P1", READ, dtypes=FLOATS, scalar=True),
    )
    rules: ClassVar = (
        Rule(
            "dst has data's type",
            lambda i, _: f"{i.dst} and {i.data}" if i.dst.dtype != i.data.dtype else None,
            "convert in another instruction",
            "dropout",
        ),
        Rule(
            "prob lies in 0..1, and is float32 for integer data",
            _probability_type,
            "convert it",
            "dropout",
        ),
    )
    numerics: ClassVar[str] = "bit copy of what is kept"
    fidelity: ClassVar[str] = _FIDELITY

    dst: NkiTensor
    data: NkiTensor
    prob: NkiTensor | float

    def execute(self, program: Program) -> None:
        share = uniform(draw(program, self.engine, lanes(self.data), self.data.free))
        values = self.data.rows()
        kept = np.where(share >= alu.operand32(self.prob), values, values.dtype.type(0))
        self.dst.array[...] = kept.reshape(self.dst.shape)


_STATE_SIZES = tuple(
    Limit(
        "W", words, "the size of an engine's state", lowest=words, engine=engine,
        remedy="6 words per partition for GpSimd, 24 for the vector engine",
    )
    for engine, words in WORDS.items()
)  # fmt: skip


def _engine_for(words: int) -> Engine:
    return Engine.vector if words == WORDS[Engine.vector] else Engine.gpsimd


@dataclass(slots=True, eq=False)
class RandSetState(Instruction):
    """The generators' state = src_seeds, per partition."""

    opcode: ClassVar[str] = "rand_set_state"
    engines: ClassVar = (Engine.gpsimd, Engine.vector)
    since: ClassVar[NcVersion] = NcVersion.gen3
    engine_since: ClassVar = {Engine.vector: NcVersion.gen4}
    operands: ClassVar = (Operand("src_seeds", "PW", READ, memories=(SBUF,), dtypes=("uint32",)),)
    limits: ClassVar = (LANES, *_STATE_SIZES)
    work: ClassVar[str] = "src_seeds"
    numerics: ClassVar[str] = "bit copy"
    fidelity: ClassVar[str] = _FIDELITY

    src_seeds: NkiTensor

    def choose_engine(self) -> Engine:
        known = isinstance(self.src_seeds, NkiTensor)
        return _engine_for(self.src_seeds.free) if known else Engine.gpsimd

    def execute(self, program: Program) -> None:
        state(program, self.engine)[lanes(self.src_seeds)] = self.src_seeds.rows()


@dataclass(slots=True, eq=False)
class RandGetState(Instruction):
    """dst = the generators' state, per partition."""

    opcode: ClassVar[str] = "rand_get_state"
    engines: ClassVar = (Engine.gpsimd, Engine.vector)
    since: ClassVar[NcVersion] = NcVersion.gen3
    engine_since: ClassVar = {Engine.vector: NcVersion.gen4}
    operands: ClassVar = (Operand("dst", "PW", WRITE, dtypes=("uint32",)),)
    limits: ClassVar = (LANES, *_STATE_SIZES)
    numerics: ClassVar[str] = "bit copy"
    fidelity: ClassVar[str] = _FIDELITY

    dst: NkiTensor

    def choose_engine(self) -> Engine:
        return _engine_for(self.dst.free) if isinstance(self.dst, NkiTensor) else Engine.gpsimd

    def execute(self, program: Program) -> None:
        window = state(program, self.engine)[lanes(self.dst)]
        store(self.dst.array, window.reshape(self.dst.shape))


@dataclass(slots=True, eq=False)
class SetRngSeed(Instruction):
    """The vector engine's generators start again from a 32-bit seed."""

    opcode: ClassVar[str] = "set_rng_seed"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (Operand("src_seeds", "11", READ, dtypes=("uint32", "int32", "float32")),)
    limits: ClassVar = ()
    work: ClassVar[str] = "src_seeds"
    numerics: ClassVar[str] = "32 bits, hashed for each partition"
    fidelity: ClassVar[str] = _FIDELITY

    src_seeds: NkiTensor

    def execute(self, program: Program) -> None:
        seed = int(np.ascontiguousarray(self.src_seeds.array).view(np.uint32).reshape(-1)[0])
        program.random[self.engine] = hashed_state(seed, WORDS[self.engine])
