"""The double of NxD Inference's attention at one rank, without its vendor kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from neuronx_distributed import release
from torch import Tensor, nn
from torch.nn import functional as F

from neuronx_distributed_inference.modules.attention.utils import apply_rotary_pos_emb, repeat_kv


class FlashAttentionStrategy(Enum):
    NONE = 0
    UNSHARDED_KERNEL = 1
    SHARDED_KERNEL = 2


@dataclass(frozen=True)
class NeuronAttentionBaseOutput:
    """Unpacks to its first four fields, as in the SDK."""

    hidden_states: Tensor
    present_key_value: tuple[Tensor, Tensor]
    cos_cache: Tensor
    sin_cache: Tensor
    residual: Tensor | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.hidden_states, self.present_key_value, self.cos_cache, self.sin_cache))


class GroupQueryAttentionQKV(nn.Module):
    """(B, S, H) -> query, key, value and the residual that it was given."""

    def __init__(self, hidden: int, sizes: tuple[int, int, int], fused: bool, dtype: Any) -> None:
        super().__init__()
        self.sizes = sizes
        if fused:
            self.Wqkv = nn.Linear(hidden, sum(sizes), bias=False, dtype=dtype)
        else:
            for name, size in zip("qkv", sizes, strict=True):
                self.add_module(f"{name}_proj", nn.Linear(hidden, size, bias=False, dtype=dtype))

    def forward(
        self,
        hidden_states: Tensor,
        rmsnorm: Any = None,
        adapter_ids: Any = None,
        residual: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        if residual is not None:
            raise NotImplementedError("only the QKV kernel adds a residual")
        if hasattr(self, "Wqkv"):
            return (*self.Wqkv(hidden_states).split(self.sizes, dim=-1), residual)
        return (*(self.get_submodule(f"{n}_proj")(hidden_states) for n in "qkv"), residual)


class GroupQueryAttentionO(nn.Module):
    def __init__(self, inputs: int, hidden: int, dtype: Any) -> None:
        super().__init__()
        self.o_proj = nn.Linear(inputs, hidden, bias=False, dtype=dtype)

    def forward(self, attention_output: Tensor, adapter_ids: Any = None) -> Tensor:
        return self.o_proj(attention_output)


class NeuronAttentionBase(nn.Module):
    def __init__(
        self,
        config: Any,
        *,
        hidden_size: int,
        num_attention_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        rotary_emb: nn.Module,
        rms_norm_eps: float,
        use_qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.neuron_config = config, config.neuron_config
        self.num_heads, self.num_key_value_heads = num_attention_heads, num_key_value_heads
        self.num_key_value_groups = num_attention_heads // num_key_value_heads
        self.head_dim, self.rms_norm_eps = head_dim, rms_norm_eps
        self.rotary_emb, self.learned_sinks_size = rotary_emb, None
        self.logical_nc_config = self.neuron_config.logical_nc_config
        self.attn_kernel_enabled = self.neuron_config.attn_kernel_enabled
        self.k_cache_transposed = self.neuron_config.k_cache_transposed
        self.q_layernorm: nn.Module | None = None
        self.k_layernorm: nn.Module | None = None
        if release.since("2.29"):
            self.softmax_scale = math.sqrt(head_dim)
        dtype = self.neuron_config.torch_dtype
        key = num_key_value_heads * head_dim
        sizes = (num_attention_heads * head_dim, key, key)
        self.qkv_proj = GroupQueryAttentionQKV(
            hidden_size, sizes, self.neuron_config.fused_qkv, dtype
        )
        self.o_proj = GroupQueryAttentionO(sizes[0], hidden_size, dtype)

    def get_flash_attention_strategy(
        self, q_len: int, has_attention_mask: bool
    ) -> FlashAttentionStrategy:
        if self.attn_kernel_enabled is not False and self.logical_nc_config > 1:
            return (
                FlashAttentionStrategy.NONE
                if q_len % 256
                else (FlashAttentionStrategy.SHARDED_KERNEL)
            )
        return FlashAttentionStrategy.NONE

    def scaled_qk(self, Q: Tensor, K: Tensor, attention_mask: Tensor | None) -> Tensor:
        scores = torch.matmul(Q, K.transpose(2, 3)) / math.sqrt(self.head_dim)
        if attention_mask is not None:
            scores = torch.where(attention_mask, scores, torch.finfo(scores.dtype).min)
        return scores

    def apply_rotary_embedding(
        self,
        Q: Tensor,
        K: Tensor,
        V: Tensor,
        position_ids: Tensor,
        cos_cache: Tensor | None,
        sin_cache: Tensor | None,
        use_polar_compatible_rope: bool,
    ) -> tuple[Tensor, ...]:
        assert not use_polar_compatible_rope
        if cos_cache is None or sin_cache is None:
            cos_cache, sin_cache = self.rotary_emb(V, position_ids)
        return (*apply_rotary_pos_emb(Q, K, cos_cache, sin_cache), cos_cache, sin_cache)

    def perform_prefill(
        self, Q: Tensor, K: Tensor, V: Tensor, q_len: int, bsz: int, attention_mask: Tensor
    ) -> tuple[Tensor, FlashAttentionStrategy]:
        strategy = self.get_flash_attention_strategy(q_len, attention_mask is not None)
        scores = self.scaled_qk(Q, repeat_kv(K, self.num_key_value_groups), attention_mask)
        shares = F.softmax(scores, dim=-1, dtype=torch.float32).to(Q.dtype)
        output = torch.matmul(shares, repeat_kv(V, self.num_key_value_groups))
        if strategy is not FlashAttentionStrategy.NONE:
            output = output.transpose(2, 3)  # the flash kernel's layout
        return output, strategy

    def compute_for_token_gen(
        self,
        Q: Tensor,
        K: Tensor,
        V: Tensor,
        position_ids: Tensor,
        past_key_value: tuple[Tensor, Tensor],
        attention_mask: Tensor,
        active_mask: Tensor | None,
        is_prefix_caching: bool = False,
    ) -> Tensor:
        cached = past_key_value[0]
        cached = cached.transpose(2, 3) if self.k_cache_transposed else cached
        keys = torch.cat((cached, K), dim=2)
        values = torch.cat((past_key_value[1], V), dim=2)
        mask = F.pad(attention_mask, (0, K.shape[2]), value=True)
        scores = self.scaled_qk(Q, repeat_kv(keys, self.num_key_value_groups), mask)
        shares = scores.float().softmax(dim=-1).to(Q.dtype)
        return torch.matmul(shares, repeat_kv(values, self.num_key_value_groups))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_value: tuple[Tensor, Tensor] | None = None,
        active_mask: Tensor | None = None,
        adapter_ids: Any = None,
        cos_cache: Tensor | None = None,
        sin_cache: Tensor | None = None,
        rmsnorm: nn.Module | None = None,
        rotary_position_ids: Tensor | None = None,
        kv_mgr: Any = None,
        get_kv_per_layer: bool = False,
        update_kv_per_layer: bool = False,
        residual: Tensor | None = None,
        windowed_context_encoding_window_idx: int = -1,
        **kwargs: Any,
    ) -> NeuronAttentionBaseOutput:
        if unknown := set(kwargs) - {"seq_ids", "idx", "is_for_context_encoding", "seq_len"}:
            raise TypeError(f"forward() got an unexpected keyword argument {sorted(unknown)}")
        batch, tokens, _ = hidden_states.shape
        query, key, value, residual = self.qkv_proj(
            hidden_states=hidden_states, rmsnorm=rmsnorm, adapter_ids=adapter_ids, residual=residual
        )
        heads = (batch, tokens, -1, self.head_dim)
        query = self.q_layernorm(query.view(heads)).transpose(1, 2)
        key = self.k_layernorm(key.view(heads)).transpose(1, 2)
        value = value.view(heads).transpose(1, 2)
        positions = rotary_position_ids if rotary_position_ids is not None else position_ids
        query, key, cos_cache, sin_cache = self.apply_rotary_embedding(
            query, key, value, positions, cos_cache, sin_cache, False
        )
        if past_key_value is None:
            output, strategy = self.perform_prefill(
                query, key, value, tokens, batch, attention_mask
            )
            if strategy is not FlashAttentionStrategy.NONE:
                output = output.transpose(2, 3)
        else:
            output = self.compute_for_token_gen(
                query, key, value, position_ids, past_key_value, attention_mask, active_mask
            )
        output = self.o_proj(
            output.transpose(1, 2).reshape(batch, tokens, -1), adapter_ids=adapter_ids
        )
        if self.k_cache_transposed:
            key = key.transpose(2, 3)
        return NeuronAttentionBaseOutput(output, (key, value), cos_cache, sin_cache, residual)
