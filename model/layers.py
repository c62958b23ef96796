"""Torch modules that call the decoder kernels: attention, experts, LM head of one rank.

They hold packed weights (`model.packing`) and take and give what the kernels do: T tokens of one
sequence in decode, S (a bucket, padded on the right) in prefill, hidden states [tokens, H]. A block
returns its output, summed over the ranks, and the residual apart: the next kernel adds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kernels.layouts import unpack_vector
from model import dispatch
from model.packing import LAYER, Packed
from model.plan import Phase

Tables = tuple[Tensor, Tensor]


class Attended(NamedTuple):
    """What attention gives: its output and x + residual [tokens, H], and what goes into the cache.

    The new tokens' keys [kv heads, D, tokens] and values [kv heads, tokens, D].
    """

    output: Tensor
    total: Tensor
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Launching:
    """How a rank launches its kernels.

    `cores`: physical cores of the rank, None for a launch without a grid. `group`: the ranks among
    which a block's output is summed (`nki.collectives.ReplicaGroup`), None for a single rank.
    `rounding`: see `kernels.decoder_reference`.
    """

    cores: int | None = None
    group: Any = None
    rounding: str = "fused"

    def __call__(self, kernel: str, *tensors: Tensor | None, **scalars: Any) -> Any:
        """Launch a kernel by its name in `kernels.specs`."""
        return dispatch.launch(kernel, *tensors, cores=self.cores, **scalars)

    def sum_over_ranks(self, output: Tensor) -> Tensor:
        """The sum [tokens, H] of what all ranks of the group have; alone, what it is."""
        if self.group is None:
            return output
        total: Tensor = self("all_reduce", output, group=self.group)
        return total


class _Block(nn.Module):
    """What the blocks share: packed weights as parameters, and how to launch."""

    def __init__(
        self, weights: Mapping[str, Tensor], names: tuple[str, ...], eps: float, launch: Launching
    ) -> None:
        super().__init__()
        for name in names:
            self.register_parameter(name, nn.Parameter(weights[name], requires_grad=False))
        self.eps = eps
        self.launch = launch

    def norm_weight(self, name: str, phase: Phase) -> Tensor:
        """A norm's weight, in columns [P, J] for decode and as a vector [H] for prefill."""
        packed = getattr(self, name)
        return packed if phase == "decode" else unpack_vector(packed)


