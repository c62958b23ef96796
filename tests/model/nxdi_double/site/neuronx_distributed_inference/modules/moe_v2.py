"""The double of NxD Inference's constructor of the mixture of experts."""

from __future__ import annotations

from typing import Any

from neuronx_distributed.modules.moe.expert_mlps_v2 import ExpertMLPsV2, RoutedExpertsMLPOpsConfig
from neuronx_distributed.modules.moe.model import MoE
from neuronx_distributed.modules.moe.routing import RouterTopK
from torch import nn


def initialize_moe_module(
    config: Any, rmsnorm: nn.Module | None = None, init_tkg_module: bool = False
) -> MoE:
    settings = config.neuron_config
    router = RouterTopK(
        num_experts=config.num_local_experts,
        top_k=config.num_experts_per_tok,
        hidden_size=config.hidden_size,
        dtype=settings.router_config.dtype,
        act_fn=settings.router_config.act_fn,
        sequence_parallel_enabled=settings.sequence_parallel_enabled,
        sequence_dimension=1,
        store_transposed_weights=init_tkg_module,
    )
    experts = ExpertMLPsV2(
        routed_experts_mlp_config=RoutedExpertsMLPOpsConfig(
            num_experts=config.num_local_experts,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            top_k=config.num_experts_per_tok,
            hidden_act=config.hidden_act,
            glu_mlp=settings.glu_mlp,
            glu_type=settings.glu_type,
            hidden_act_scaling_factor=settings.hidden_act_scaling_factor,
            hidden_act_bias=settings.hidden_act_bias,
            early_expert_affinity_modulation=settings.early_expert_affinity_modulation,
            normalize_top_k_affinities=settings.normalize_top_k_affinities,
        ),
        blockwise_matmul_config=settings.blockwise_matmul_config,
        sequence_parallel_enabled=settings.sequence_parallel_enabled,
        dtype=settings.torch_dtype,
    )
    return MoE(router=router, expert_mlps=experts, rmsnorm=rmsnorm).eval()
