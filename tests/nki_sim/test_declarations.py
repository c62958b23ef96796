"""Tests generated from the declarations: a legal instance runs, each violation is named."""

from __future__ import annotations

import inspect
from typing import Any

import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest

from nki_sim.constants import ON_CHIP, PSUM, SBUF, Engine, MemoryRegion, NcVersion
from nki_sim.engines import INSTRUCTIONS
from nki_sim.engines.base import REACH, READ, Instruction, Limit, Operand
from nki_sim.errors import IllegalProgram, SimulationError, UninitialisedRead

from .support import in_kernel, tile

LEGAL_SIZES = {"P": 4, "F": 8, "N": 8, "K": 4, "M": 4, "R": 1, "D": 4, "S": 4, "E": 32} | {
    "B": 8, "T": 6, "U": 9, "G": 16, "I": 16, "J": 1, "W": 6, "C": 32, "X": 2, "Q": 16,
}  # fmt: skip

AXES = [(i, limit) for i in INSTRUCTIONS for limit in i.limits]
OPERANDS = [(i, operand) for i in INSTRUCTIONS for operand in i.operands]
INPUTS = [(i, operand) for i, operand in OPERANDS if operand.access is READ]


def illegal_types(operand: Operand) -> list[str]:
    return [d for d in ("int32", "float8_e4m3fn_x4") if d not in operand.dtypes]


def is_bound(instruction: type[Instruction], axis: str) -> bool:
    """Whether the size of an axis is given, or shared with another operand."""
    return axis.isdigit() or sum(axis in o.axes for o in instruction.operands) > 1


TYPED = [(i, operand) for i, operand in OPERANDS if illegal_types(operand)]
BOUND_AXES = [
    (i, operand, position)
    for i, operand in OPERANDS
    for position, axis in enumerate(operand.axes)
    if is_bound(i, axis)
]


