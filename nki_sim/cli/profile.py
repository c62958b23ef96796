"""``profile``: what a launch executes, moves and holds, and where in the source."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..constants import HBM
from ..machine import PSUM_BANKS, platform_from_environment
from ..modes import SHAPES, mode
from ..trace import Event, Launch, record
from .latency import modelled
from .output import collected_warnings, excerpt, explain_error, show_warnings, size, table
from .run import results_of
from .target import Target, prepare

_HBM = tuple(region.name for region in HBM)


def main(arguments: argparse.Namespace) -> int:
    """Launch once and print the account."""
    target = prepare(arguments.target, arguments.shapes, arguments.seed, arguments.lnc)
    error: Exception | None = None
    result = None
    with record() as recording, collected_warnings() as raised:
        try:
            with mode(SHAPES) if arguments.no_data else nullcontext():
                result = target.kernel(**target.arguments)
        except Exception as caught:
            error = caught
    platform = platform_from_environment()
    print(f"{target.described()} on {platform.name}")
    for launch in recording.launches:
        print(_account(launch, target, result, arguments.lines, platform.sbuf_bytes))
        if error is None:
            print("\n" + modelled(launch, platform.name, arguments))
    print(show_warnings(raised, recording.launches), end="")
    if error is not None:
        print("the account ends at this error")
        print(explain_error(error))
        return 1
    return 0


def _account(launch: Launch, target: Target, result: Any, lines: int, capacity: int) -> str:
    events = launch.instructions
    sections = [
        "\nengines\n" + _engines(events),
        "\nsource lines, by elements\n" + _lines(events, lines),
        "\nHBM traffic\n" + _traffic(events, target, result),
        "\non-chip memory at its peak\n" + _memory(launch, capacity),
    ]
    return "\n".join(sections)


def _engines(events: Iterable[Event]) -> str:
    """One row per engine and opcode."""
    sums: dict[tuple[str, str], list[int]] = {}
    for event in events:
        row = sums.setdefault((event.engine, event.opcode), [0, 0, 0, 0])
        for i, amount in enumerate((1, event.elements, event.bytes, event.macs)):
            row[i] += amount
    rows: list[tuple[object, ...]] = [
        (engine, opcode, *row[:2], size(row[2]), row[3])
        for (engine, opcode), row in sorted(sums.items())
    ]
    header = ("engine", "opcode", "instructions", "elements", "operands", "MACs")
    return table(header, rows, left=2)


def _lines(events: Iterable[Event], limit: int) -> str:
    """One row per source line, opcode and engine; the largest first."""
    sums: dict[tuple[str, int, str, str], list[int]] = {}
    for event in events:
        row = sums.setdefault((event.file, event.line, event.opcode, event.engine), [0, 0])
        row[0] += 1
        row[1] += event.elements
    ranked = sorted(sums.items(), key=lambda item: (-item[1][1], item[0]))
    rows = [
        (f"{Path(file).name}:{line}", engine, *row, excerpt(file, line, opcode))
        for (file, line, opcode, engine), row in ranked[:limit]
    ]
    text = table(("line", "engine", "instructions", "elements", "source"), rows, left=2)
    hidden = len(ranked) - limit
    return text + (f"\n  and {hidden} more lines" if hidden > 0 else "")


@dataclass(slots=True)
class _Tensor:
    """Bytes that DMAs read from and wrote to one tensor in HBM."""

    read: int = 0
    written: int = 0


def _by_tensor(events: Iterable[Event], inputs: Iterable[str]) -> dict[str, _Tensor]:
    """Traffic per kernel input, and of everything else together."""
    known = set(inputs)
    found: dict[str, _Tensor] = {}
    for event in events:
        if event.engine != "dma":
            continue
        for operand in event.operands:
            if operand.memory in _HBM:
                name = operand.name if operand.name in known else "outputs and scratch"
                tensor = found.setdefault(name, _Tensor())
                if operand.access == "read":
                    tensor.read += _bytes(operand.shape, operand.dtype)
                else:
                    tensor.written += _bytes(operand.shape, operand.dtype)
    return found


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    import math

    from ..dtypes import TABLE

    return math.prod(shape) * TABLE[dtype].itemsize


def _traffic(events: list[Event], target: Target, result: Any) -> str:
    """Bytes per tensor, and against the least: inputs read once, outputs written once."""
    inputs = {name: array.nbytes for name, array in target.tensors().items()}
    given = {id(array) for array in target.tensors().values()}
    outputs = sum(_nbytes(one) for _, one in results_of(result) if id(one) not in given)
    found = _by_tensor(events, inputs)
    rows, least, moved = [], outputs, 0
    for name, tensor in found.items():
        whole = inputs.get(name, outputs)
        moved += tensor.read + tensor.written
        if name in inputs:
            least += min(tensor.read, whole) + min(tensor.written, whole)
        again = f"read {tensor.read / whole:.1f} times" if whole and tensor.read > whole else ""
        rows.append((name, size(whole), size(tensor.read), size(tensor.written), again))
    text = table(("tensor", "size", "read", "written", ""), rows)
    ratio = f", {moved / least:.2f} times as much" if least else ""
    return f"{text}\n  moved {size(moved)}; the least possible is {size(least)}{ratio}"


def _nbytes(array: Any) -> int:
    import math

    itemsize = getattr(array.dtype, "itemsize", 4)
    return math.prod(array.shape) * int(itemsize)


def _memory(launch: Launch, capacity: int) -> str:
    """Who holds SBUF and PSUM when most of it is held."""
    sbuf, psum = launch.sbuf_peak_bytes_per_partition, launch.psum_peak_banks
    share = f"{100 * sbuf / capacity:.1f} %"
    parts = [f"  SBUF: {sbuf:,} of {capacity:,} bytes per partition ({share})"]
    parts += _holders(launch, "sbuf", "bytes per partition")
    parts.append(f"  PSUM: {psum} of {PSUM_BANKS} banks")
    parts += _holders(launch, "psum", "banks")
    return "\n".join(parts)


def _holders(launch: Launch, memory: str, unit: str) -> list[str]:
    merged: dict[tuple[object, ...], list[int]] = {}
    for holder in launch.at_peak.get(memory, []):
        name, shape, dtype = holder.label
        place = f"{Path(holder.file).name}:{holder.line}"
        key = (name or "-", "x".join(map(str, shape)), dtype, place, excerpt(
            holder.file, holder.line, ""))  # fmt: skip
        row = merged.setdefault(key, [0, 0])
        row[0] += 1
        row[1] += holder.amount
    if not merged:
        return []
    rows = [
        (key[0], key[1], key[2], row[0], row[1], key[3], key[4])
        for key, row in sorted(merged.items(), key=lambda item: -item[1][1])
    ]
    return [table(("name", "shape", "type", "tensors", unit, "line", "source"), rows, left=3)]
