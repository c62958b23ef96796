"""The double of the markers: as in the SDK, one tensor comes back bare, several as a tuple."""

from __future__ import annotations

from typing import Any

from torch import nn

MARKED: list[tuple[str, int]] = []


class ModuleMarkerStartWrapper(nn.Module):
    def forward(self, *args: Any) -> Any:
        MARKED.append(("start", len(args)))
        return args[0] if len(args) == 1 else args


class ModuleMarkerEndWrapper(nn.Module):
    def forward(self, *args: Any) -> Any:
        MARKED.append(("end", len(args)))
        return args[0] if len(args) == 1 else args
