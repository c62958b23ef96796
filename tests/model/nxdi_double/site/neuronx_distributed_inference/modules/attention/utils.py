"""The double of NxD Inference's attention functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def repeat_kv(hidden_states: Tensor, n_rep: int) -> Tensor:
    """(B, kv heads, S, D) -> (B, kv heads * n_rep, S, D)."""
    return hidden_states.repeat_interleave(n_rep, dim=1)


def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    def rotated(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]

    return rotated(q), rotated(k)


class RotaryEmbedding(nn.Module):
    def __init__(self, dim: int, max_position_embeddings: int = 2048, base: float = 10000) -> None:
        super().__init__()
        self.dim, self.base = dim, base

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Tables (B, S, D) in the dtype of x."""
        exponents = torch.arange(0, self.dim, 2, dtype=torch.float32) / self.dim
        angles = (position_ids[..., None].float() / self.base**exponents).repeat(1, 1, 2)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)
