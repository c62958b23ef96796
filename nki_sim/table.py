"""The documentation table of the instructions, made from their declarations."""

from __future__ import annotations

from .engines import INSTRUCTIONS
from .engines.base import Instruction, Limit, Operand
from .engines.collective_permutes import COLLECTIVES

_HEADER = ("instruction", "engines", "operands", "limits and rules", "numerics", "fidelity", "cost")


def markdown() -> str:
    """One row per instruction, as a Markdown table."""
    rows = [_HEADER, ("---",) * len(_HEADER), *map(_row, (*INSTRUCTIONS, *COLLECTIVES))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(one: type[Instruction]) -> tuple[str, ...]:
    engines = ", ".join(engine.name for engine in one.engines)
    operands = "; ".join(_operand(operand) for operand in one.operands)
    conditions = "; ".join([_limit(limit) for limit in one.limits] + [r.text for r in one.rules])
    return (
        f"`{one.opcode}`",
        engines,
        operands,
        conditions,
        one.numerics,
        one.fidelity,
        str(one.cost),
    )


def _operand(operand: Operand) -> str:
    memories = {"private_hbm": "hbm", "shared_hbm": "hbm"}
    places = dict.fromkeys(memories.get(m.name, m.name) for m in operand.memories)
    stand_in = " or number" * operand.scalar + " or None" * operand.optional
    many = ", ..." * operand.many
    return f"{operand.name}[{','.join(operand.axes)}]{many} {'/'.join(places)}{stand_in}"


def _limit(limit: Limit) -> str:
    where = f" on {limit.engine.name}" if limit.engine else ""
    lowest = f"{limit.lowest} <= " if limit.lowest > 1 else ""
    return f"{lowest}{limit.axis} <= {limit.highest}{where}"
