"""Qwen3-MoE on the CPU with the kernels: one rank of it, or the whole model where there is one.

Batch 1, a prefill and then one token at a time. The prompt is padded on the right to a bucket, as
on a device; the keys and values of padding lie behind the prompt in the cache, where no token sees
them before its own overwrite them. `model.plan` says by which kernels each phase runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3MoeConfig

from model import dispatch, plan, qwen_rows
from model.generation import Generation, generate_greedily, torch_dtype
from model.layers import (
    AttentionBlock,
    ExpertsBlock,
    Head,
    Launching,
    Tables,
    decoder_stack,
    rotary_tables,
)
from model.packing import Checkpoint, Packed, Shard, pack

State = tuple[Tensor, Tensor]
"""A layer's output and its residual [tokens, H], which the next kernel adds."""


class KVCache:
    """Keys [L, kv heads, D, C] and values [L, kv heads, C, D] of a rank; `length` are filled."""

    def __init__(self, layers: int, block: AttentionBlock, capacity: int) -> None:
        head_dim, dtype = len(block.q_norm), block.w_qkv.dtype
        self.keys = torch.zeros(layers, block.kv_heads, head_dim, capacity, dtype=dtype)
        self.values = torch.zeros(layers, block.kv_heads, capacity, head_dim, dtype=dtype)
        self.length = 0


class Qwen3MoeCPU:
    """A rank of the model: `prefill` reads a prompt, `decode` one more token, `generate` does both.

    Logits are those of the rank's part of the vocabulary, in the dtype of the weights.
    """

    def __init__(
        self,
        config: Qwen3MoeConfig,
        weights: Packed,
        chosen: plan.Plan,
        launching: Launching | None = None,
    ) -> None:
        self.config, self.weights, self.plan = config, weights, chosen
        self.launching = launching or Launching()
        eps = config.rms_norm_eps
        self.layers = [
            (AttentionBlock(layer, eps, self.launching), ExpertsBlock(layer, eps, self.launching))
            for layer in map(weights.layer, range(config.num_hidden_layers))
        ]
        head = {"final_norm": weights.final_norm, "w_head": weights.w_head}
        self.head = Head(head, eps, self.launching)
        self.cache = self._new_cache(0)

    def generate(
        self, input_ids: Tensor, new_tokens: int, forced_tokens: Tensor | None = None
    ) -> Generation:
        """See `model.generation.generate_greedily`."""
        return generate_greedily(self, input_ids, new_tokens, forced_tokens)

    def prefill(self, input_ids: Tensor, capacity: int) -> Tensor:
        """Logits [V] after the prompt [S], in a new cache for `capacity` tokens in all."""
        for fallback in self.plan.fallbacks:
            dispatch.record_fallback(*fallback)
        length, padded = len(input_ids), self._padded(input_ids)
        self.cache = self._new_cache(plan.bucket_of(max(capacity, length)))
        *_, (x, residual) = self._prefill_layers(padded, length)
        self.cache.length = length
        return self._logits((x[length - 1 : length], residual[length - 1 : length]))

    def decode(self, token: int) -> Tensor:
        """Logits [V] after one more token."""
        if self.plan.decode == "fused":
            state = self._decode_stack(token, len(self.layers))
        else:
            *_, state = self._decode_layers(token)
        self.cache.length += 1
        return self._logits(state)

    def _new_cache(self, capacity: int) -> KVCache:
        return KVCache(len(self.layers), self.layers[0][0], capacity)

    @torch.inference_mode()
    def hidden_states(self, input_ids: Tensor, token: int) -> Tensor:
        """float32 [2, L, H] after each layer: of the prompt's last token and of the next, `token`.

        The stack of layers keeps them on chip, so that it is run on ever more layers; what that
        writes into the cache is the same every time.
        """
        self.prefill(input_ids, len(input_ids) + 1)
        padded, length = self._padded(input_ids), len(input_ids)
        states = [
            *(
                (x[length - 1], total[length - 1])
                for x, total in self._prefill_layers(padded, length)
            ),
            *((x[0], total[0]) for x, total in self._decode_states(token)),
        ]
        sums = [x.float() + residual.float() for x, residual in states]
        return torch.stack(sums).reshape(2, len(self.layers), -1)

    def _padded(self, input_ids: Tensor) -> Tensor:
        return F.pad(input_ids, (0, plan.bucket_of(len(input_ids)) - len(input_ids)))

    def _prefill_layers(self, input_ids: Tensor, length: int) -> Iterator[State]:
        """Output and residual [S, H] of each layer; fills the cache."""
        tables = self._tables(0, len(input_ids))
        real = torch.tensor([[length]], dtype=torch.int32)
        x: Tensor = self._embed(input_ids)
        residual: Tensor | None = None
        for layer, (attention, experts) in enumerate(self.layers):
            attended = attention.prefill(x, residual, tables)
            self.cache.keys[layer, :, :, : len(x)] = attended.keys
            self.cache.values[layer, :, : len(x)] = attended.values
            x, residual = experts.prefill(attended.output, attended.total, real)
            yield x, residual

    def _decode_layers(self, token: int) -> Iterator[State]:
        """Output and residual [1, H] of each layer; writes one position of the cache."""
        position = self.cache.length
        tables = self._tables(position, position + 1)
        where = torch.tensor([[position]], dtype=torch.int32)
        x: Tensor = self._embed(torch.tensor([token]))
        residual: Tensor | None = None
        for layer, (attention, experts) in enumerate(self.layers):
            cache = self.cache.keys[layer], self.cache.values[layer]
            attended = attention.decode(x, residual, tables, cache, where)
            x, residual = experts.decode(attended.output, attended.total)
            yield x, residual

    def _decode_stack(self, token: int, layers: int) -> State:
        """Hidden states [1, H] behind the first `layers` layers, in one launch, and zeros."""
        position = self.cache.length
        x = self._embed(torch.tensor([token]))
        hidden = decoder_stack(
            self.launching,
            self.weights,
            layers,
            x,
            (self.cache.keys, self.cache.values),
            torch.tensor([[position]], dtype=torch.int32),
            self._tables(position, position + 1),
            self.config.rms_norm_eps,
        )
        return hidden, torch.zeros_like(hidden)

    def _decode_states(self, token: int) -> Iterator[State]:
        if self.plan.decode == "fused":
            return (self._decode_stack(token, n + 1) for n in range(len(self.layers)))
        return self._decode_layers(token)

    def _embed(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weights.embedding)

    def _tables(self, start: int, stop: int) -> Tables:
        config, dtype = self.config, self.weights.embedding.dtype
        positions = torch.arange(start, stop)
        return rotary_tables(config.head_dim, config.rope_theta, positions, dtype)

    def _logits(self, state: State) -> Tensor:
        logits: Tensor = self.head(*state)[0]
        return logits[0]


