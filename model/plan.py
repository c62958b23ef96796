"""Which kernels carry out a model, per phase: what was asked for, or what is possible, and why.

The one place that decides. A *path* is a set of kernels:

* "fused": a decode step is one launch for all layers and one for the LM head;
* "layered": five launches per layer, between which a framework can sum over ranks in its own way;
* "rows": small kernels of single operations around torch's matrix products.

The first two share the prefill, five launches per layer, and the packed weights. All layers of the
models that are implemented have the same shapes, so that a decision holds for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Phase = Literal["prefill", "decode"]
PHASES: tuple[Phase, ...] = ("prefill", "decode")
PATHS = ("fused", "layered", "rows")
NEURON_PATHS = ("layered", "rows")
"""The paths of NxD Inference's model, best first. "fused" is none of them: it sums over the ranks
inside its kernel, with a collective that the framework does not know of."""

BUCKETS = (128, 256, 640)
"""Sequence lengths that the challenge compiles for, in tokens."""

CHOSEN_EXPERTS = 8  # experts per token that the kernels of the router choose and sum

PER_LAYER = ("qkv", "attention", "output_projection", "router", "experts")
"""The kernels of one layer, in their order; their names end in the phase."""

MOST = (
    ("head_dim", ("qkv", "attention", "decoder"), 128),
    ("experts", ("experts_prefill",), 128),
    ("experts", ("router", "decoder"), 512),
    ("bytes per row", ("qkv_prefill",), 8192),
    ("layers", ("decoder",), 128),
)
"""The largest sizes of a model that decoder kernels take: what, of which kernels, how much."""

PROMPT_BYTES = 81920  # of all tokens of a prompt as columns, on a partition
MOST_BLOCKS = 504  # of tokens of one expert each, of up to 64, that the table of a prefill holds

MOST_SCORES = 512  # of a group of heads, on each partition: one bank of PSUM in float32

# config field -> the value that the models with kernels implement
SUPPORTED = {
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "hidden_act": "silu",
    "mlp_only_layers": [],
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}


class UnsupportedModel(ValueError):
    """A checkpoint whose configuration asks for something that the models with kernels lack."""


class Fallback(NamedTuple):
    """A kernel that was not launched where it could have been, and why."""

    kernel: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The path of each phase, and why it is not the one that was asked for."""

    prefill: str
    decode: str
    fallbacks: tuple[Fallback, ...] = ()


def choose(asked: str, config: Any, dtype: str, ranks: int = 1) -> Plan:
    """The first path from `asked` on, in the order of `PATHS`, that each phase can take.

    `config` is the checkpoint's, of which a rank holds one of `ranks` equal parts. "rows" has
    weights of its own, so that both phases take it or none. ValueError for an unknown path.
    """
    if asked not in PATHS:
        raise ValueError(f"kernel path: received {asked!r}; use one of {', '.join(PATHS)}")
    chosen: dict[str, str] = {}
    fallbacks: list[Fallback] = []
    for phase in PHASES:
        for path in PATHS[PATHS.index(asked) :]:
            found = why_not_path(path, phase, config, dtype, ranks)
            if found is None:
                chosen[phase] = path
                break
            fallbacks.append(found)
    if "rows" in chosen.values():
        chosen = dict.fromkeys(PHASES, "rows")
    return Plan(chosen["prefill"], chosen["decode"], tuple(dict.fromkeys(fallbacks)))


def why_not_path(
    path: str, phase: Phase, config: Any, dtype: str, ranks: int = 1
) -> Fallback | None:
    """The first kernel of a path that cannot take the model, and why; None if all can."""
    if path == "rows":
        return None  # its kernels fall back one by one
    for kernel in kernels_of(path, phase):
        reason = why_not(kernel, config, dtype, ranks)
        if reason is not None:
            return Fallback(kernel, reason)
    return None


def kernels_of(path: str, phase: Phase) -> tuple[str, ...]:
    """The kernels of a packed path in one phase, in the order of their first launch."""
    if path == "fused" and phase == "decode":
        return ("decoder_stack", "lm_head")
    return (*(f"{name}_{phase}" for name in PER_LAYER), "lm_head")


def why_not(kernel: str, config: Any, dtype: str, ranks: int = 1) -> str | None:
    """Why a decoder kernel cannot take the model, or None if it can."""
    from kernels.specs import SPECS  # here: whoever runs the baseline loads no kernels

    if dtype not in SPECS[kernel].dtypes:
        return f"{dtype} is not among the kernel's dtypes ({', '.join(SPECS[kernel].dtypes)})"
    if kernel.startswith(("router", "decoder")):
        reason = why_not_routed(
            config.num_experts, config.num_experts_per_tok, config.norm_topk_prob
        )
        if reason is not None:
            return reason
    if kernel.startswith("experts") and config.num_experts_per_tok != CHOSEN_EXPERTS:
        return why_not_routed(config.num_experts, config.num_experts_per_tok)
    sizes = {
        "head_dim": config.head_dim,
        "experts": config.num_experts,
        "bytes per row": config.hidden_size * (4 if dtype == "float32" else 2),
        "layers": config.num_hidden_layers,
    }
    for what, kernels, most in MOST:
        if kernel.startswith(kernels) and sizes[what] > most:
            return f"{what}: {sizes[what]}, the kernel takes up to {most}"
    if config.head_dim % 2:
        return f"head_dim: {config.head_dim}, but halves of heads are rotated as pairs"
    return None


