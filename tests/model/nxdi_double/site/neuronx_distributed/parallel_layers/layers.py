"""The double of the base of NxD's tensor-parallel layers."""

from __future__ import annotations

from torch import nn


class BaseParallelLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