def load(model_path: Path, dtype: str, path: str = "fused") -> Qwen3MoeCPU | qwen_rows.Qwen3MoeRows:
    """Load a Hugging Face checkpoint directory for a kernel path (see `model.plan`).

    `dtype` is "float32" or "bfloat16". UnsupportedModel for an architecture that is not this one;
    FileNotFoundError without weights; WrongCheckpoint when tensors are missing or unknown.
    """
    config = read_config(model_path)
    chosen = plan.choose(path, config, dtype)
    weights = Checkpoint(model_path, torch_dtype(dtype))
    if chosen.decode == "rows":
        return qwen_rows.build(weights, config, torch_dtype(dtype), chosen.fallbacks)
    return Qwen3MoeCPU(config, pack(weights, config), chosen)


def load_rank(
    model_path: Path, dtype: str, path: str, shard: Shard, launching: Launching
) -> Qwen3MoeCPU:
    """Load one tensor-parallel rank's part, which sums with the others in `launching.group`.

    Its `prefill` and `decode` must be called on all ranks at once (`nki_sim.ranks.run`); the ranks'
    logits, one behind the other, are those of the vocabulary. ValueError for a model that cannot be
    split so, or that only small kernels can carry out, which know no ranks.
    """
    config = read_config(model_path)
    chosen = plan.choose(path, config, dtype, shard.ranks)
    if chosen.decode == "rows":
        why = "; ".join(f"{kernel}: {reason}" for kernel, reason in chosen.fallbacks)
        raise ValueError(f'the kernel path "rows" runs on one rank{why and f" ({why})"}')
    weights = Checkpoint(model_path, torch_dtype(dtype))
    return Qwen3MoeCPU(config, pack(weights, config, shard), chosen, launching)


def read_config(model_path: Path) -> Qwen3MoeConfig:
    """The checkpoint's configuration; UnsupportedModel for one that is not implemented."""
    config: Qwen3MoeConfig = Qwen3MoeConfig.from_pretrained(model_path, local_files_only=True)
    plan.check_supported(config)
    return config