@pytest.fixture(autouse=True)
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run on the first platform, from trn2 on, that has all of the instruction."""
    instruction = getattr(request.node, "callspec", None)
    instruction = instruction and instruction.params.get("instruction")
    if instruction is not None:
        needed = max(NcVersion.gen3, instruction.since, *instruction.engine_since.values())
        monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", needed.name)


def label(value: Any) -> str:
    if isinstance(value, type):
        return value.opcode
    return str(getattr(value, "name", None) or getattr(value, "axis", None) or value)


def shape_of(operand: Operand, sizes: dict[str, int]) -> tuple[int, int]:
    if operand.axes.isdigit() and len(operand.axes) == 1:
        return int(operand.axes), 1
    if len(operand.axes) == 1:
        return 4, sizes[operand.axes] // 4
    first, second = (int(a) if a.isdigit() else sizes[a] for a in operand.axes)
    return first, second


def memory_of(operand: Operand, engine: Engine) -> MemoryRegion:
    legal = [m for m in operand.memories if m in REACH[engine]] or list(operand.memories)
    return SBUF if SBUF in legal else legal[0]


def within_limits(instruction: type[Instruction], engine: Engine) -> dict[str, int]:
    sizes = dict(LEGAL_SIZES)
    for limit in instruction.limits:
        if limit.engine in (None, engine):
            sizes[limit.axis] = min(max(sizes[limit.axis], limit.lowest), limit.highest)
    return sizes


def make(
    instruction: type[Instruction],
    sizes: dict[str, int] | None = None,
    engine: Engine = Engine.unknown,
    **replaced: Any,
) -> Instruction:
    """An instance with small legal operands, some of them made by the functions in `replaced`."""
    reached = instruction.engines[0] if engine is Engine.unknown else engine
    sizes = within_limits(instruction, reached) | (sizes or {})
    operands = {}
    for operand in instruction.operands:
        shape = shape_of(operand, sizes)
        memory = memory_of(operand, reached)
        if operand.name == "dst" and reached is Engine.tensor:
            memory = PSUM
        maker = replaced.get(operand.name, nl.ndarray if operand.access is not READ else tile)
        made = maker(shape, operand.dtypes[0], memory)
        also = [tile(shape, operand.dtypes[0], memory)] if operand.many else []
        operands[operand.name] = [made, *also] if operand.many else made
    if "engine" in inspect.signature(instruction).parameters:
        operands["engine"] = engine
    example = dict(instruction.example)
    if "send_to_rank" in example:
        example |= dict.fromkeys(("send_to_rank", "recv_from_rank"), 1 - nl.program_id(0))
    return instruction(**operands, **example)


def issue(*args: Any, **kwargs: Any) -> None:
    in_kernel(lambda: make(*args, **kwargs).issue(), cores=args[0].cores)


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=label)
def test_a_legal_instance_runs_on_every_engine(instruction: type[Instruction]) -> None:
    for engine in instruction.engines:
        if engine is Engine.gpsimd and instruction.opcode == "tensor_tensor":
            continue  # float tiles run there too, but through the same path as the vector engine
        issue(instruction, engine=engine)


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=label)
def test_other_engines_are_refused(instruction: type[Instruction]) -> None:
    for engine in set(Engine) - set(instruction.engines) - {Engine.unknown}:

        def body(engine: Engine = engine) -> None:
            one = make(instruction)
            one.engine = engine
            one.issue()

        with pytest.raises(IllegalProgram, match="runs on"):
            in_kernel(body)


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=label)
def test_older_platforms_are_refused(
    instruction: type[Instruction], monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in instruction.engines:
        since = instruction.engine_since.get(engine, instruction.since)
        for version in NcVersion:
            if version < since:
                monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", version.name)
                with pytest.raises(IllegalProgram, match=r"exists from trn[23] on") as caught:
                    issue(instruction, engine=engine)
                assert "NEURON_PLATFORM_TARGET_OVERRIDE" in caught.value.remedy


@pytest.mark.parametrize(("instruction", "limit"), AXES, ids=label)
def test_each_limit_is_enforced(instruction: type[Instruction], limit: Limit) -> None:
    engine = limit.engine or Engine.unknown
    for size in (limit.highest + 1, limit.lowest - 1):
        if size < 1:
            continue
        with pytest.raises(IllegalProgram) as caught:
            issue(instruction, {limit.axis: size}, engine)
        assert caught.value.operation in (instruction.opcode, "nl.ndarray")
        assert str(size) in caught.value.received


@pytest.mark.parametrize(("instruction", "operand"), OPERANDS, ids=label)
def test_each_memory_rule_is_enforced(instruction: type[Instruction], operand: Operand) -> None:
    engine = instruction.engines[0]
    for memory in MemoryRegion:
        if memory in operand.memories and (memory in REACH[engine] or instruction.meets):
            continue
        if instruction.opcode == "core_barrier" and memory is MemoryRegion.sbuf:
            continue  # taken with a warning

        def wrong(shape: tuple[int, ...], dtype: str, _: Any, memory: Any = memory) -> Any:
            if memory in ON_CHIP:
                return tile(shape, dtype, memory)
            return nl.ndarray(shape, dtype=dtype, buffer=memory)

        with pytest.raises(IllegalProgram) as caught:
            issue(instruction, engine=engine, **{operand.name: wrong})
        assert f"{operand.name} must be in" in caught.value.rule
        assert memory.name in caught.value.received
        assert caught.value.remedy


@pytest.mark.parametrize(("instruction", "operand"), TYPED, ids=label)
def test_each_type_rule_is_enforced(instruction: type[Instruction], operand: Operand) -> None:
    wrong = illegal_types(operand)

    def other(shape: tuple[int, ...], _: str, memory: Any) -> Any:
        return tile(shape, wrong[0], memory)

    with pytest.raises(IllegalProgram, match=f"{operand.name} must be of type"):
        issue(instruction, **{operand.name: other})


@pytest.mark.parametrize(("instruction", "operand"), INPUTS, ids=label)
def test_each_input_must_be_initialised(instruction: type[Instruction], operand: Operand) -> None:
    def fresh(shape: tuple[int, ...], dtype: str, memory: Any) -> Any:
        return nl.ndarray(shape, dtype=dtype, buffer=memory, name="fresh_tile")

    with pytest.raises(UninitialisedRead) as caught:
        issue(instruction, **{operand.name: fresh})
    assert caught.value.operation == instruction.opcode
    assert operand.name in caught.value.rule
    assert "fresh_tile" in caught.value.received and "(0, 0)" in caught.value.received


@pytest.mark.parametrize(("instruction", "operand", "position"), BOUND_AXES, ids=label)
def test_sizes_must_agree(instruction: type[Instruction], operand: Operand, position: int) -> None:
    """Nothing is broadcast: an operand one row or one element too long is refused."""

    def longer(shape: tuple[int, ...], dtype: str, memory: Any) -> Any:
        rows, columns = shape
        return tile((rows + 1, columns) if position == 0 else (rows, columns + 1), dtype, memory)

    with pytest.raises(IllegalProgram, match="must agree"):
        issue(instruction, **{operand.name: longer})


@pytest.mark.parametrize(("instruction", "operand"), OPERANDS, ids=label)
def test_operands_are_tensors(instruction: type[Instruction], operand: Operand) -> None:
    with pytest.raises(SimulationError, match=f"{operand.name} must be a tensor"):
        issue(instruction, **{operand.name: lambda *_: np.zeros((4, 8))})


def test_vendor_signatures_match_the_documented_ones() -> None:
    """The declared operands are parameters of the vendor's function."""
    for instruction in INSTRUCTIONS:
        parameters = inspect.signature(getattr(nisa, instruction.opcode)).parameters
        for operand in instruction.operands:
            assert operand.name in parameters, (instruction.opcode, operand.name)
