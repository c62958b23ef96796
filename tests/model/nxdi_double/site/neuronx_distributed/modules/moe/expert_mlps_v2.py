"""The double of NxD's experts, and of the layers that hold their stacked weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class RoutedExpertsMLPOpsConfig:
    num_experts: int
    hidden_size: int
    intermediate_size: int
    top_k: int
    hidden_act: str
    glu_mlp: bool
    bias: bool = False
    glu_type: str = "glu"
    hidden_act_scaling_factor: float = 1.0
    hidden_act_bias: float = 0.0
    gate_clamp_upper_limit: float | None = None
    gate_clamp_lower_limit: float | None = None
    up_clamp_upper_limit: float | None = None
    up_clamp_lower_limit: float | None = None
    early_expert_affinity_modulation: bool = False
    normalize_top_k_affinities: bool = False
    capacity_factor: float | None = None


class OneRank:
    """A process group with one member."""

    def size(self) -> int:
        return 1


class ExpertFusedLinear(nn.Module):
    """[E, in, out] weights; (E' or 1, 1, C, in) by the given or all experts -> (E', 1, C, out)."""

    def __init__(self, experts: int, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(experts, inputs, outputs, dtype=dtype))

    def forward(self, input_: Tensor, expert_indices: Tensor | None = None) -> Tensor:
        weight = self.weight if expert_indices is None else self.weight[expert_indices]
        return torch.matmul(input_, weight[:, None])


class Experts(nn.Module):
    def __init__(self, config: RoutedExpertsMLPOpsConfig, dtype: torch.dtype) -> None:
        super().__init__()
        size = (config.num_experts, config.hidden_size, config.intermediate_size)
        self.gate_up_proj = ExpertFusedLinear(size[0], size[1], 2 * size[2], dtype)
        self.down_proj = ExpertFusedLinear(size[0], size[2], size[1], dtype)
        self._activation_fn = {"silu": F.silu, "gelu": F.gelu}[config.hidden_act]

    def forward(self, hidden_states: Tensor, expert_indices: Tensor | None = None) -> Tensor:
        gate, up = self.gate_up_proj(hidden_states[:, None], expert_indices).chunk(2, dim=-1)
        return self.down_proj(self._activation_fn(gate) * up, expert_indices).squeeze(1)


class ExpertMLPsV2(nn.Module):
    def __init__(
        self,
        routed_experts_mlp_config: RoutedExpertsMLPOpsConfig,
        blockwise_matmul_config: Any,
        dtype: torch.dtype = torch.float32,
        sequence_parallel_enabled: bool = False,
        is_prefill: bool = True,
    ) -> None:
        super().__init__()
        self.routed_experts_mlp_config = routed_experts_mlp_config
        self.blockwise_matmul_config = blockwise_matmul_config
        self.sequence_parallel_enabled = sequence_parallel_enabled
        self.moe_expert_model_parallel_group = OneRank()
        self.mlp_op = Experts(routed_experts_mlp_config, dtype)

    def get_mlp_op(self) -> Experts:
        return self.mlp_op

    def forward(
        self,
        hidden_states: Tensor,
        expert_affinities: Tensor,
        expert_index: Tensor,
        seq_len: int,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        config = self.routed_experts_mlp_config
        tokens = len(hidden_states)
        chosen = (hidden_states, expert_affinities, expert_index)
        if tokens * config.top_k < config.num_experts:
            return self.forward_selective_loading(*chosen)
        if seq_len == 1 or tokens * config.top_k < self.blockwise_matmul_config["block_size"]:
            return self.forward_all_experts(*chosen)
        return self.forward_blockwise(*chosen, None, padding_mask=padding_mask)

    def forward_selective_loading(
        self, hidden_states: Tensor, expert_affinities: Tensor, expert_index: Tensor
    ) -> Tensor:
        weights = self._normalised(expert_affinities.gather(1, expert_index))
        rows = [
            (self.mlp_op(token[None, None], expert_indices=experts)[:, 0] * share[:, None]).sum(0)
            for token, experts, share in zip(hidden_states, expert_index, weights, strict=True)
        ]
        return torch.stack(rows)

    def forward_all_experts(
        self,
        hidden_states: Tensor,
        expert_affinities: Tensor,
        expert_index: Tensor,
        chosen_expert_indices: Tensor | None = None,
    ) -> Tensor:
        mask = torch.zeros_like(expert_affinities).scatter(1, expert_index, 1.0)
        weights = self._normalised(expert_affinities * mask)
        outputs = self.mlp_op(hidden_states[None], expert_indices=chosen_expert_indices)
        return torch.einsum("eth,te->th", outputs, weights)

    def forward_blockwise(
        self,
        hidden_states: Tensor,
        expert_affinities: Tensor,
        expert_index: Tensor,
        expert_affinities_masked_full: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """The blocks' result; how NxD cuts and orders them is not doubled."""
        return ExpertMLPsV2.forward_all_experts(
            self, hidden_states, expert_affinities, expert_index
        )

    def _normalised(self, weights: Tensor) -> Tensor:
        if self.routed_experts_mlp_config.normalize_top_k_affinities:
            return F.normalize(weights, p=1.0, dim=1)
        return weights
