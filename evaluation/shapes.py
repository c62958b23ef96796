"""The shapes at which a Qwen3-MoE model launches each kernel, derived from its architecture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from model.plan import BUCKETS, CHOSEN_EXPERTS, Phase, kernels_of

Shapes = dict[str, tuple[int, ...]]
LAYER_WEIGHTS = (
    "input_norm", "w_qkv", "q_norm", "k_norm", "w_o", "post_norm", "w_router", "w_gate_up",
    "w_down",
)  # fmt: skip
"""A layer's weights as `model.packing` names them, in the order in which the stack takes them."""


@dataclass(frozen=True)
class Architecture:
    """The dimensions of a Qwen3-MoE model, or of one rank's part of it, that kernels see."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    experts_per_token: int
    expert_hidden: int
    layers: int
    vocabulary: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """Read the dimensions from a Hugging Face config.json."""
        return cls(
            hidden=config["hidden_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            experts=config["num_experts"],
            experts_per_token=config["num_experts_per_tok"],
            expert_hidden=config["moe_intermediate_size"],
            layers=config["num_hidden_layers"],
            vocabulary=config["vocab_size"],
        )

    def of_rank(self, ranks: int) -> Architecture:
        """The part of one of `ranks` tensor-parallel ranks (as `model.packing.Shard` splits)."""
        return replace(
            self,
            heads=self.heads // ranks,
            kv_heads=self.kv_heads // ranks,
            expert_hidden=self.expert_hidden // ranks,
            vocabulary=self.vocabulary // ranks,
        )


QWEN3_30B_A3B = Architecture(
    hidden=2048,
    heads=32,
    kv_heads=4,
    head_dim=128,
    experts=128,
    experts_per_token=8,
    expert_hidden=768,
    layers=48,
    vocabulary=151936,
)
"""From config.json of Qwen/Qwen3-30B-A3B on the Hugging Face hub."""


@dataclass(frozen=True)
class Trace:
    """One kernel at one set of shapes; `tokens` are those that the step processes."""

    kernel: str
    phase: str
    tokens: int
    shapes: Shapes
    scalars: Mapping[str, int] = field(default_factory=dict)


def traces_of(architecture: Architecture) -> Iterator[Trace]:
    """Yield every kernel at each prefill bucket and at a decode step over the full sequence."""
    for tokens in BUCKETS:
        for kernel, shapes in kernel_shapes(architecture, tokens, tokens):
            yield Trace(kernel, "prefill", tokens, shapes)
        yield from decoder_traces(architecture, "prefill", tokens)
    for kernel, shapes in kernel_shapes(architecture, 1, BUCKETS[-1]):
        yield Trace(kernel, "decode", 1, shapes)
    yield from decoder_traces(architecture, "decode", 1)


def decoder_traces(a: Architecture, phase: Phase, tokens: int) -> Iterator[Trace]:
    """Yield the launches of the packed paths, each kernel once; a decode step sees a full cache."""
    names = [*kernels_of("layered", phase), *kernels_of("fused", phase)]
    for kernel in dict.fromkeys(names):
        shapes = decoder_shapes(a, kernel, 1 if kernel == "lm_head" else tokens)
        scalars = {"kv_heads": a.kv_heads} if kernel.startswith("qkv") else {}
        yield Trace(kernel, phase, tokens, shapes, scalars)


def decoder_shapes(
    a: Architecture, kernel: str, tokens: int, capacity: int = BUCKETS[-1]
) -> Shapes:
    """Return the shapes of a decoder kernel's tensors: `kernels.decoder_reference` names them.

    `capacity`: positions of the cache that a decode step sees.
    """
    if kernel == "decoder_stack":
        return _stack_shapes(a, tokens, capacity)
    hidden, prefill = (tokens, a.hidden), kernel.endswith("prefill")
    columns = _columns(a.hidden)
    norm = (a.hidden,) if prefill else columns
    rows, routed = {"x": hidden, "residual": hidden, "norm_weight": norm}, (tokens, CHOSEN_EXPERTS)
    d, heads, kv_heads = a.head_dim, a.heads, a.kv_heads
    table = (tokens, d)
    if kernel.startswith("qkv"):
        w_qkv = (*columns, (heads + 2 * kv_heads) * d)
        tables = {"q_norm": (d,), "k_norm": (d,), "cos": table, "sin": table}
        return {**rows, "w_qkv": w_qkv, **tables}
    if kernel == "attention_prefill":
        keys, values = (kv_heads, d, tokens), (kv_heads, tokens, d)
        return {"q": (heads, d, tokens), "k": keys, "v": values}
    if kernel == "attention_decode":
        new = {"q": (d, heads, tokens), "k": (d, kv_heads, tokens), "v": (tokens, kv_heads, d)}
        caches = {"k_cache": (kv_heads, d, capacity), "v_cache": (kv_heads, capacity, d)}
        return {**new, **caches, "position": (1, 1)}
    if kernel.startswith("output_projection"):
        attended = (heads, d, tokens) if prefill else (d, heads, tokens)
        return {"attended": attended, "w_o": (d, heads, a.hidden)}
    if kernel.startswith("router"):
        return {**rows, "w_router": (*columns, a.experts)}
    if kernel.startswith("experts"):
        w_gate_up = (a.experts, *columns, 2 * a.expert_hidden)
        w_down = (a.experts, *_columns(a.expert_hidden), a.hidden)
        length = {"length": (1, 1)} if prefill else {}
        chosen = {"x": hidden, "weights": routed, "experts": routed}
        return {**chosen, **length, "w_gate_up": w_gate_up, "w_down": w_down}
    if kernel == "lm_head":
        return {**rows, "w_head": (*columns, a.vocabulary)}
    raise KeyError(kernel)


def _stack_shapes(a: Architecture, tokens: int, capacity: int) -> Shapes:
    """The shapes of the layers' own kernels, those of weights and caches behind the layers."""
    attention = decoder_shapes(a, "qkv_decode", tokens)
    layer = {
        **{name: attention[name] for name in ("w_qkv", "q_norm", "k_norm")},
        "w_o": decoder_shapes(a, "output_projection_decode", tokens)["w_o"],
        "w_router": decoder_shapes(a, "router_decode", tokens)["w_router"],
        **decoder_shapes(a, "experts_decode", tokens),
        **decoder_shapes(a, "attention_decode", tokens, capacity),
        "input_norm": _columns(a.hidden),
        "post_norm": _columns(a.hidden),
    }
    stacked = {name: (a.layers, *layer[name]) for name in (*LAYER_WEIGHTS, "k_cache", "v_cache")}
    tables = {name: attention[name] for name in ("cos", "sin")}
    return {"x": (tokens, a.hidden), **stacked, "position": (1, 1), **tables}


