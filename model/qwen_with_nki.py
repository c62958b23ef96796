"""Qwen3-MoE for NxD Inference with this project's kernels.

On the kernel path "layered", NxDI's model holds the decoder layers and the LM head of
`model.neuron_layers` in the place of its own. Where the configuration does not allow it
(`model.neuron_plan` says why), the path is "rows", small kernels in the hooks of NxDI's modules:
NxDI builds these itself; `adopt` then gives each of them a subclass of its own class that launches
kernels, so that constructors, parameters, sharding and collectives stay NxDI's, whatever
the release. No class of NxDI is changed: a stock model beside this one stays stock. Where a kernel
cannot stand, NxDI's own method runs and `model.neuron_hooks` says why.

B batch, S new tokens, C length of the cache, H hidden size, D head dimension, E experts, K = 8
chosen, I width of an expert. Head counts, I and the projections' outputs are those of one rank.
"""

from __future__ import annotations

import copy
import logging
import math
from typing import Any, TypeVar

import torch
from neuronx_distributed.modules.moe.expert_mlps_v2 import ExpertMLPsV2
from neuronx_distributed.modules.moe.routing import RouterTopK
from neuronx_distributed.utils import cpu_mode
from neuronx_distributed_inference.models.config import MoENeuronConfig, OnDeviceSamplingConfig
from neuronx_distributed_inference.models.layer_boundary_marker import (
    ModuleMarkerEndWrapper,
    ModuleMarkerStartWrapper,
)
from neuronx_distributed_inference.models.qwen3_moe import modeling_qwen3_moe as stock
from neuronx_distributed_inference.modules.attention.utils import repeat_kv
from torch import Tensor, nn
from torch.nn import functional as F

from model import dispatch, neuron_hooks, neuron_packing, neuron_plan, neuron_state
from model.neuron_layers import (
    NO_RESIDUAL,
    NeuronLaunching,
    PackedDecoderLayer,
    PackedHead,
    mark_boundary,
)
from model.plan import NEURON_PATHS, why_not_routed
from model.row_layers import (
    NKIRMSNorm,
    nki_aggregate,
    nki_rope,
    nki_route,
    nki_silu,
    nki_softmax,
)

__all__ = [
    "NeuronQwen3MoEAttention",
    "NeuronQwen3MoeDecoderLayer",
    "NeuronQwen3MoeForCausalLM",
    "NeuronQwen3MoeModel",
    "Qwen3MoeInferenceConfig",
    "Qwen3MoeNeuronConfig",
]

Module = TypeVar("Module", bound=nn.Module)
logger = logging.getLogger(__name__)

# What NxDI's CPU path demands: one graph for all lengths, no kernel that only a device has.
CPU_SETTINGS = {
    "async_mode": False,
    "enable_bucketing": False,
    "attn_kernel_enabled": False,
    "moe_fused_nki_kernel_enabled": False,
}


class Qwen3MoeNeuronConfig(MoENeuronConfig):
    """NxDI's configuration with the settings that this model ships with.

    Sampling on the device (greedy, with logits), asynchronous execution and one fused QKV weight:
    without them the host takes a third of every token. A driver's command line states its switches
    even when nobody set them, so a value that is false counts as not given; `nki_defaults=False`
    leaves everything as it is given. On the CPU, what only a device can do is off.
    `nki_fuse_residual=False` makes every layer add its residuals itself. `nki_kernel_path` is
    "layered" or "rows".
    """

    def __init__(
        self,
        nki_defaults: bool = True,
        nki_fuse_residual: bool = True,
        nki_kernel_path: str = neuron_plan.PATH,
        **kwargs: Any,
    ) -> None:
        on_cpu = bool(kwargs.get("on_cpu")) or cpu_mode()
        settings = _shipping_settings(kwargs) if nki_defaults else kwargs
        if on_cpu:
            settings = settings | CPU_SETTINGS
        super().__init__(**settings)
        self.nki_defaults = nki_defaults
        self.nki_fuse_residual = nki_fuse_residual
        self.nki_kernel_path = nki_kernel_path


def _shipping_settings(given: dict[str, Any]) -> dict[str, Any]:
    settings = dict(given)
    for switch in ("async_mode", "fused_qkv", "output_logits"):
        settings[switch] = True
    if not settings.get("on_device_sampling_config"):
        settings["on_device_sampling_config"] = OnDeviceSamplingConfig(
            do_sample=False, top_k=1, top_p=1.0, temperature=1.0, dynamic=False
        )
    return settings


