"""Kernels of single operations on rows: norms, activation, softmax, RoPE, router, aggregation."""

from __future__ import annotations

from kernels import reference, samples
from kernels.specs.base import EPS, Case, KernelSpec, Kind, Refusal, Tolerance


def _norm_shapes(rows: int, hidden: int) -> samples.Shapes:
    return {"x": (rows, hidden), "weight": (hidden,)}


def _add_shapes(rows: int, hidden: int) -> samples.Shapes:
    return {"x": (rows, hidden), "residual": (rows, hidden), "weight": (hidden,)}


def _rope_shapes(tokens: int, heads: int, head_dim: int) -> samples.Shapes:
    table = (tokens, head_dim)
    return {"x": (tokens, heads, head_dim), "cos": table, "sin": table}


def _aggregation_shapes(tokens: int, hidden: int) -> samples.Shapes:
    return {"expert_outputs": (tokens, 8, hidden), "weights": (tokens, 8)}


def _aggregation_case(label: str, kind: Kind, tokens: int, hidden: int) -> Case:
    return Case(label, kind, _aggregation_shapes(tokens, hidden), float32=("weights",))


_NORM_WHY_F32 = (
    "the row sum of up to 2048 squares has about sqrt(2048) * 2^-24 = 3e-6 of error in an order "
    "that the hardware chooses, halved by rsqrt; three roundings of 2^-24 follow"
)
_NORM_WHY_BF16 = (
    "bfloat16 keeps 8 significant bits (1 ulp <= 2^-7): a last-bit difference in fp32 can flip "
    "the rounding before the weight and the one after it, 2 ulp together"
)
_ONE_ROUNDING_BF16 = (
    "bfloat16 keeps 8 significant bits (1 ulp <= 2^-7) and the only rounding can flip on a "
    "last-bit difference in fp32; values below atol do not matter beside the row's sum or size"
)
_ORDER_FIXED = (
    "every operation is an fp32 addition or multiplication in the oracle's order; one ulp is left "
    "for an engine that fuses a product and a sum, at the size of the terms where they cancel"
)

RMSNORM = KernelSpec(
    name="rmsnorm",
    title="RMSNorm",
    file="nki_custom_rmsnorm.py",
    function="nki_rmsnorm_kernel",
    description="Root mean square normalisation of hidden states and of query and key heads",
    tile_size="TILE_M=128",
    reference=reference.rmsnorm,
    fill=samples.norm,
    scalars={"eps": EPS},
    cases=(
        Case("decode, hidden state", "true", _norm_shapes(1, 2048)),
        Case("prefill, 512 tokens", "true", _norm_shapes(512, 2048)),
        Case("decode, 32 + 4 heads", "true", _norm_shapes(36, 128)),
        Case("decode, 8 + 1 heads", "true", _norm_shapes(9, 128)),
        Case("decode, one key head", "true", _norm_shapes(1, 128)),
        Case("prefill, 640 tokens x 8 heads", "true", _norm_shapes(5120, 128)),
        Case("20 tokens", "ragged", _norm_shapes(20, 2048)),
        Case("200 tokens", "ragged", _norm_shapes(200, 2048)),
        Case("192 tokens x 36 heads", "ragged", _norm_shapes(6912, 128)),
        Case("prime number of heads", "ragged", _norm_shapes(307, 128)),
        Case("300 rows of odd length", "ragged", _norm_shapes(300, 77)),
        Case("longest row", "ragged", _norm_shapes(3, 6144)),
        Case("tiny decode", "model", _norm_shapes(1, 64)),
        Case("tiny prefill", "model", _norm_shapes(24, 64)),
        Case("tiny heads of 16", "model", _norm_shapes(96, 16)),
        Case("tiny heads of 32", "model", _norm_shapes(1300, 32)),
    ),
    tolerances={
        "float32": Tolerance(rtol=1e-5, atol=1e-8, why=_NORM_WHY_F32),
        "bfloat16": Tolerance(rtol=2.0**-6, atol=1e-8, why=_NORM_WHY_BF16),
    },
    refusals=(
        Refusal(
            "x of rank 3",
            "x must have 2 dimensions",
            {"x": (2, 3, 64), "weight": (64,)},
            scalars={"eps": EPS},
        ),
        Refusal("no rows", "(0, 64)", _norm_shapes(0, 64), scalars={"eps": EPS}),
        Refusal(
            "weight of another length",
            "weight must have shape (64,)",
            {"x": (4, 64), "weight": (32,)},
            scalars={"eps": EPS},
        ),
        Refusal(
            "weight of rank 2",
            "weight must have 1 dimensions",
            {"x": (4, 64), "weight": (1, 64)},
            scalars={"eps": EPS},
        ),
        Refusal(
            "weight of another dtype",
            "weight must be float32",
            _norm_shapes(4, 64),
            dtypes={"weight": "bfloat16"},
            scalars={"eps": EPS},
        ),
        Refusal(
            "integer x",
            "must be float32 or bfloat16",
            _norm_shapes(4, 64),
            dtypes={"x": "int32", "weight": "int32"},
            scalars={"eps": EPS},
        ),
        Refusal(
            "rows too long", "at most 6144 elements", _norm_shapes(2, 6272), scalars={"eps": EPS}
        ),
        Refusal("eps of zero", "eps must be positive", _norm_shapes(4, 64), scalars={"eps": 0.0}),
    ),
)

