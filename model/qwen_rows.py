"""Qwen3-MoE on the CPU with the small kernels: `model.row_layers` around torch's matrix products.

Batch 1, a prefill and then one token at a time. Modules and parameters carry the names of the
checkpoint, roundings to the model's dtype fall where transformers' Qwen3MoeForCausalLM has them,
except that expert outputs are summed in float32. Norms are fused with the residual addition before
them, so a layer hands on its output and the residual apart, and the next norm adds them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import Qwen3MoeConfig

from model import dispatch
from model.generation import Generation, generate_greedily, states_of_layers
from model.layers import Tables, rotary_tables
from model.packing import Weights
from model.plan import Fallback
from model.row_layers import (
    NKIAddRMSNorm,
    NKIRMSNorm,
    NKIRouter,
    nki_aggregate,
    nki_rope,
    nki_silu,
    nki_softmax,
)


class KVCache:
    """Keys and values of every layer, [layers, kv heads, capacity, D], and how many are filled."""

    def __init__(self, config: Qwen3MoeConfig, capacity: int, dtype: torch.dtype) -> None:
        shape = (
            config.num_hidden_layers,
            config.num_key_value_heads,
            capacity,
            config.head_dim,
        )
        self.keys = torch.zeros(shape, dtype=dtype)
        self.values = torch.zeros(shape, dtype=dtype)
        self.length = 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put (kv heads, S, D) behind what is filled; returns all keys, values (kv heads, C, D)."""
        end = self.length + key.shape[1]
        self.keys[layer, :, self.length : end] = key
        self.values[layer, :, self.length : end] = value
        return self.keys[layer, :, :end], self.values[layer, :, :end]


class Attention(nn.Module):
    """Grouped-query attention with normed heads; kernels for the norms, RoPE and the softmax."""

    def __init__(self, config: Qwen3MoeConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.q_proj = _linear(config.hidden_size, self.heads * self.head_dim)
        self.k_proj = _linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.v_proj = _linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.o_proj = _linear(self.heads * self.head_dim, config.hidden_size)
        self.q_norm = NKIRMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = NKIRMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, tables: Tables, cache: KVCache) -> Tensor:
        """(1, S, H) -> (1, S, H); appends S keys and values to the layer's cache."""
        tokens = x.shape[1]
        query = self.q_norm(self.q_proj(x).view(1, tokens, self.heads, self.head_dim))
        key = self.k_norm(self.k_proj(x).view(1, tokens, self.kv_heads, self.head_dim))
        value = self.v_proj(x).view(tokens, self.kv_heads, self.head_dim).transpose(0, 1)
        query, key = nki_rope(query.transpose(1, 2), key.transpose(1, 2), *tables)
        keys, values = cache.append(self.layer, key[0], value)
        attended = self._attend(query, keys, values)
        return self.o_proj(attended.transpose(1, 2).reshape(1, tokens, -1))

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries (1, heads, S, D) over keys and values (kv heads, C, D), the last S their own."""
        tokens, seen = query.shape[2], keys.shape[1]
        grouped = query.reshape(self.kv_heads, -1, self.head_dim)  # heads that share a key head
        scores = torch.matmul(grouped, keys.transpose(1, 2)) * self.head_dim**-0.5
        scores = scores.view(1, self.heads, tokens, seen)
        if tokens > 1:
            ahead = torch.ones(tokens, seen, dtype=torch.bool).triu(seen - tokens + 1)
            scores = scores.masked_fill(ahead, torch.finfo(scores.dtype).min)
        shares = nki_softmax(scores).view(self.kv_heads, -1, seen)
        return torch.matmul(shares, values).view(query.shape)


class Expert(nn.Module):
    """The weights of one SwiGLU expert; `SparseMoE` applies them."""

    def __init__(self, config: Qwen3MoeConfig) -> None:
        super().__init__()
        self.gate_proj = _linear(config.hidden_size, config.moe_intermediate_size)
        self.up_proj = _linear(config.hidden_size, config.moe_intermediate_size)
        self.down_proj = _linear(config.moe_intermediate_size, config.hidden_size)


class SparseMoE(nn.Module):
    """Mixture of experts; kernels for the router, the activation and the weighted sum.

    A row is a token at one of its chosen experts. Rows are sorted by expert, so that each expert
    that was chosen at all multiplies its rows at once: 8 experts in a decode step, whatever is
    needed in a prefill.
    """

    def __init__(self, config: Qwen3MoeConfig) -> None:
        super().__init__()
        self.gate = NKIRouter(
            config.hidden_size,
            config.num_experts,
            config.num_experts_per_tok,
            config.norm_topk_prob,
        )
        self.experts = nn.ModuleList(Expert(config) for _ in range(config.num_experts))

    def forward(self, x: Tensor) -> Tensor:
        """(1, S, H) -> (1, S, H)."""
        _, weights, chosen = self.gate(x[0])
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        rows = x[0][order // chosen.shape[1]]
        activated = nki_silu(self._per_expert("gate_proj", rows, counts))
        activated = activated * self._per_expert("up_proj", rows, counts)
        outputs = torch.empty_like(rows)
        outputs[order] = self._per_expert("down_proj", activated, counts)
        return nki_aggregate(outputs.view(*chosen.shape, -1), weights)[None]

    def _per_expert(self, projection: str, rows: Tensor, counts: list[int]) -> Tensor:
        """Multiply rows, sorted by expert, by the projection of their experts."""
        parts = zip(self.experts, rows.split(counts), strict=True)
        return torch.cat([getattr(expert, projection)(part) for expert, part in parts if len(part)])


class DecoderLayer(nn.Module):
    """Attention and experts, each behind a norm; the first layer's has no residual to add."""

    def __init__(self, config: Qwen3MoeConfig, layer: int) -> None:
        super().__init__()
        norm = NKIAddRMSNorm if layer else NKIRMSNorm
        self.input_layernorm = norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = NKIAddRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SparseMoE(config)

    def forward(
        self, normed: Tensor, residual: Tensor, tables: Tables, cache: KVCache
    ) -> tuple[Tensor, Tensor]:
        """Normed input and residual (1, S, H) -> output and residual, for the next norm to add."""
        attended = self.self_attn(normed, tables, cache)
        normed, residual = self.post_attention_layernorm(attended, residual)
        return self.mlp(normed), residual


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: Qwen3MoeConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = NKIAddRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, tokens: Tensor, tables: Tables, cache: KVCache) -> Tensor:
        """Token ids (1, S) -> normed hidden states (1, S, H)."""
        input_norms = [layer.get_submodule("input_layernorm") for layer in self.layers]
        residual: Tensor = self.embed_tokens(tokens)
        normed: Tensor = input_norms[0](residual)
        for layer, next_norm in zip(self.layers, [*input_norms[1:], self.norm], strict=True):
            output, residual = layer(normed, residual, tables, cache)
            normed, residual = next_norm(output, residual)
        cache.length += tokens.shape[1]
        return normed