class Qwen3MoeInferenceConfig(stock.Qwen3MoeInferenceConfig):
    """NxDI's model configuration, around this model's own NeuronConfig.

    `nki_rows_because` has the reasons for the kernel path "rows". They are found here, once, for
    NxDI changes the settings of each graph's copy, and graphs share their weights. For "layered"
    keys are cached with their positions last, as its kernels read them. On a CPU without a
    simulator of kernels `nki_stock_because` says so, and the model is NxDI's own.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.nki_rows_because = neuron_plan.why_not_layered(self)
        on_cpu = bool(getattr(self.neuron_config, "on_cpu", False)) or cpu_mode()
        self.nki_stock_because = dispatch.why_not_on_cpu() if on_cpu else None
        if self.nki_stock_because is not None:
            self.nki_rows_because.append(self.nki_stock_because)
        if not self.nki_rows_because and self.neuron_config.nki_defaults:
            self.neuron_config.k_cache_transposed = True

    @classmethod
    def get_neuron_config_cls(cls) -> type[Qwen3MoeNeuronConfig]:
        """The class whose defaults this model ships with; the baseline's is untouched."""
        return Qwen3MoeNeuronConfig


def adopt(module: nn.Module, kind: type[Module]) -> Module | None:
    """Make `module`, built by NxDI, an instance of `kind`, or return None if it cannot be one.

    `kind` must be a direct subclass of the module's own class and adds methods only, so parameters,
    buffers and hooks stay what they are (torch's parametrizations change classes likewise).
    """
    if type(module) not in kind.__bases__:
        return None
    module.__class__ = kind
    return module  # type: ignore[return-value]