SILU = KernelSpec(
    name="silu",
    title="SiLU",
    file="nki_kernels.py",
    function="nki_silu_kernel",
    description="Swish activation x * sigmoid(x) of the experts, on a flat stream of elements",
    tile_size="TILE_M=128, TILE_N<=2048",
    reference=reference.silu,
    fill=samples.silu,
    cases=(
        Case("decode, 8 experts", "true", {"x": (8, 768)}),
        Case("decode, 8 experts, per rank", "true", {"x": (8, 192)}),
        Case("one row", "true", {"x": (1, 768)}),
        Case("prefill, 512 tokens", "true", {"x": (512, 768)}),
        Case("300 tokens, per rank", "ragged", {"x": (300, 192)}),
        Case("20 tokens", "ragged", {"x": (20, 768)}),
        Case("192 tokens, per rank", "ragged", {"x": (192, 192)}),
        Case("rows of a prime length", "ragged", {"x": (131, 769)}),
        Case("rows longer than a tile", "ragged", {"x": (3, 100003)}),
        Case("one element", "ragged", {"x": (1, 1)}),
        Case("tiny expert", "model", {"x": (1, 32)}),
        Case("tiny experts", "model", {"x": (24, 32)}),
    ),
    tolerances={
        "float32": Tolerance(
            rtol=1e-5,
            atol=1e-6,
            why="exp, a sum, a quotient and a product of 2^-24 each; ACT's table is assumed good "
            "to fp32 times ten. Below -14 the result is smaller than atol",
        ),
        "bfloat16": Tolerance(rtol=2.0**-7, atol=1e-6, why=_ONE_ROUNDING_BF16),
    },
    refusals=(
        Refusal("x of rank 1", "x must have 2 dimensions", {"x": (64,)}),
        Refusal("x of rank 3", "x must have 2 dimensions", {"x": (2, 8, 64)}),
        Refusal("no columns", "(4, 0)", {"x": (4, 0)}),
        Refusal("float16", "must be float32 or bfloat16", {"x": (4, 64)}, dtypes={"x": "float16"}),
    ),
)