class AttentionBlock(_Block):
    """RMSNorm, projections, norms of the heads, RoPE, attention and output projection."""

    NAMES = ("input_norm", "w_qkv", "q_norm", "k_norm", "w_o")
    input_norm: Tensor
    w_qkv: Tensor
    q_norm: Tensor
    k_norm: Tensor
    w_o: Tensor

    def __init__(self, weights: Mapping[str, Tensor], eps: float, launch: Launching) -> None:
        super().__init__(weights, self.NAMES, eps, launch)
        head_dim, heads, _ = weights["w_o"].shape
        self.kv_heads = (weights["w_qkv"].shape[-1] // head_dim - heads) // 2

    def prefill(self, x: Tensor, residual: Tensor | None, tables: Tables) -> Attended:
        """x, residual [S, H] of a prompt from position 0 on; `tables` two [S, D]."""
        query, key, value, total = self.project("prefill", x, residual, tables)
        attended = self.launch(
            "attention_prefill", query, key, value, rounding=self.launch.rounding
        )
        output = self.launch("output_projection_prefill", attended, self.w_o)
        return Attended(self.launch.sum_over_ranks(output), total, key, value)

    def decode(
        self,
        x: Tensor,
        residual: Tensor | None,
        tables: Tables,
        cache: tuple[Tensor, Tensor],
        position: Tensor,
        update_cache: bool = True,
    ) -> Attended:
        """x, residual [T, H] at `position` [1, 1] int32; `tables` two [T, D].

        `cache`: keys [kv heads, D, C] and values [kv heads, C, D] of the tokens before, to which
        the new ones are added unless that is left to the caller.
        """
        query, key, value, total = self.project("decode", x, residual, tables)
        attended = self.launch(
            "attention_decode",
            *(query, key, value, *cache, position),
            rounding=self.launch.rounding,
            update_cache=update_cache,
        )
        output = self.launch(
            "output_projection_decode", attended[0] if update_cache else attended, self.w_o
        )
        new = (part.transpose(0, 1) for part in (key, value))
        return Attended(self.launch.sum_over_ranks(output), total, *new)

    def project(
        self, phase: Phase, x: Tensor, residual: Tensor | None, tables: Tables
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values as attention takes them, and x + residual."""
        query, key, value, *total = self.launch(
            f"qkv_{phase}",
            *(x, residual, self.norm_weight("input_norm", phase), self.w_qkv),
            *(self.q_norm, self.k_norm, *tables),
            eps=self.eps,
            kv_heads=self.kv_heads,
            rounding=self.launch.rounding,
        )
        return query, key, value, total[0] if total else x


class ExpertsBlock(_Block):
    """RMSNorm, router, and the weighted sum of the chosen experts."""

    NAMES = ("post_norm", "w_router", "w_gate_up", "w_down")
    post_norm: Tensor
    w_router: Tensor
    w_gate_up: Tensor
    w_down: Tensor

    def __init__(self, weights: Mapping[str, Tensor], eps: float, launch: Launching) -> None:
        super().__init__(weights, self.NAMES, eps, launch)

    def prefill(self, x: Tensor, residual: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """x, residual [S, H] -> output, total [S, H]; `length` [1, 1] int32 of them are real."""
        normed, total, weights, experts = self.route("prefill", x, residual)
        output = self.launch(
            "experts_prefill",
            *(normed, weights, experts, length, self.w_gate_up, self.w_down),
            rounding=self.launch.rounding,
        )
        return self.launch.sum_over_ranks(output), total

    def decode(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """x, residual [T, H] -> output, total [T, H]."""
        normed, total, weights, experts = self.route("decode", x, residual)
        output = self.launch(
            "experts_decode",
            *(normed, weights, experts, self.w_gate_up, self.w_down),
            rounding=self.launch.rounding,
        )
        return self.launch.sum_over_ranks(output), total

    def route(
        self, phase: Phase, x: Tensor, residual: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normed tokens, x + residual, and each token's 8 experts with their shares."""
        routed: tuple[Tensor, Tensor, Tensor, Tensor] = self.launch(
            f"router_{phase}",
            *(x, residual, self.norm_weight("post_norm", phase), self.w_router),
            eps=self.eps,
            rounding=self.launch.rounding,
        )
        return routed


class Head(_Block):
    """Final RMSNorm and this rank's part of the LM head."""

    NAMES = ("final_norm", "w_head")
    final_norm: Tensor
    w_head: Tensor

    def __init__(self, weights: Mapping[str, Tensor], eps: float, launch: Launching) -> None:
        super().__init__(weights, self.NAMES, eps, launch)

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, residual [T, H] -> logits [T, V], the largest [T, 1] float32, its index [T, 1]."""
        results: tuple[Tensor, Tensor, Tensor] = self.launch(
            "lm_head",
            *(x, residual, self.final_norm, self.w_head),
            eps=self.eps,
            rounding=self.launch.rounding,
        )
        return results


def decoder_stack(
    launch: Launching,
    weights: Packed,
    layers: int,
    x: Tensor,
    caches: tuple[Tensor, Tensor],
    position: Tensor,
    tables: Tables,
    eps: float,
) -> Tensor:
    """The first `layers` layers of T tokens in one launch: x [T, H] -> hidden states [T, H].

    `caches` [L, kv heads, D, C] and [L, kv heads, C, D] are written at `position` [1, 1] int32.
    """
    stacked = (getattr(weights, name)[:layers] for name in LAYER)
    kernel = "decoder_stack" if launch.group is None else "decoder_stack_ranks"
    hidden: Tensor = launch(
        kernel,
        *(x, *stacked, *(cache[:layers] for cache in caches), position, *tables),
        eps=eps,
        rounding=launch.rounding,
        **({} if launch.group is None else {"group": launch.group}),
    )[0]
    return hidden


def rotary_tables(head_dim: int, theta: float, positions: Tensor, dtype: torch.dtype) -> Tables:
    """RoPE's cos and sin [tokens, D] for `positions` [tokens], from float32 angles.

    Both halves of D hold the same angles, as `rotate_half` pairs them.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = (1.0 / (theta**exponents)).to(positions.device)
    angles = torch.outer(positions.float(), frequencies).repeat(1, 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)
