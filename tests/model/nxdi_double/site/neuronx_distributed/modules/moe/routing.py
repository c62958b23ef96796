"""The double of NxD's router."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RouterTopK(nn.Module):
    """Softmax over all experts, top-k of the logits; state dict: linear_router.weight [E, H]."""

    def __init__(
        self,
        num_experts: int,
        top_k: int,
        hidden_size: int,
        sequence_parallel_enabled: bool = False,
        sequence_dimension: int | None = None,
        dtype: torch.dtype = torch.float32,
        bias: bool = False,
        act_fn: str = "softmax",
        apply_act_fn_over_topk: bool = False,
        store_transposed_weights: bool = False,
    ) -> None:
        super().__init__()
        self.num_experts, self.top_k, self.act_fn = num_experts, top_k, act_fn
        self.apply_act_fn_over_topk = apply_act_fn_over_topk
        self.sequence_parallel_enabled = sequence_parallel_enabled
        self.linear_router = nn.Linear(hidden_size, num_experts, bias=bias, dtype=dtype)

    def get_router_logits(self, hidden_states: Tensor) -> Tensor:
        weight_dtype = self.linear_router.weight.dtype
        return self.linear_router(hidden_states.to(weight_dtype)).view(-1, self.num_experts)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.get_router_logits(hidden_states)
        if self.act_fn == "softmax":
            affinities = torch.softmax(logits.double(), dim=1)
        else:
            affinities = torch.sigmoid(logits.double())
        _, experts = logits.topk(self.top_k)
        return logits, affinities.to(hidden_states.dtype), experts.detach().long()