SOFTMAX = KernelSpec(
    name="softmax",
    title="Softmax",
    file="nki_kernels.py",
    function="nki_softmax_kernel",
    description="Numerically stable softmax of attention scores",
    tile_size="TILE_M=128",
    reference=reference.softmax,
    fill=samples.softmax,
    cases=(
        Case("decode, 32 heads, 640 keys", "true", {"x": (32, 640)}),
        Case("decode, 8 heads, 128 keys", "true", {"x": (8, 128)}),
        Case("decode, 8 heads, 256 keys", "true", {"x": (8, 256)}),
        Case("prefill, 512 tokens x 8 heads", "true", {"x": (4096, 512)}),
        Case("one row", "ragged", {"x": (1, 640)}),
        Case("one key", "ragged", {"x": (5, 1)}),
        Case("20 tokens x 8 heads", "ragged", {"x": (160, 128)}),
        Case("192 tokens, one head", "ragged", {"x": (192, 192)}),
        Case("300 rows of odd length", "ragged", {"x": (300, 77)}),
        Case("longest row", "ragged", {"x": (3, 6144)}),
        Case("tiny attention", "model", {"x": (96, 24)}),
    ),
    tolerances={
        "float32": Tolerance(
            rtol=1e-5,
            atol=1e-7,
            why="x - max is exact to 2^-24 of its size, at most 25 where the result exceeds atol: "
            "1.5e-6 in the exponential; the sum and 1 / sum add a few 2^-24",
        ),
        "bfloat16": Tolerance(rtol=2.0**-7, atol=1e-7, why=_ONE_ROUNDING_BF16),
    },
    refusals=(
        Refusal("x of rank 3", "x must have 2 dimensions", {"x": (2, 8, 64)}),
        Refusal("no rows", "(0, 64)", {"x": (0, 64)}),
        Refusal("integer x", "must be float32 or bfloat16", {"x": (4, 64)}, dtypes={"x": "int32"}),
        Refusal("rows too long", "at most 6144 elements", {"x": (2, 6145)}),
    ),
)

ADD_RMSNORM = KernelSpec(
    name="add_rmsnorm",
    title="Fused Add+RMSNorm",
    file="nki_kernels.py",
    function="nki_fused_add_rmsnorm_kernel",
    description="Residual addition and RMSNorm of the sum in one pass over the hidden states",
    tile_size="TILE_M=128",
    reference=reference.add_rmsnorm,
    fill=samples.norm,
    scalars={"eps": EPS},
    cases=(
        Case("decode, hidden state", "true", _add_shapes(1, 2048)),
        Case("prefill, 512 tokens", "true", _add_shapes(512, 2048)),
        Case("20 tokens", "ragged", _add_shapes(20, 2048)),
        Case("192 tokens", "ragged", _add_shapes(192, 2048)),
        Case("300 rows of odd length", "ragged", _add_shapes(300, 77)),
        Case("longest row", "ragged", _add_shapes(3, 6144)),
        Case("tiny decode", "model", _add_shapes(1, 64)),
        Case("tiny prefill", "model", _add_shapes(24, 64)),
        Case("tiny, 512 tokens", "model", _add_shapes(512, 64)),
    ),
    tolerances={
        "float32": Tolerance(rtol=1e-5, atol=1e-8, why=_NORM_WHY_F32 + "; the addition is exact"),
        "bfloat16": Tolerance(rtol=2.0**-6, atol=1e-8, why=_NORM_WHY_BF16 + "; the sum is exact"),
    },
    refusals=(
        Refusal(
            "residual of another shape",
            "residual must have shape (4, 64)",
            {"x": (4, 64), "residual": (3, 64), "weight": (64,)},
            scalars={"eps": EPS},
        ),
        Refusal(
            "residual of another dtype",
            "residual must be float32",
            _add_shapes(4, 64),
            dtypes={"residual": "bfloat16"},
            scalars={"eps": EPS},
        ),
        Refusal(
            "x of rank 1",
            "x must have 2 dimensions",
            {"x": (64,), "residual": (64,), "weight": (64,)},
            scalars={"eps": EPS},
        ),
        Refusal(
            "weight of another length",
            "weight must have shape (64,)",
            {"x": (4, 64), "residual": (4, 64), "weight": (65,)},
            scalars={"eps": EPS},
        ),
        Refusal(
            "rows too long", "at most 6144 elements", _add_shapes(2, 8192), scalars={"eps": EPS}
        ),
        Refusal("negative eps", "eps must be positive", _add_shapes(4, 64), scalars={"eps": -1e-6}),
    ),
)