def _columns(size: int) -> tuple[int, int]:
    from kernels.layouts import partitions  # here: whoever runs the baseline loads no kernels

    return partitions(size), size // partitions(size)


def kernel_shapes(a: Architecture, tokens: int, context: int) -> Iterator[tuple[str, Shapes]]:
    """Yield each kernel of "rows" with its tensors' shapes for `tokens` that see `context` keys.

    These are the launches of one layer in `model.qwen_rows`: RMSNorm over hidden states, queries
    and keys, RoPE over query and key heads side by side, SiLU over all rows sent to experts.
    """
    hidden, table = (tokens, a.hidden), (tokens, a.head_dim)
    yield "rmsnorm", {"x": hidden, "weight": (a.hidden,)}
    for heads in (a.heads, a.kv_heads):
        yield "rmsnorm", {"x": (tokens * heads, a.head_dim), "weight": (a.head_dim,)}
    all_heads = (tokens, a.heads + a.kv_heads, a.head_dim)
    yield "rope", {"x": all_heads, "cos": table, "sin": table}
    yield "softmax", {"x": (a.heads * tokens, context)}
    yield "add_rmsnorm", {"x": hidden, "residual": hidden, "weight": (a.hidden,)}
    yield "router_softmax", {"logits": (tokens, a.experts)}
    yield "top8", {"probabilities": (tokens, a.experts)}
    yield "silu", {"x": (tokens * a.experts_per_token, a.expert_hidden)}
    routed = (tokens, a.experts_per_token)
    yield "expert_aggregation", {"expert_outputs": (*routed, a.hidden), "weights": routed}