def why_not_routed(experts: int, chosen: int, renormalise: bool = True) -> str | None:
    """Why the kernels cannot choose `chosen` of `experts` experts, or None if they can."""
    if chosen != CHOSEN_EXPERTS:
        return f"{chosen} experts per token, the kernel has {CHOSEN_EXPERTS}"
    if experts < CHOSEN_EXPERTS:
        return f"{experts} experts, the kernel needs at least {CHOSEN_EXPERTS}"
    if not renormalise:
        return "the model does not renormalise the chosen probabilities, the kernel does"
    return None


def bucket_of(tokens: int) -> int:
    """The bucket that `tokens` are padded to; above the largest, the next multiple of 128."""
    return next((bucket for bucket in BUCKETS if tokens <= bucket), -(-tokens // 128) * 128)


def check_supported(config: Any) -> None:
    """Raise UnsupportedModel unless the configuration is one that the models implement."""
    if config.model_type != "qwen3_moe":
        raise UnsupportedModel(f"model_type: received {config.model_type!r}, expected 'qwen3_moe'")
    if reason := why_not_supported(config):
        raise UnsupportedModel(f"{reason} only, use the baseline for this checkpoint")


def why_not_supported(config: Any) -> str | None:
    """The first field with a value that the models lack, or None; an absent one has its default."""
    for field, value in SUPPORTED.items():
        if (received := getattr(config, field, value)) != value:
            return f"{field}: received {received!r}; the model with kernels implements {value!r}"
    return None


def why_not_capacity(capacity: int, config: Any) -> Fallback | None:
    """Why a step of one token cannot attend over a cache of `capacity` tokens, or None."""
    from kernels.layouts import partitions

    group = config.num_attention_heads // config.num_key_value_heads
    scores = capacity // partitions(capacity) * group
    if scores <= MOST_SCORES:
        return None
    reason = f"a cache of {capacity} tokens gives a partition {scores} scores, above {MOST_SCORES}"
    return Fallback("attention_decode", f"{reason}; make it a multiple of 128")


def why_not_prompt(tokens: int, config: Any, dtype: str, ranks: int = 1) -> Fallback | None:
    """Why the kernels of a prefill cannot take a prompt padded to `tokens` tokens, or None."""
    from kernels.layouts import partitions

    heads = config.num_attention_heads
    widths = {
        "qkv": config.hidden_size // partitions(config.hidden_size),
        "attention": heads // config.num_key_value_heads,
        "output_projection": heads // ranks,
    }
    element_bytes = 4 if dtype == "float32" else 2
    most = {name: PROMPT_BYTES // (width * element_bytes) for name, width in widths.items()}
    # With any routing, each expert may have one block that is not full.
    most["experts"] = ((MOST_BLOCKS - config.num_experts) * 64 + config.num_experts) // 8
    kernel = min(most, key=lambda name: most[name])
    if tokens <= most[kernel]:
        return None
    reason = f"a prompt of {tokens} tokens, the kernel takes up to {most[kernel]}"
    return Fallback(f"{kernel}_prefill", f"{reason}; shorten the longest context encoding bucket")


def expected_launches(
    config: Mapping[str, Any],
    phase: Phase,
    path: str = "fused",
    ranks: int = 1,
    final_norm_fused: bool = True,
) -> dict[str, int]:
    """Launches per kernel of one prefill, or of one decode step, from the architecture alone.

    `config` is the checkpoint's config.json. The packed paths launch each kernel once per layer,
    the LM head and the stack of layers once; with several ranks, sums over them follow a layer's
    attention and its experts, or another kernel of the stack, which sums inside. For "rows" and
    `final_norm_fused` see `_rows_launches`. ValueError for another phase or path.
    """
    if phase not in PHASES:
        raise ValueError(f"phase: received {phase!r}; use one of {', '.join(PHASES)}")
    if path not in PATHS:
        raise ValueError(f"kernel path: received {path!r}; use one of {', '.join(PATHS)}")
    if path == "rows":
        return _rows_launches(config, final_norm_fused)
    layers = config["num_hidden_layers"]
    single = ("decoder_stack", "lm_head")
    launches = {name: 1 if name in single else layers for name in kernels_of(path, phase)}
    if ranks > 1 and "decoder_stack" in launches:
        launches["decoder_stack_ranks"] = launches.pop("decoder_stack")
    elif ranks > 1:
        launches["all_reduce"] = 2 * layers
    return launches


def _rows_launches(config: Mapping[str, Any], final_norm_fused: bool) -> dict[str, int]:
    """Launches of "rows", the same in both phases.

    Each layer launches once for all its tokens, heads and experts. The first layer's input norm
    stands alone; every other hidden-state norm, the final one included, is fused with the residual
    addition before it. Queries and keys have norms of their own. `final_norm_fused=False` is for a
    model whose last addition is not a kernel's (NxD Inference calls the final norm with the sum).
    """
    layers, chosen = config["num_hidden_layers"], config["num_experts_per_tok"]
    routed = why_not_routed(config["num_experts"], chosen, config["norm_topk_prob"]) is None
    return {
        "rmsnorm": 1 + 2 * layers + (not final_norm_fused),
        "rope": layers,
        "softmax": layers,
        "add_rmsnorm": 2 * layers - (not final_norm_fused),
        "router_softmax": layers,
        "top8": layers if routed else 0,
        "silu": layers,
        "expert_aggregation": layers if why_not_routed(chosen, chosen) is None else 0,
    }
