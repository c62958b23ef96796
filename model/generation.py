"""Greedy generation, the same loop and the same clock for every model on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Generation:
    """What a greedy run of N new tokens gave.

    tokens: int64 [N], the argmax of each step's logits, whatever token was fed next.
    logits: float32 [N, V]; row 0 comes from the prefill.
    prefill_s: wall time of the prefill; decode_s: of each of the N - 1 decode steps, in order.
    """

    tokens: NDArray[np.int64]
    logits: NDArray[np.float32]
    prefill_s: float
    decode_s: list[float] = field(default_factory=list)


class Steps(Protocol):
    """A model of batch 1 with a KV cache; both calls return the last token's logits [V]."""

    def prefill(self, input_ids: torch.Tensor, capacity: int) -> torch.Tensor:
        """Forget everything, then read the prompt [S]; at most `capacity` tokens in all follow."""
        ...

    def decode(self, token: int) -> torch.Tensor:
        """Read one more token."""
        ...


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype called `name`; ValueError for one that the models do not run in."""
    if name not in DTYPES:
        raise ValueError(f"dtype: received {name!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[name]


@torch.inference_mode()
def generate_greedily(
    model: Steps,
    input_ids: torch.Tensor,
    new_tokens: int,
    forced_tokens: torch.Tensor | None = None,
) -> Generation:
    """Read `input_ids` [S] and take `new_tokens` greedy steps; an end-of-text token ends nothing.

    With `forced_tokens`, step i + 1 is fed forced_tokens[i] instead of the model's own choice
    (teacher forcing), so at least new_tokens - 1 of them are needed. ValueError for shapes that do
    not fit.
    """
    _check(input_ids, new_tokens, forced_tokens)
    start = time.perf_counter()
    logits = [model.prefill(input_ids, len(input_ids) + new_tokens)]
    prefill_s = time.perf_counter() - start
    tokens, decode_s = [int(logits[0].argmax())], []
    for step in range(new_tokens - 1):
        token = tokens[-1] if forced_tokens is None else int(forced_tokens[step])
        start = time.perf_counter()
        logits.append(model.decode(token))
        decode_s.append(time.perf_counter() - start)
        tokens.append(int(logits[-1].argmax()))
    stacked = torch.stack(logits).float().numpy()
    return Generation(np.array(tokens, dtype=np.int64), stacked, prefill_s, decode_s)


@torch.inference_mode()
def states_of_layers(
    model: Steps,
    layers: Iterable[nn.Module],
    state: Callable[[Any], torch.Tensor],
    input_ids: torch.Tensor,
    token: int,
) -> torch.Tensor:
    """float32 [2, L, H] after each layer: of the prompt's last token, and of `token` behind it.

    `state` makes hidden states [1, S, H] of what a layer returns.
    """
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, outputs: seen.append(state(outputs)[0, -1]))
        for layer in layers
    ]
    try:
        model.prefill(input_ids, len(input_ids) + 1)
        model.decode(token)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(seen).float().reshape(2, len(hooks), -1)


def _check(input_ids: torch.Tensor, new_tokens: int, forced: torch.Tensor | None) -> None:
    if input_ids.ndim != 1 or len(input_ids) == 0:
        raise ValueError(
            f"input_ids: received shape {tuple(input_ids.shape)}; give one prompt as a vector of "
            "at least one token"
        )
    if new_tokens < 1:
        raise ValueError(f"new_tokens: received {new_tokens}; ask for at least one")
    if forced is not None and (forced.ndim != 1 or len(forced) < new_tokens - 1):
        raise ValueError(
            f"forced_tokens: received shape {tuple(forced.shape)}; {new_tokens} steps need a "
            f"vector of at least {new_tokens - 1}"
        )
