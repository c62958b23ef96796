"""What an evaluation asks of a model, on a CPU and on a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from model.generation import Generation


class Model(Protocol):
    """What every backend loads."""

    def generate(
        self,
        input_ids: torch.Tensor,
        new_tokens: int,
        forced_tokens: torch.Tensor | None = None,
    ) -> Generation:
        """Generate greedily; the token fed at step i + 1 is forced_tokens[i] where given."""


class SimulatedModel(Model, Protocol):
    """What `load` of model/baseline.py and of model/qwen_cpu.py returns."""

    def prefill(self, input_ids: torch.Tensor, capacity: int) -> torch.Tensor:
        """Read the prompt [S]; logits [V] after it."""

    def decode(self, token: int) -> torch.Tensor:
        """Read one more token; logits [V] after it."""

    def hidden_states(self, input_ids: torch.Tensor, token: int) -> torch.Tensor:
        """float32 [2, L, H] after each layer: the prompt's last token, and `token` behind it."""


class Timed(Protocol):
    """A timed generation: tokens [N], seconds of the prefill and of each decode step."""

    @property
    def tokens(self) -> NDArray[np.int64]: ...

    @property
    def prefill_s(self) -> float: ...

    @property
    def decode_s(self) -> list[float]: ...


class DeviceModel(Model, Protocol):
    """A model on a device, whose logits cost time to fetch and are left out of timed runs."""

    def generate_timed(self, input_ids: torch.Tensor, new_tokens: int) -> Timed:
        """Generate greedily; no logits."""


class Graphs(Protocol):
    """The compiled graphs of a device, which tell what the run itself cannot."""

    def describe(self, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
        """Return "launches", "fallbacks", "mac_ratio" and "device" of an evaluation."""


LoadModel = Callable[[str, Path, str, str], Any]
"""(variant, model path, dtype, kernel path) -> `SimulatedModel`."""
