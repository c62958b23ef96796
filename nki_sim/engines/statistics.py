"""Mean and variance of rows on the vector engine, in two steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..constants import Engine
from ..dtypes import Array
from ..machine import Program
from ..views import NkiTensor
from .alu import write
from .base import LANES, READ, WRITE, Instruction, Limit, Operand, Rule
from .costs import Costs


@dataclass(slots=True, eq=False)
class BnStats(Instruction):
    """dst = count, mean and count * variance of the elements with even positions, then odd."""

    opcode: ClassVar[str] = "bn_stats"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (Operand("dst", "P6", WRITE), Operand("data", "PB", READ))
    limits: ClassVar = (
        LANES,
        Limit(
            "B",
            512,
            "nl.tile_size.bn_stats_fmax",
            remedy="use one bn_stats per part and one bn_aggr over their results",
        ),
    )
    work: ClassVar[str] = "data"
    numerics: ClassVar[str] = "fp32 inside (order of sums unspecified), one rounding on write"
    cost: ClassVar[Costs] = Costs("max(64, N)")

    dst: NkiTensor
    data: NkiTensor

    def execute(self, program: Program) -> None:
        values = self.data.rows32()
        write(self.dst, np.concatenate((_moments(values[:, ::2]), _moments(values[:, 1::2])), 1))


def _moments(values: Array) -> Array:
    """Count, mean and count * variance of each row, [P, 3]; zeros for empty rows."""
    count = values.shape[1]
    result = np.zeros((values.shape[0], 3), np.float32)
    if count:
        result[:, 0] = count
        mean = values.sum(axis=1, dtype=np.float32) / np.float32(count)
        result[:, 1] = mean
        result[:, 2] = np.square(values - mean[:, None]).sum(axis=1, dtype=np.float32)
    return result


@dataclass(slots=True, eq=False)
class BnAggr(Instruction):
    """dst = mean and variance of all that data's (count, mean, count * variance) describe."""

    opcode: ClassVar[str] = "bn_aggr"
    engines: ClassVar = (Engine.vector,)
    operands: ClassVar = (Operand("dst", "P2", WRITE), Operand("data", "PT", READ))
    rules: ClassVar = (
        Rule(
            "data holds triples",
            lambda i, s: f"{s['T']} elements per partition" if s["T"] % 3 else None,
            "pass whole results of nisa.bn_stats",
            "bn_aggr",
        ),
    )
    work: ClassVar[str] = "data"
    numerics: ClassVar[str] = "fp32 inside (order of sums unspecified), one rounding on write"
    cost: ClassVar[Costs] = Costs("13 * N / 3")

    dst: NkiTensor
    data: NkiTensor

    def execute(self, program: Program) -> None:
        values = self.data.rows32()
        count, mean, scatter = (values[:, k::3] for k in range(3))
        total = count.sum(axis=1, keepdims=True)
        mean_of_all = (count * mean).sum(axis=1, keepdims=True) / total
        between = (count * np.square(mean - mean_of_all)).sum(axis=1, keepdims=True)
        variance = (scatter.sum(axis=1, keepdims=True) + between) / total
        write(self.dst, np.concatenate((mean_of_all, variance), axis=1))
