"""The double of NxD's mixture of experts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from neuronx_distributed import release


class MoE(nn.Module):
    def __init__(self, router: nn.Module, expert_mlps: nn.Module, rmsnorm: Any = None) -> None:
        super().__init__()
        self.router, self.expert_mlps, self.rmsnorm = router, expert_mlps, rmsnorm

    def forward(
        self, hidden_states: Tensor, padding_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, ...]:
        """(B, S, H) -> the same, in a tuple; 2.29 also knows is_speculative_decoding."""
        known = {"is_speculative_decoding"} if release.since("2.29") else set()
        if unknown := set(kwargs) - known:
            raise TypeError(f"MoE.forward() got an unexpected keyword argument {sorted(unknown)}")
        if self.rmsnorm is not None:
            hidden_states = self.rmsnorm(hidden_states)
        _, affinities, experts = self.router(hidden_states)
        output = self.expert_mlps(
            hidden_states=hidden_states.reshape(-1, hidden_states.shape[-1]),
            expert_affinities=affinities,
            expert_index=experts,
            seq_len=hidden_states.shape[1],
            padding_mask=padding_mask,
        )
        return (output.view(hidden_states.shape),)