ROPE = KernelSpec(
    name="rope",
    title="RoPE",
    file="nki_attention_kernels.py",
    function="nki_rope_kernel",
    description="Rotary position embedding of query and key heads",
    tile_size="TILE_S=128",
    reference=reference.rope,
    fill=samples.rope,
    cases=(
        Case("decode, 32 heads", "true", _rope_shapes(1, 32, 128)),
        Case("decode, 4 heads", "true", _rope_shapes(1, 4, 128)),
        Case("decode, one head", "true", _rope_shapes(1, 1, 128)),
        Case("prefill, 512 tokens, 8 heads", "true", _rope_shapes(512, 8, 128)),
        Case(
            "192 tokens, float32 tables", "true", _rope_shapes(192, 8, 128), float32=("cos", "sin")
        ),
        Case("20 tokens, 32 heads", "ragged", _rope_shapes(20, 32, 128)),
        Case("300 tokens, 4 heads", "ragged", _rope_shapes(300, 4, 128)),
        Case("3 tokens, 5 heads of 6", "ragged", _rope_shapes(3, 5, 6)),
        Case("longest row", "ragged", _rope_shapes(130, 48, 128)),
        Case("tiny decode", "model", _rope_shapes(1, 4, 16)),
        Case("tiny prefill", "model", _rope_shapes(24, 2, 16)),
        Case("tiny prefill, heads of 32", "model", _rope_shapes(200, 4, 32)),
    ),
    tolerances={
        "float32": Tolerance(rtol=2.0**-23, atol=2.0**-22, why=_ORDER_FIXED),
        "bfloat16": Tolerance(rtol=2.0**-7, atol=2.0**-7, why=_ORDER_FIXED),
    },
    refusals=(
        Refusal("odd head_dim", "head_dim must be even", _rope_shapes(4, 2, 15)),
        Refusal(
            "x of rank 2",
            "x must have 3 dimensions",
            {"x": (4, 64), "cos": (4, 64), "sin": (4, 64)},
        ),
        Refusal(
            "tables of fewer tokens",
            "cos must have shape (4, 16)",
            {"x": (4, 2, 16), "cos": (3, 16), "sin": (3, 16)},
        ),
        Refusal(
            "tables of half the width",
            "cos must have shape (4, 16)",
            {"x": (4, 2, 16), "cos": (4, 8), "sin": (4, 8)},
        ),
        Refusal(
            "sin of another dtype",
            "sin must be float32",
            _rope_shapes(4, 2, 16),
            dtypes={"sin": "bfloat16"},
        ),
        Refusal(
            "bfloat16 tables for float32",
            "cos must be float32 or the dtype of x",
            _rope_shapes(4, 2, 16),
            dtypes={"cos": "bfloat16", "sin": "bfloat16"},
        ),
        Refusal("too many heads", "at most 6144 elements", _rope_shapes(2, 64, 128)),
    ),
)

ROUTER_SOFTMAX = KernelSpec(
    name="router_softmax",
    title="Expert Router Softmax",
    file="nki_moe_kernels.py",
    function="nki_router_softmax_kernel",
    description="Routing probabilities over all experts, in float32",
    tile_size="TILE_M=128",
    reference=reference.router_softmax,
    fill=samples.router,
    cases=(
        Case("decode, 128 experts", "true", {"logits": (1, 128)}),
        Case("prefill, 512 tokens", "true", {"logits": (512, 128)}),
        Case("20 tokens", "ragged", {"logits": (20, 128)}),
        Case("192 tokens", "ragged", {"logits": (192, 128)}),
        Case("300 tokens", "ragged", {"logits": (300, 128)}),
        Case("most experts", "ragged", {"logits": (3, 6144)}),
        Case("tiny decode", "model", {"logits": (1, 16)}),
        Case("tiny prefill", "model", {"logits": (200, 16)}),
    ),
    tolerances={
        "float32": Tolerance(
            rtol=1e-5,
            atol=1e-8,
            why="x - max is exact to 2^-24 of its size, at most 19 where the result exceeds atol: "
            "1.1e-6 in the exponential; the sum and 1 / sum add a few 2^-24",
        ),
        "bfloat16": Tolerance(
            rtol=1e-5,
            atol=1e-8,
            why="bfloat16 logits are exact in fp32 and the result is float32: as for float32",
        ),
    },
    refusals=(
        Refusal("logits of rank 3", "logits must have 2 dimensions", {"logits": (1, 4, 128)}),
        Refusal(
            "float16",
            "must be float32 or bfloat16",
            {"logits": (4, 128)},
            dtypes={"logits": "float16"},
        ),
        Refusal("too many experts", "at most 6144 elements", {"logits": (2, 8192)}),
    ),
)

