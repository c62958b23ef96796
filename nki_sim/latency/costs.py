"""From tasks to times: what each of them occupies, and for how long, in one scenario."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .hardware import Values
from .tasks import Compute, Meeting, Task, Transfer

LEAST_CYCLES = 64
"""The least issue interval of the vector, scalar and GpSimd engines, in the published formulas."""


@dataclass(frozen=True, slots=True)
class Price:
    """The times of a task, in ns.

    Attributes:
        busy: it occupies its engine (a DMA: the queue that triggers it).
        drain: from there until its result can be read.
        prelude: its engine works on its behalf before, without waiting for operands.
        start: of a DMA, from its trigger to the first byte.
        share: of a DMA, how long it would occupy all 16 engines.
        chain: of a DMA, how long its own engines need.
        hbm: it occupies HBM.
    """

    busy: float
    drain: float = 0.0
    prelude: float = 0.0
    start: float = 0.0
    share: float = 0.0
    chain: float = 0.0
    hbm: float = 0.0

    @property
    def total(self) -> float:
        """All of it, one after the other."""
        return (
            self.busy + self.drain + self.prelude + self.start + self.chain + self.hbm
        )  # `share` is a part of `chain`


def price(task: Task, values: Values) -> Price:
    """The times of a task with a scenario's constants."""
    if isinstance(task, Compute):
        return _tensor(task, values) if task.engine == "tensor" else _compute(task, values)
    return _transfer(task, values) if isinstance(task, Transfer) else _meeting(task, values)


def _tensor(task: Compute, values: Values) -> Price:
    """A matmul or transpose: its columns, and its stationary operand if nothing hides that."""
    cycles = max(task.cycles, values["tensor.least_issue"])
    if task.exposed:
        cycles += values["tensor.load_stationary"]
    cycles *= task.share ** values["tensor.tile_share"]
    return Price(cycles / values["tensor.clock"], values["tensor.drain"])


def _compute(task: Compute, values: Values) -> Price:
    """An instruction of the vector, scalar, GpSimd or sync engine."""
    if task.engine == "sync":
        name = "load" if task.opcode == "register_load" else "move"
        return Price(values[f"sync.register_{name}"])
    engine, cycles = task.engine, task.cycles
    mode = task.mode if values.get(f"{engine}.fast_modes") else 1
    cycles = max(cycles / mode, min(cycles, LEAST_CYCLES))
    work = max(0.0, min(cycles, 2 * (cycles - LEAST_CYCLES)))  # the formulas hide less than 64
    overhead, latency = values[f"{engine}.overhead"], values[f"{engine}.latency"]
    if engine == "gpsimd" and task.elementwise:
        work *= values["gpsimd.factor"]
    elif engine == "gpsimd":
        work, overhead, latency = cycles, 0.0, latency - overhead  # the formulas have the overhead
    busy = max(min(cycles, LEAST_CYCLES), work + overhead)
    clock = values[f"{engine}.clock"]
    prelude = values["scalar.table_load"] if task.table else 0.0
    return Price(busy / clock, max(0.0, work + latency - busy) / clock, prelude)


def _transfer(task: Transfer, values: Values) -> Price:
    """A DMA: its issue, its descriptors on the engines that it reaches, its share of HBM."""
    issue = values[f"dma.{task.descriptors}_issue"]
    if task.offset:
        issue += values["dma.offset"]
    rate = values["dma.engine_rate"]
    if task.transposes:
        rate *= values["dma.transpose"]
    work = task.runs * values["dma.descriptor"] + task.bytes / rate
    engines, start = _engines(task, values), values["dma.start"]
    if "software" not in task.descriptors:
        start = max(0.0, start - issue)  # counts from the start of the trigger
    rounds = math.ceil(task.runs / engines) * engines / task.runs  # the fullest engine's share
    return Price(
        issue,
        values["dma.finish"],
        start=start,
        share=work / values["dma.engines"],
        chain=work / engines * min(rounds, 2.0),
        hbm=_hbm(task.hbm_bytes, values),
    )


def _engines(task: Transfer, values: Values) -> float:
    """How many DMA engines a transfer is spread over."""
    engines = values["dma.engines"]
    if task.partitions:
        engines = min(engines, math.ceil(task.partitions / values["dma.partitions_per_engine"]))
    return max(1.0, min(engines, task.runs))


def _hbm(amount: int, values: Values) -> float:
    return amount / (values["memory.hbm_rate"] * values["memory.hbm_efficiency"])


def _meeting(task: Meeting, values: Values) -> Price:
    """A barrier, an exchange between two cores, or a collective."""
    if task.kind == "core_barrier":
        return Price(values["semaphore.barrier"])
    if task.kind == "sendrecv":
        rate = values["dma.engine_rate"] * values["dma.engines"]
        if task.engine == "gpsimd":
            rate = values["dma.gpsimd_rate"]
        return Price(values["semaphore.sendrecv"] + task.bytes / rate)
    return Price(values["collective.latency"] + task.bytes / values["collective.rate"])
