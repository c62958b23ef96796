"""Kernel of the LM head."""

from __future__ import annotations

from kernels import decoder_reference as reference
from kernels import samples_moe as samples
from kernels.layouts import partitions
from kernels.samples import Shapes
from kernels.specs.base import EPS, Case, KernelSpec, Refusal, Scalars, Tolerance

_FUSED: Scalars = {"eps": EPS, "rounding": "fused"}
_STEPWISE: Scalars = {"rounding": "stepwise"}


def _shapes(tokens: int, hidden: int, vocabulary: int) -> Shapes:
    columns = (partitions(hidden), hidden // partitions(hidden))
    return {
        "x": (tokens, hidden),
        "residual": (tokens, hidden),
        "norm_weight": columns,
        "w_head": (*columns, vocabulary),
    }


_GOOD = _shapes(2, 64, 512)

LM_HEAD = KernelSpec(
    name="lm_head",
    title="LM head",
    file="nki_lm_head_kernels.py",
    function="nki_lm_head_kernel",
    description="Final norm, logits and the greedy choice of the next token",
    tile_size="TILE_K=128, TILE_M=128",
    reference=reference.lm_head,
    fill=samples.lm_head,
    scalars=_FUSED,
    cases=(
        Case("decode, 1 token", "true", _shapes(1, 2048, 37984), cores=(2,)),
        Case("8 tokens, 4000 entries", "ragged", _shapes(8, 2048, 4000), cores=(1, 2)),
        Case("5 tokens of 1000", "ragged", _shapes(5, 1000, 1998), (), {}, _STEPWISE, (1, 2)),
        Case("200 entries", "ragged", _shapes(1, 256, 200), cores=(1, 2)),
        Case("20000 entries", "ragged", _shapes(2, 128, 20000), cores=(1, 2)),
        Case("tiny, 1 token", "model", _shapes(1, 64, 2048), cores=(1, 2)),
        Case("tiny, 4 ranks", "model", _shapes(3, 64, 512), (), {}, _STEPWISE, (1, 2)),
    ),
    tolerances={
        "float32": Tolerance(
            rtol=1e-5,
            atol=5e-6,
            why="a sum of 2048 products of size 1 / 45 in the hardware's order, and a normed state "
            "that is 3e-6 off: 2e-6 in logits of size 1 that cancel",
        ),
        "bfloat16": Tolerance(
            rtol=2.0**-6,
            atol=4e-3,
            why="2 ulp (2^-7 each): a logit rounds once; elements of the normed state that a "
            "last-bit difference rounds the other way move it by 2^-8 / 45 each",
        ),
    },
    refusals=(
        Refusal("x of rank 3", "x must have 2", {**_GOOD, "x": (1, 2, 64)}, scalars=_FUSED),
        Refusal(
            "residual of another shape",
            "residual must have shape (2, 64)",
            {**_GOOD, "residual": (1, 64)},
            scalars=_FUSED,
        ),
        Refusal(
            "norm weight not in columns",
            "norm_weight must have 2 dimensions",
            {**_GOOD, "norm_weight": (64,)},
            scalars=_FUSED,
        ),
        Refusal(
            "head of another hidden size",
            "w_head must have shape (64, 1, 512)",
            {**_GOOD, "w_head": (64, 2, 512)},
            scalars=_FUSED,
        ),
        Refusal(
            "head of another dtype",
            "w_head must be float32",
            _GOOD,
            dtypes={"w_head": "bfloat16"},
            scalars=_FUSED,
        ),
        Refusal("33 tokens", "too many columns", _shapes(33, 2048, 256), scalars=_FUSED),
        Refusal("eps of zero", "eps must be", _GOOD, scalars={**_FUSED, "eps": 0.0}),
        Refusal("no such rounding", "'stepwise'", _GOOD, scalars={**_FUSED, "rounding": "none"}),
    ),
)