TOP8 = KernelSpec(
    name="top8",
    title="Top-8 Expert Selection",
    file="nki_moe_kernels.py",
    function="nki_top8_kernel",
    description="The 8 most probable experts per token and their renormalised weights",
    tile_size="TILE_M=128",
    reference=reference.top8,
    fill=samples.top8,
    cases=(
        Case("decode, 128 experts", "true", {"probabilities": (1, 128)}),
        Case("prefill, 512 tokens", "true", {"probabilities": (512, 128)}),
        Case("20 tokens", "ragged", {"probabilities": (20, 128)}),
        Case("192 tokens", "ragged", {"probabilities": (192, 128)}),
        Case("300 tokens", "ragged", {"probabilities": (300, 128)}),
        Case("8 experts", "ragged", {"probabilities": (130, 8)}),
        Case("most experts", "ragged", {"probabilities": (3, 6144)}),
        Case("tiny decode", "model", {"probabilities": (1, 16)}),
        Case("tiny prefill", "model", {"probabilities": (200, 16)}),
    ),
    tolerances={
        "float32": Tolerance(
            rtol=1e-6,
            atol=1e-8,
            why="a sum of 8 terms, a reciprocal and a product: at most 10 * 2^-24. Indices, being "
            "integers, are compared exactly",
        ),
    },
    refusals=(
        Refusal("7 experts", "at least 8 experts", {"probabilities": (4, 7)}),
        Refusal(
            "bfloat16",
            "probabilities must be float32",
            {"probabilities": (4, 16)},
            dtypes={"probabilities": "bfloat16"},
        ),
        Refusal("probabilities of rank 1", "must have 2 dimensions", {"probabilities": (16,)}),
        Refusal("too many experts", "at most 6144 elements", {"probabilities": (2, 8192)}),
    ),
)

EXPERT_AGGREGATION = KernelSpec(
    name="expert_aggregation",
    title="Expert Aggregation",
    file="nki_moe_kernels.py",
    function="nki_expert_aggregation_kernel",
    description="Weighted sum of the chosen experts' outputs, fp32 in rank order",
    tile_size="TILE_M=128, TILE_N<=2048",
    reference=reference.expert_aggregation,
    fill=samples.aggregation,
    cases=(
        _aggregation_case("decode", "true", 1, 2048),
        _aggregation_case("prefill, 192 tokens", "true", 192, 2048),
        _aggregation_case("20 tokens", "ragged", 20, 2048),
        _aggregation_case("rows wider than a block", "ragged", 3, 2 * 2048 * 32 + 64),
        _aggregation_case("300 rows of odd length", "ragged", 300, 77),
        _aggregation_case("tiny decode", "model", 1, 64),
        _aggregation_case("tiny prefill", "model", 24, 64),
        _aggregation_case("tiny, 512 tokens", "model", 512, 64),
    ),
    tolerances={
        "float32": Tolerance(rtol=2.0**-23, atol=2.0**-21, why=_ORDER_FIXED),
        "bfloat16": Tolerance(rtol=2.0**-7, atol=2.0**-21, why=_ONE_ROUNDING_BF16),
    },
    refusals=(
        Refusal(
            "4 experts",
            "must hold 8 experts per token",
            {"expert_outputs": (4, 4, 64), "weights": (4, 4)},
        ),
        Refusal(
            "weights of other tokens",
            "weights must have shape (4, 8)",
            {"expert_outputs": (4, 8, 64), "weights": (3, 8)},
        ),
        Refusal(
            "bfloat16 weights",
            "weights must be float32",
            _aggregation_shapes(4, 64),
            dtypes={"weights": "bfloat16"},
        ),
        Refusal(
            "outputs of rank 2",
            "expert_outputs must have 3 dimensions",
            {"expert_outputs": (8, 64), "weights": (1, 8)},
        ),
    ),
)

ROW_KERNELS = (
    RMSNORM,
    SILU,
    SOFTMAX,
    ADD_RMSNORM,
    ROPE,
    ROUTER_SOFTMAX,
    TOP8,
    EXPERT_AGGREGATION,
)