class NeuronQwen3MoEAttention(stock.NeuronQwen3MoEAttention):
    """NxDI's attention with kernels for the heads' norms, RoPE and the softmax."""

    layer: int

    def apply_rotary_embedding(
        self,
        Q: Tensor,
        K: Tensor,
        V: Tensor,
        position_ids: Tensor,
        cos_cache: Tensor | None,
        sin_cache: Tensor | None,
        use_polar_compatible_rope: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Rotate Q (B, heads, S, D) and K (B, kv heads, S, D) by tables (B, S, D); see NxDI."""
        ours = not use_polar_compatible_rope and self.rotary_emb is not None
        if ours and (cos_cache is None or sin_cache is None):
            cos_cache, sin_cache = self.rotary_emb(V, position_ids)
        reason = self._why_not_rope(Q, K, cos_cache) if ours else "the model rotates otherwise"
        if reason is not None:
            neuron_hooks.record("rope", neuron_hooks.phase_of(Q.shape[2]), reason, self.layer)
            return super().apply_rotary_embedding(
                Q, K, V, position_ids, cos_cache, sin_cache, use_polar_compatible_rope
            )
        assert cos_cache is not None and sin_cache is not None
        Q, K = nki_rope(Q, K, cos_cache, sin_cache)
        return Q, K, cos_cache, sin_cache

    def perform_prefill(
        self, Q: Tensor, K: Tensor, V: Tensor, q_len: int, bsz: int, attention_mask: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Attend among Q (B, heads, S, D), K, V (B, kv heads, S, D); -> (B, heads, S, D), NONE.

        Where NxDI takes a flash kernel, scores never leave it: there is no softmax to replace.
        """
        strategy = self.get_flash_attention_strategy(q_len, attention_mask is not None)
        if strategy.name != "NONE":
            reason: str | None = f"NxDI attends with its flash kernel ({strategy.name})"
        else:
            reason = self._why_not_softmax(Q.dtype, q_len)
        if reason is not None:
            neuron_hooks.record("softmax", "CTE", reason, self.layer)
            return super().perform_prefill(Q, K, V, q_len, bsz, attention_mask)
        scores = self.scaled_qk(Q, repeat_kv(K, self.num_key_value_groups), attention_mask)
        shares = nki_softmax(scores)
        return torch.matmul(shares, repeat_kv(V, self.num_key_value_groups)), strategy

    def compute_for_token_gen(
        self,
        Q: Tensor,
        K: Tensor,
        V: Tensor,
        position_ids: Tensor | None,
        past_key_value: tuple[Tensor, Tensor],
        attention_mask: Tensor,
        active_mask: Tensor | None,
        is_prefix_caching: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """Q (B, heads, 1, D) over the cache (B, kv heads, C, D) and the new K, V; -> as Q.

        The softmax is one launch over rows of C + 1 scores in float32: the new token's own score
        stands behind those of the cache.
        """
        cached = past_key_value[1].shape[2]
        reason = self._why_not_tokens(Q, cached, attention_mask, is_prefix_caching or bool(kwargs))
        if reason is not None:
            neuron_hooks.record("softmax", "TKG", reason, self.layer)
            if is_prefix_caching:
                kwargs["is_prefix_caching"] = True
            return super().compute_for_token_gen(
                Q, K, V, position_ids, past_key_value, attention_mask, active_mask, **kwargs
            )
        groups = self.num_key_value_groups
        keys, values = (repeat_kv(part, groups) for part in past_key_value[:2])
        if not self.k_cache_transposed:
            keys = keys.transpose(2, 3)
        divisor = getattr(self, "softmax_scale", None) or math.sqrt(self.head_dim)
        prior = torch.matmul(Q, keys) / divisor
        prior = torch.where(attention_mask, prior, torch.finfo(prior.dtype).min)
        active = torch.matmul(Q, repeat_kv(K, groups).transpose(2, 3)) / divisor
        shares = nki_softmax(torch.cat((prior.float(), active.float()), dim=-1)).to(Q.dtype)
        attended = torch.matmul(shares[..., :cached], values)
        return attended + torch.matmul(shares[..., cached:], repeat_kv(V, groups))

    def _why_not_rope(self, Q: Tensor, K: Tensor, table: Tensor | None) -> str | None:
        if table is not None and table.dtype not in (Q.dtype, torch.float32):
            return f"tables of {table.dtype} for queries of {Q.dtype}"
        return neuron_hooks.why_not_rows("rope", Q.dtype, 1, Q.shape[1] + K.shape[1], Q.shape[3])

    def _why_not_tokens(
        self, Q: Tensor, cached: int, attention_mask: Tensor, extended: bool
    ) -> str | None:
        if extended or Q.shape[2] != 1:
            return f"{Q.shape[2]} new tokens, or a mask among them; the kernel's rows have one"
        if attention_mask.shape[-1] != cached:
            return f"a mask over {attention_mask.shape[-1]} of {cached} cached tokens"
        return self._why_not_softmax(torch.float32, cached + 1)

    def _why_not_softmax(self, dtype: torch.dtype, columns: int) -> str | None:
        if getattr(self, "learned_sinks_size", None) is not None:
            return "learned sinks take part in the softmax"
        return neuron_hooks.why_not_rows("softmax", dtype, 1, columns)


class KernelRouter(RouterTopK):
    """NxDI's router with kernels for the softmax over all experts and the choice of 8.

    Experts are chosen by probability, which NxDI does by logit: the same, but for logits so close
    that their float32 probabilities are equal, of which the lower index comes first here.
    """

    layer: int

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, H) -> logits (T, E), affinities (T, E) in the input's dtype, experts (T, K)."""
        logits = self.get_router_logits(hidden_states)
        reason = self._why_not(logits)
        if reason is not None:
            phase = neuron_hooks.phase_of(len(logits))
            for kernel in ("router_softmax", "top8"):
                neuron_hooks.record(kernel, phase, reason, self.layer)
            return super().forward(hidden_states)
        probabilities, _, experts = nki_route(logits, self.top_k)
        return logits, probabilities.to(hidden_states.dtype), experts

    def _why_not(self, logits: Tensor) -> str | None:
        if self.act_fn != "softmax" or getattr(self, "apply_act_fn_over_topk", False):
            return "affinities are no softmax over all experts"
        return why_not_routed(self.num_experts, self.top_k) or dispatch.why_not(
            "router_softmax", logits
        )


class KernelExperts(ExpertMLPsV2):
    """NxDI's experts with kernels for SiLU and the weighted sum, where each is one launch.

    That is so in a decode step, which loads the 8 chosen experts alone, and in a short prefill,
    which computes all experts for all tokens. Longer prefills go through NxDI's blocks.
    """

    layer: int

    def forward_selective_loading(
        self,
        hidden_states: Tensor,
        expert_affinities: Tensor,
        expert_index: Tensor,
        **kwargs: Any,
    ) -> Tensor:
        """One token (1, H) by its K chosen experts -> (1, H), this rank's part of the sum."""
        tokens = len(hidden_states)
        reason = self._why_not(hidden_states, kwargs)
        if reason is None and tokens != 1:
            reason = f"{tokens} tokens with experts of their own: one launch for each"
        if reason is not None:
            self._record(neuron_hooks.phase_of(tokens), reason)
            return super().forward_selective_loading(
                hidden_states, expert_affinities, expert_index, **kwargs
            )
        outputs = self._apply_experts(hidden_states, expert_index[0])  # (K, 1, H)
        weights = self._weights(expert_affinities, expert_index)
        return nki_aggregate(outputs.transpose(0, 1), weights)

    def forward_all_experts(
        self,
        hidden_states: Tensor,
        expert_affinities: Tensor,
        expert_index: Tensor,
        **kwargs: Any,
    ) -> Tensor:
        """All tokens (T, H) by all E experts, summed over the K chosen -> (T, H)."""
        reason = self._why_not(hidden_states, kwargs)
        if reason is not None:
            self._record(neuron_hooks.phase_of(len(hidden_states)), reason)
            return super().forward_all_experts(
                hidden_states, expert_affinities, expert_index, **kwargs
            )
        outputs = self._apply_experts(hidden_states, None).transpose(0, 1)  # (T, E, H)
        tokens = torch.arange(len(outputs), device=outputs.device)[:, None]
        weights = self._weights(expert_affinities, expert_index)
        return nki_aggregate(outputs[tokens, expert_index], weights)

    def forward_blockwise(self, *args: Any, **kwargs: Any) -> Tensor:
        """NxDI's own: blocks of tokens of one expert each."""
        self._record("CTE", "NxDI's blocks of one expert each would launch once per block")
        return super().forward_blockwise(*args, **kwargs)

    def _apply_experts(self, hidden_states: Tensor, experts: Tensor | None) -> Tensor:
        """down(silu(gate(x)) * up(x)) of (T, H) -> (experts, T, H); all experts, or those given."""
        mlp = self.get_mlp_op()
        rows = hidden_states[None, None]  # (1, 1, T, H), as NxDI's expert layers take them
        gate, up = mlp.gate_up_proj(rows, expert_indices=experts).chunk(2, dim=-1)
        projected: Tensor = mlp.down_proj(nki_silu(gate) * up, expert_indices=experts)
        return projected.squeeze(1)

    def _weights(self, affinities: Tensor, chosen: Tensor) -> Tensor:
        """Affinities (T, E) of the chosen experts (T, K), summing to 1 where the model says so."""
        weights = affinities.gather(1, chosen)
        if self.routed_experts_mlp_config.normalize_top_k_affinities:
            weights = F.normalize(weights, p=1.0, dim=1)
        return weights

    def _why_not(self, hidden_states: Tensor, extras: dict[str, Any]) -> str | None:
        config = self.routed_experts_mlp_config
        if extras:
            return f"the caller passes {', '.join(extras)}"
        if config.hidden_act != "silu" or not config.glu_mlp or not _plain_glu(config):
            return "the experts are no plain SwiGLU"
        if config.early_expert_affinity_modulation:
            return "affinities are applied before the experts"
        if self.moe_expert_model_parallel_group.size() > 1 or self.sequence_parallel_enabled:
            return "experts or tokens are split over ranks"
        return why_not_routed(config.num_experts, config.top_k) or dispatch.why_not(
            "silu", hidden_states
        )

    def _record(self, phase: neuron_hooks.Phase, reason: str) -> None:
        for kernel in ("silu", "expert_aggregation"):
            neuron_hooks.record(kernel, phase, reason, self.layer)


def _plain_glu(config: Any) -> bool:
    """Whether nothing is scaled, shifted or clamped around the experts' activation."""
    neutral = {"hidden_act_scaling_factor": 1.0, "hidden_act_bias": 0.0, "bias": False}
    limits = [f"{part}_clamp_{end}_limit" for part in ("gate", "up") for end in ("upper", "lower")]
    kind = getattr(config, "glu_type", "glu")  # a string, or an enumeration with such values
    return (
        str(getattr(kind, "value", kind)).lower() == "glu"
        and all(getattr(config, name, value) == value for name, value in neutral.items())
        and all(getattr(config, name, None) is None for name in limits)
    )


class NeuronQwen3MoeDecoderLayer(stock.NeuronQwen3MoeDecoderLayer):
    """NxDI's layer, in which every norm but the first adds the residual before it.

    NxDI's model hands the fifth value that a layer returns to the next one as `residual`; the
    layer's output and its residual travel apart, and the last layer adds them.
    """

    layer: int
    is_last: bool
    fuses_residual: bool

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_value: Any = None,
        padding_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """(B, S, H) and the residual of the layer before -> output, K and V, cos, sin, residual."""
        padding = () if padding_mask is None else (padding_mask,)
        if not self.fuses_residual:
            return super().forward(
                hidden_states, attention_mask, position_ids, past_key_value, *padding, **kwargs
            )
        residual = kwargs.pop("residual", None)
        if residual is None and self.layer > 0:
            raise RuntimeError(NO_RESIDUAL.format(self.layer))
        if residual is None:
            (residual,) = mark_boundary(ModuleMarkerStartWrapper, hidden_states)
            normed = self.input_layernorm(residual)
        else:
            marked = mark_boundary(ModuleMarkerStartWrapper, hidden_states, residual)
            normed, residual = self.input_layernorm.add_and_norm(*marked)
        attended, present, cos, sin = self.self_attn(
            hidden_states=normed,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_value=past_key_value,
            rmsnorm=None,
            **kwargs,
        )
        normed, residual = self.post_attention_layernorm.add_and_norm(attended, residual)
        mixed = self.mlp(normed, *padding)[0]
        if self.is_last:
            (total,) = mark_boundary(ModuleMarkerEndWrapper, residual + mixed)
            return total, present, cos, sin, None
        mixed, residual = mark_boundary(ModuleMarkerEndWrapper, mixed, residual)
        return mixed, present, cos, sin, residual


def install_kernels(layer: Any, config: Any, index: int) -> None:
    """Put kernels into the hooks of NxDI's decoder layer number `index`, and record where not."""
    settings = config.neuron_config
    neuron_hooks.record_settings(neuron_hooks.ATTENTION_SETTINGS, settings, index)
    neuron_hooks.record_settings(neuron_hooks.FUSION_SETTINGS, settings, index)
    attention = adopt(layer.self_attn, NeuronQwen3MoEAttention)
    if attention is None:
        _record_unknown(layer.self_attn, neuron_hooks.NORMS_TO_SOFTMAX, index)
    else:
        attention.layer = index
        attention.q_layernorm = kernel_norm(attention.q_layernorm, config, index)
        attention.k_layernorm = kernel_norm(attention.k_layernorm, config, index)
    layer.input_layernorm = kernel_norm(layer.input_layernorm, config, index)
    if getattr(layer, "moe_fused_nki_kernel_enabled", False):
        for phase in neuron_hooks.PHASES:
            for kernel in ("add_rmsnorm", *neuron_hooks.MOE_KERNELS):
                neuron_hooks.record(kernel, phase, neuron_hooks.FUSED_MOE, index)
        fuses = False
    else:
        layer.post_attention_layernorm = kernel_norm(layer.post_attention_layernorm, config, index)
        _install_moe_kernels(layer.mlp, index)
        fuses = not neuron_hooks.settings_in_force(neuron_hooks.FUSION_SETTINGS, settings)
    _fuse_residual(layer, config, index, fuses)


def _fuse_residual(layer: Any, config: Any, index: int, wanted: bool) -> None:
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    adopted = adopt(layer, NeuronQwen3MoeDecoderLayer)
    if adopted is None:
        _record_unknown(layer, ("add_rmsnorm",), index)
        return
    adopted.layer = index
    adopted.is_last = index == config.num_hidden_layers - 1
    adopted.fuses_residual = wanted and all(isinstance(norm, NKIRMSNorm) for norm in norms)
    if not getattr(config.neuron_config, "nki_fuse_residual", True):
        adopted.fuses_residual = False
        for phase in neuron_hooks.PHASES:
            neuron_hooks.record("add_rmsnorm", phase, "nki_fuse_residual is off", index)


def _install_moe_kernels(moe: Any, index: int) -> None:
    router = adopt(moe.router, KernelRouter)
    if router is None:
        _record_unknown(moe.router, ("router_softmax", "top8"), index)
    else:
        router.layer = index
    experts = adopt(moe.expert_mlps, KernelExperts)
    if experts is None:
        _record_unknown(moe.expert_mlps, ("silu", "expert_aggregation"), index)
    else:
        experts.layer = index


def _record_unknown(module: nn.Module, kernels: tuple[str, ...], index: int) -> None:
    for phase in neuron_hooks.PHASES:
        for kernel in kernels:
            reason = f"this release builds a {type(module).__name__} there"
            neuron_hooks.record(kernel, phase, reason, index)


def kernel_norm(norm: Any, config: Any, index: int | None) -> Any:
    """A norm with kernels in the place of NxDI's module `norm` (weight [H]), or `norm` itself."""
    reason = neuron_hooks.why_not_rows("rmsnorm", norm.weight.dtype, 1, len(norm.weight))
    if reason is None:
        return NKIRMSNorm(len(norm.weight), config.rms_norm_eps).to(norm.weight.dtype)
    for phase in neuron_hooks.PHASES:
        neuron_hooks.record("rmsnorm", phase, reason, index)
    return norm


class NeuronQwen3MoeModel(stock.NeuronQwen3MoeModel):
    """NxDI's model of one rank: what is traced, for CTE and for TKG."""

    norm: Any

    def init_model(self, config: Any) -> None:
        """Build our layers, or NxDI's with kernels in their hooks."""
        if not config.nki_rows_because:
            self._init_layered(config)
            return
        for phase in neuron_hooks.PHASES:
            for reason in config.nki_rows_because:
                neuron_hooks.record(neuron_plan.PATH, phase, reason)
        self._init_rows(config)

    def _init_layered(self, config: Any) -> None:
        empty = copy.copy(config)
        empty.num_hidden_layers = 0  # NxDI builds the embedding alone, in its own way
        super().init_model(empty)
        launch = NeuronLaunching.of(config.neuron_config)
        self.layers = nn.ModuleList(
            PackedDecoderLayer(config, index, launch) for index in range(config.num_hidden_layers)
        )
        self.norm = nn.Identity()
        self.lm_head = PackedHead(config, launch)

    def _init_rows(self, config: Any) -> None:
        super().init_model(config)
        if config.nki_stock_because is not None:
            for phase in neuron_hooks.PHASES:
                neuron_hooks.record(NEURON_PATHS[-1], phase, config.nki_stock_because)
            return
        for index, layer in enumerate(self.layers):
            install_kernels(layer, config, index)
        self.norm = kernel_norm(self.norm, config, None)
        for phase in neuron_hooks.PHASES:
            reason = "NxDI calls the final norm with the sum, which the last layer makes"
            neuron_hooks.record("add_rmsnorm", phase, reason)
            if not cpu_mode() and (reason := _why_not_grid(config)):
                neuron_hooks.record(neuron_hooks.LAUNCH_GRID, phase, reason)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """torch's, but a parameter without a value is an error even where NxDI is not strict."""
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        missing = set(result.missing_keys)
        parameters = self.state_dict(keep_vars=True)
        filled = {id(value) for name, value in parameters.items() if name not in missing}
        # A parameter with two names (NxDI's fused experts hold the norm, too) needs only one.
        empty = [name for name in missing if id(parameters[name]) not in filled]
        neuron_state.check_only_cache_missing(empty)
        return result


def _why_not_grid(config: Any) -> str:
    return neuron_hooks.why_not_grid(int(config.neuron_config.logical_nc_config)) or ""


class NeuronQwen3MoeForCausalLM(stock.NeuronQwen3MoeForCausalLM):
    """What the challenge's driver asks for: configuration, compile, load and generate."""

    _model_cls = NeuronQwen3MoeModel

    @classmethod
    def get_config_cls(cls) -> type[Qwen3MoeInferenceConfig]:
        """The model's configuration; `get_neuron_config_cls()` follows from it."""
        return Qwen3MoeInferenceConfig

    @staticmethod
    def convert_hf_to_neuron_state_dict(state_dict: dict[str, Tensor], config: Any) -> Any:
        """See `convert` of `model.neuron_packing`, or of `model.neuron_state` for "rows"."""
        if config.nki_rows_because:
            return neuron_state.convert(state_dict, config)
        return neuron_packing.convert(state_dict, config)

    def to_cpu(self) -> None:
        """NxDI's CPU path; ValueError if the configuration was made for a device."""
        if self.neuron_config.async_mode:
            raise ValueError(
                "async_mode: on, which NxD Inference's CPU path cannot do; make the configuration "
                "with on_cpu=True, or with NXD_CPU_MODE=1 in the environment"
            )
        super().to_cpu()

    @staticmethod
    def why_not() -> list[neuron_hooks.WhyNot]:
        """The hooks that kept NxDI's implementation so far: kernel, phase, reason, layers."""
        return neuron_hooks.why_not()