class Qwen3MoeRows(nn.Module):
    """The whole model: `prefill` reads a prompt, `decode` one more token, `generate` does both.

    Parameters stay on the meta device until `load_state_dict(..., assign=True)` brings them.
    """

    def __init__(
        self, config: Qwen3MoeConfig, dtype: torch.dtype, fallbacks: Sequence[Fallback] = ()
    ) -> None:
        super().__init__()
        self.config = config
        self.fallbacks = fallbacks
        self.dtype = dtype
        with torch.device("meta"):
            self.model = Decoder(config)
            self.lm_head = _linear(config.hidden_size, config.vocab_size)
        self._cache = KVCache(config, 0, dtype)

    def generate(
        self, input_ids: Tensor, new_tokens: int, forced_tokens: Tensor | None = None
    ) -> Generation:
        """See `model.generation.generate_greedily`."""
        return generate_greedily(self, input_ids, new_tokens, forced_tokens)

    def prefill(self, input_ids: Tensor, capacity: int) -> Tensor:
        """Logits [V] after the prompt [S], in a new cache for `capacity` tokens in all."""
        for fallback in self.fallbacks:
            dispatch.record_fallback(*fallback)
        self._cache = KVCache(self.config, capacity, self.dtype)
        return self(input_ids)

    def decode(self, token: int) -> Tensor:
        """Logits [V] after one more token."""
        return self(torch.tensor([token]))

    @torch.inference_mode()
    def hidden_states(self, input_ids: Tensor, token: int) -> Tensor:
        """float32 [2, L, H] after each layer: the prompt's last token, and `token` behind it."""

        def state(outputs: tuple[Tensor, Tensor]) -> Tensor:
            return outputs[0] + outputs[1].float()

        return states_of_layers(self, self.model.layers, state, input_ids, token)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Read tokens [S] behind those in the cache; logits [V] of the last one."""
        start = self._cache.length
        config, end = self.config, start + len(input_ids)
        positions = torch.arange(start, end)
        cos, sin = rotary_tables(config.head_dim, config.rope_theta, positions, self.dtype)
        tables = (cos[None], sin[None])
        hidden = self.model(input_ids[None], tables, self._cache)
        logits: Tensor = self.lm_head(hidden[0, -1])
        return logits


def build(
    weights: Weights,
    config: Qwen3MoeConfig,
    dtype: torch.dtype,
    fallbacks: Sequence[Fallback] = (),
) -> Qwen3MoeRows:
    """The model with a checkpoint's tensors by name; `fallbacks` say why no larger kernel runs.

    RuntimeError, from torch, when names or shapes differ from the model's.
    """
    model = Qwen3MoeRows(config, dtype, fallbacks)
    model.load_state_dict(dict(weights), strict=True, assign=True)
    return model.eval()


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)
