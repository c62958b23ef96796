"""``explain``: the declaration of an instruction, the meaning of an error or of a rule."""

from __future__ import annotations

import argparse
import difflib
import inspect
import textwrap
from collections.abc import Iterator

from .. import errors
from ..engines import INSTRUCTIONS
from ..engines.base import REACH, Instruction
from ..lint.rules import RULES
from ..lint.signatures import Entry, table
from ..lint.versions import VERSIONS
from .target import UsageError

_ERROR_ADVICE = {
    "IllegalProgram": "Change the kernel: the NKI compiler or the hardware would not take it. "
    "`explain INSTRUCTION` lists the limits and rules of an instruction.",
    "UninitialisedRead": "The instruction is legal but its input is meaningless: the hardware "
    "would read what an earlier program left there. Write the tile first (nisa.memset, "
    "nisa.dma_copy), or slice it to the part that was written. NKI_SIM_MODE=tails lets "
    "instructions compute on unwritten elements as long as nothing that matters depends on them.",
    "NotModelled": "Use the remedy to go on here, or run the kernel on the hardware; the README "
    "lists what is not modelled.",
    "NoNumbers": "The launch computes shapes only (`profile --no-data`). Run it with data.",
}


def main(arguments: argparse.Namespace) -> int:
    """Explain each name."""
    print("\n\n".join("\n".join(_explain(name)) for name in arguments.names))
    return 0


def _explain(name: str) -> list[str]:
    leaf = name.rpartition(".")[2]
    instructions = {one.opcode: one for one in INSTRUCTIONS}
    if leaf in instructions:
        return list(_instruction(instructions[leaf]))
    if leaf in _errors():
        return list(_error(_errors()[leaf]))
    if leaf in RULES:
        return list(_rule(leaf))
    full = next((n for n in table() if n.rpartition(".")[2] == leaf and n.count(".") == 2), None)
    if full is not None:
        return [full, *_signatures(full), *_status(full)]
    known = [*instructions, *_errors(), *RULES, *(n.rpartition(".")[2] for n in table())]
    close = difflib.get_close_matches(leaf, known, 3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise UsageError(f"there is no instruction, error or rule called {name!r}{hint}")


def _errors() -> dict[str, type[errors.SimulationError]]:
    found = {"SimulationError": errors.SimulationError}
    waiting = [errors.SimulationError]
    while waiting:
        for one in waiting.pop().__subclasses__():
            found[one.__name__] = one
            waiting.append(one)
    return found


# -- instructions ----------------------------------------------------------------------------------


def _instruction(one: type[Instruction]) -> Iterator[str]:
    yield f"nki.isa.{one.opcode}"
    yield from _paragraph(one.__doc__)
    yield from _signatures(f"nki.isa.{one.opcode}")
    yield f"engines: {', '.join(engine.name for engine in one.engines)} (the first by default)"
    yield "operands: [partitions, elements per partition]; equal letters are equal sizes"
    for operand in one.operands:
        memories = [m.name for m in operand.memories if any(m in REACH[e] for e in one.engines)]
        instead = " or a number" * operand.scalar + " or None" * operand.optional
        yield f"  {operand.name}[{','.join(operand.axes)}] {operand.access}{instead}"
        yield f"      in {', '.join(memories)}; {', '.join(operand.dtypes)}"
    if one.limits:
        yield "limits:"
    for limit in one.limits:
        where = f" on {limit.engine.name}" if limit.engine else ""
        yield f"  {limit.lowest} <= {limit.axis} <= {limit.highest}{where} ({limit.source})"
        yield from _remedy(limit.remedy)
    if one.rules:
        yield "rules:"
    for rule in one.rules:
        yield f"  {rule.text} ({rule.source})"
        yield from _remedy(rule.remedy)
    yield f"numerics: {one.numerics}"
    yield f"fidelity: {one.fidelity}"
    yield f"cost in cycles, N elements per partition: {one.cost}"


def _remedy(text: str) -> Iterator[str]:
    if text:
        yield f"      {text}"


def _signatures(full: str) -> Iterator[str]:
    """The documented parameters, release by release."""
    spans: list[tuple[list[str], Entry | None]] = []
    for version in VERSIONS:
        entry = table().get(full, {}).get(version)
        if spans and spans[-1][1] == entry:
            spans[-1][0].append(version)
        else:
            spans.append(([version], entry))
    for versions, entry in spans:
        span = versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"
        yield f"  SDK {span}: {_signature(entry)}"


def _signature(entry: Entry | None) -> str:
    if entry is None:
        return "not there"
    if entry.members is not None:
        return f"one of {', '.join(sorted(entry.members))}" if entry.members else "a class"
    if entry.parameters is None:
        return "a name, not a function"
    return "(" + ", ".join(p.name + "=" * (not p.required) for p in entry.parameters) + ")"


def _status(full: str) -> Iterator[str]:
    """What the simulator has of a name that is no instruction."""
    from importlib import import_module

    module, _, name = full.rpartition(".")
    surface = import_module(f"nki_sim.{module}")
    if hasattr(surface, name):
        yield from _paragraph(inspect.getdoc(getattr(surface, name)))


def _paragraph(text: str | None) -> Iterator[str]:
    for line in inspect.cleandoc(text or "").splitlines():
        yield f"  {line}" if line else ""


# -- errors and rules ------------------------------------------------------------------------------


def _error(one: type[errors.SimulationError]) -> Iterator[str]:
    yield one.__name__
    yield from _paragraph(one.__doc__)
    advice = _ERROR_ADVICE.get(one.__name__)
    if advice:
        yield from _paragraph(textwrap.fill(advice, 96))
    yield "  Every error names the operation, the rule, what was received, and a remedy."


def _rule(name: str) -> Iterator[str]:
    rule = RULES[name]
    yield f"{rule.id} ({rule.severity} of the language check)"
    yield f"  {rule.text}"
    yield f"  remedy: {rule.remedy}"
    yield f"  SDK {', '.join(rule.versions)}; source: {rule.source}"
