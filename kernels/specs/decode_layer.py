"""Kernel of a decode step's layers in one launch."""

from __future__ import annotations

from kernels import decoder_reference as reference
from kernels import samples, samples_decode
from kernels.specs.base import EPS, Case, KernelSpec, Refusal, Scalars, Tolerance
from kernels.specs.decode_attention import BOTH, STEPWISE, columns


def stack_shapes(
    layers: int,
    tokens: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    capacity: int,
    experts: int,
    width: int,
) -> samples.Shapes:
    """Shapes of `decoder_stack`'s arguments for one rank's share of a model."""
    packed = (layers, *columns(hidden))
    return {
        "x": (tokens, hidden),
        "input_norm": packed,
        "w_qkv": (*packed, (heads + 2 * kv_heads) * head_dim),
        "q_norm": (layers, head_dim),
        "k_norm": (layers, head_dim),
        "w_o": (layers, head_dim, heads, hidden),
        "post_norm": packed,
        "w_router": (*packed, experts),
        "w_gate_up": (layers, experts, *columns(hidden), 2 * width),
        "w_down": (layers, experts, *columns(width), hidden),
        "k_cache": (layers, kv_heads, head_dim, capacity),
        "v_cache": (layers, kv_heads, capacity, head_dim),
        "position": (1, 1),
        "cos": (tokens, head_dim),
        "sin": (tokens, head_dim),
    }


_FUSED: Scalars = {"eps": EPS, "rounding": "fused"}
_TINY = (64, 8, 4, 16, 48, 16, 48)
_TINY_RANK = (64, 2, 1, 16, 24, 16, 12)
_SMALL = stack_shapes(2, 1, *_TINY_RANK)
_INT32 = {"position": "int32"}

DECODER_STACK = KernelSpec(
    name="decoder_stack",
    title="Decoder layers (decode)",
    file="nki_decode_layer_kernels.py",
    function="nki_decoder_stack_kernel",
    description="Decoder layers of few tokens in one launch, with the residual kept on chip",
    tile_size="TILE_K=128, TILE_M=128, TILE_N=T",
    reference=reference.decoder_stack,
    fill=samples_decode.decoder_stack,
    scalars=_FUSED,
    updates={"k_cache": 1, "v_cache": 2},
    cases=(
        Case(
            "one layer, TP 4",
            "true",
            stack_shapes(1, 1, 2048, 8, 1, 128, 640, 128, 192),
            cores=BOTH,
        ),
        Case("5 tokens", "ragged", stack_shapes(2, 5, 192, 4, 2, 32, 40, 14, 48), cores=BOTH),
        Case(
            "3 layers, one key head, stepwise",
            "ragged",
            stack_shapes(3, 3, 256, 6, 1, 32, 96, 20, 40),
            scalars=STEPWISE,
            cores=BOTH,
        ),
        Case("tiny", "model", stack_shapes(2, 1, *_TINY), cores=BOTH),
        Case(
            "tiny, TP 4, stepwise",
            "model",
            stack_shapes(2, 1, *_TINY_RANK),
            scalars=STEPWISE,
            values={"position": 0},
            cores=BOTH,
        ),
        Case(
            "tiny, last position",
            "model",
            stack_shapes(1, 2, *_TINY),
            values={"position": 46},
            cores=BOTH,
        ),
    ),
    tolerances={
        "float32": Tolerance(
            rtol=1e-5,
            atol=1e-5,
            why="the stages are each within some 2e-6 of their oracles; the residual of size 3, to "
            "which two of them add per layer, passes that on",
        ),
        "bfloat16": Tolerance(
            rtol=2.0**-6,
            atol=2.0**-5,
            why="the result of size 3 to 8 is rounded by up to 2^-6; operands that round otherwise "
            "and the exponentials' own move it by as much again, and a new key by 2^-6",
        ),
    },
    refusals=(
        Refusal(
            "a cache without layers",
            "k_cache must have 4 dimensions",
            {**_SMALL, "k_cache": (1, 16, 24)},
            dtypes=_INT32,
            scalars=_FUSED,
        ),
        Refusal(
            "norms of another number of layers",
            "post_norm must have shape (2, 64, 1)",
            {**_SMALL, "post_norm": (1, 64, 1)},
            dtypes=_INT32,
            scalars=_FUSED,
        ),
        Refusal(
            "down weights in another layout",
            "w_down must have shape (2, 16, 12, 1, 64)",
            {**_SMALL, "w_down": (2, 16, 1, 12, 64)},
            dtypes=_INT32,
            scalars=_FUSED,
        ),
        Refusal(
            "a router of another dtype",
            "w_router must be float32",
            _SMALL,
            dtypes={**_INT32, "w_router": "bfloat16"},
            scalars=_FUSED,
        ),
        Refusal(
            "6 experts",
            "8 to 512 experts",
            stack_shapes(1, 1, 64, 2, 1, 16, 24, 6, 12),
            dtypes=_INT32,
            scalars=_FUSED,
        ),
        Refusal(
            "tables of other tokens",
            "cos must have shape (1, 16)",
            {**_SMALL, "cos": (2, 16)},
            dtypes=_INT32,
            scalars=_FUSED,
        ),
    ),
)

DECODE_LAYER_KERNELS = (DECODER_STACK,)
