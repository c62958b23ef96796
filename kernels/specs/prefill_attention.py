"""Kernels of a prompt's attention block: QKV projection, causal attention, output projection."""

from __future__ import annotations

from dataclasses import replace

from kernels import decoder_reference as reference
from kernels import samples_prefill as samples
from kernels.samples import Shapes
from kernels.specs.base import EPS, Case, KernelSpec, Kind, Refusal, Scalars, Tolerance

FUSED = {"rounding": "fused"}
STEPWISE = {"rounding": "stepwise"}


def _qkv_shapes(tokens: int, hidden: int, heads: int, kv_heads: int, head_dim: int) -> Shapes:
    columns = 128 if hidden % 128 == 0 else hidden
    outputs = (heads + 2 * kv_heads) * head_dim
    return {
        "x": (tokens, hidden),
        "residual": (tokens, hidden),
        "norm_weight": (hidden,),
        "w_qkv": (columns, hidden // columns, outputs),
        "q_norm": (head_dim,),
        "k_norm": (head_dim,),
        "cos": (tokens, head_dim),
        "sin": (tokens, head_dim),
    }


def _qkv_case(
    label: str,
    kind: Kind,
    tokens: int,
    kv_heads: int = 1,
    rounding: str = "fused",
    cores: tuple[int, ...] = (1,),
) -> Case:
    """Of Qwen3-30B-A3B, or of the tiny checkpoint for kind "model"; 4 ranks have 1 kv head each."""
    shapes = (
        _qkv_shapes(tokens, 64, 2 * kv_heads, kv_heads, 16)
        if kind == "model"
        else _qkv_shapes(tokens, 2048, 8 * kv_heads, kv_heads, 128)
    )
    scalars: Scalars = {"kv_heads": kv_heads, "rounding": rounding}
    return Case(label, kind, shapes, scalars=scalars, cores=cores)


def _first_layer(case: Case) -> Case:
    """Without a residual."""
    shapes = {name: shape for name, shape in case.shapes.items() if name != "residual"}
    return replace(case, shapes=shapes, scalars={**case.scalars, "residual": None})


def _undivided(label: str, tokens: int, heads: int, kv_heads: int) -> Case:
    """An odd number of tokens on two cores, with heads that do not divide among them."""
    shapes = _qkv_shapes(tokens, 64, heads, kv_heads, 16)
    return Case(label, "ragged", shapes, scalars={"kv_heads": kv_heads, **FUSED}, cores=(1, 2))


def _qkv_refusal(
    label: str,
    message: str,
    shapes: dict[str, tuple[int, ...]] | None = None,
    dtypes: dict[str, str] | None = None,
    scalars: dict[str, float | str] | None = None,
    tokens: int = 4,
) -> Refusal:
    usual: Scalars = {"eps": EPS, "kv_heads": 1, "rounding": "fused"}
    return Refusal(
        label,
        message,
        {**_qkv_shapes(tokens, 64, 2, 1, 16), **(shapes or {})},
        dtypes or {},
        {**usual, **(scalars or {})},
    )


_QKV_WHY_F32 = (
    "the projection's sum of up to 2048 products has about sqrt(2048) * 2^-24 = 3e-6 of relative "
    "error in an order that the hardware chooses, the sums of squares as much, halved by rsqrt; "
    "where RoPE cancels, the error is that of its terms, of size 5"
)
_QKV_WHY_BF16 = (
    "1 ulp <= 2^-7 for the last rounding. A last-bit difference in fp32 can flip a rounding before "
    "it: of an operand (fused), or of the projection, of a norm or of RoPE's terms, of size up to "
    "8, where they cancel (stepwise)"
)

QKV_PREFILL = KernelSpec(
    name="qkv_prefill",
    title="QKV (prefill)",
    file="nki_prefill_projection_kernels.py",
    function="nki_qkv_prefill_kernel",
    description="Residual addition, RMSNorm, QKV projection, head norms and RoPE of a prompt",
    tile_size="TILE_S=128, TILE_N<=512",
    reference=reference.qkv_prefill,
    fill=samples.qkv,
    scalars={"eps": EPS},
    cases=(
        _qkv_case("128 tokens", "true", 128, cores=(1, 2)),
        _qkv_case("tiny, 24 tokens", "model", 24, kv_heads=4, cores=(1, 2)),
        _qkv_case("tiny, 300 tokens, stepwise", "model", 300, 4, "stepwise", (1, 2)),
        _first_layer(_qkv_case("tiny, 4 ranks, 128 tokens", "model", 128, cores=(1, 2))),
        _first_layer(_qkv_case("tiny, 4 ranks, stepwise", "model", 130, 1, "stepwise", (1, 2))),
        replace(
            _qkv_case("tiny, float32 tables", "model", 24, kv_heads=4), float32=("cos", "sin")
        ),
        _qkv_case("128 tokens, stepwise", "true", 128, rounding="stepwise", cores=(2,)),
        _first_layer(_qkv_case("256 tokens, first layer", "true", 256, cores=(2,))),
        _qkv_case("640 tokens", "true", 640, cores=(2,)),
        _qkv_case("200 tokens, 2 ranks", "ragged", 200, kv_heads=2, cores=(2,)),
        _qkv_case("20 tokens, 1 rank", "ragged", 20, kv_heads=4, cores=(1, 2)),
        _qkv_case("1 token", "ragged", 1, cores=(1, 2)),
        _undivided("257 tokens, 3 heads", 257, 3, 1),
        _qkv_case("129 tokens", "ragged", 129, cores=(2,)),
        _undivided("3 tokens, 6 heads for 3", 3, 6, 3),
    ),
    tolerances={
        "float32": Tolerance(rtol=1e-5, atol=2e-5, why=_QKV_WHY_F32),
        "bfloat16": Tolerance(rtol=2.0**-7, atol=2.0**-5, why=_QKV_WHY_BF16),
    },
    refusals=(
        _qkv_refusal("x of rank 1", "x must have 2 dimensions", {"x": (64,)}),
        _qkv_refusal("weight of another layer", "w_qkv must be packed", {"w_qkv": (32, 1, 64)}),
        _qkv_refusal("weight not packed", "w_qkv must have 3 dimensions", {"w_qkv": (64, 64)}),
        _qkv_refusal("odd head_dim", "even head_dim", {"q_norm": (15,), "k_norm": (15,)}),
        _qkv_refusal("no query heads", "multiple of kv_heads", scalars={"kv_heads": 2}),
        _qkv_refusal("tables of fewer tokens", "cos must have shape (4, 16)", {"cos": (3, 16)}),
        _qkv_refusal("residual of other tokens", "residual must have shape", {"residual": (3, 64)}),
        _qkv_refusal("bfloat16 tables", "cos must have the dtype of x", dtypes={"cos": "bfloat16"}),
        _qkv_refusal("too many tokens", "at most 2560 tokens", {
            "x": (2561, 1024), "residual": (2561, 1024), "norm_weight": (1024,),
            "w_qkv": (128, 8, 64), "cos": (2561, 16), "sin": (2561, 16),
        }),
        _qkv_refusal("rows too long", "at most 8192 B", {
            "x": (4, 2176), "residual": (4, 2176), "norm_weight": (2176,), "w_qkv": (128, 17, 64),
        }),
        _qkv_refusal("eps of zero", "eps must be positive", scalars={"eps": 0.0}),
        _qkv_refusal("another rounding", "'fused' or 'stepwise'", scalars={"rounding": "none"}),
    ),
)  # fmt: skip


def _attention_shapes(tokens: int, heads: int, kv_heads: int, head_dim: int) -> Shapes:
    return {
        "q": (heads, head_dim, tokens),
        "k": (kv_heads, head_dim, tokens),
        "v": (kv_heads, tokens, head_dim),
    }


def _attention_case(
    label: str,
    kind: Kind,
    tokens: int,
    kv_heads: int = 1,
    rounding: str = "fused",
    cores: tuple[int, ...] = (1,),
) -> Case:
    shapes = (
        _attention_shapes(tokens, 2 * kv_heads, kv_heads, 16)
        if kind == "model"
        else _attention_shapes(tokens, 8 * kv_heads, kv_heads, 128)
    )
    return Case(label, kind, shapes, scalars={"rounding": rounding}, cores=cores)


ATTENTION_PREFILL = KernelSpec(
    name="attention_prefill",
    title="Attention (prefill)",
    file="nki_prefill_attention_kernels.py",
    function="nki_attention_prefill_kernel",
    description="Blockwise causal grouped-query attention of a prompt, with online softmax",
    tile_size="TILE_Q=128, TILE_K<=512",
    reference=reference.attention_prefill,
    fill=samples.attention,
    cases=(
        _attention_case("128 tokens", "true", 128, cores=(1, 2)),
        _attention_case("tiny, 24 tokens", "model", 24, kv_heads=4, cores=(1, 2)),
        _attention_case("tiny, 700 tokens, 4 ranks", "model", 700, cores=(1, 2)),
        _attention_case("tiny, 700 tokens, stepwise", "model", 700, 4, "stepwise", (1, 2)),
        _attention_case("256 tokens, stepwise", "true", 256, rounding="stepwise", cores=(2,)),
        _attention_case("640 tokens", "true", 640, cores=(2,)),
        _attention_case("640 tokens, stepwise", "true", 640, rounding="stepwise", cores=(2,)),
        _attention_case("200 tokens, 2 ranks", "ragged", 200, kv_heads=2, cores=(1, 2)),
        _attention_case("20 tokens, 1 rank", "ragged", 20, kv_heads=4, cores=(1, 2)),
        _attention_case("1 token", "ragged", 1, cores=(1, 2)),
        _attention_case("129 tokens, stepwise", "ragged", 129, rounding="stepwise"),
    ),
    tolerances={
        "float32": Tolerance(
            rtol=1e-5,
            atol=2e-5,
            why="a score of up to 15 is a sum of 128 products, of size 170 before it is scaled: it "
            "has up to 15 * sqrt(128) * 2^-24 = 1e-5 of error, which the exponential makes one of "
            "its share; shares are of values up to 5, but errors of a row's keys do not add up",
        ),
        "bfloat16": Tolerance(
            rtol=2.0**-7,
            atol=2.0**-5,
            why="fused: each share has an error of up to 2^-9, and values up to 5 are averaged "
            "with them: 2^-7, and the result's rounding. stepwise: a score of size 8 to 16 whose "
            "rounding flips changes its share by 2^-4 of itself; beside others that is below 2^-5",
        ),
    },
    refusals=(
        Refusal("q of rank 2", "q must have 3 dimensions",
                {**_attention_shapes(4, 2, 1, 16), "q": (16, 4)}, scalars=FUSED),
        Refusal("keys of other tokens", "k must have shape (1, 16, 4)",
                {**_attention_shapes(4, 2, 1, 16), "k": (1, 16, 5)}, scalars=FUSED),
        Refusal("values laid out as keys", "v must have shape (1, 4, 16)",
                {**_attention_shapes(4, 2, 1, 16), "v": (1, 16, 4)}, scalars=FUSED),
        Refusal("values of another dtype", "v must be float32", _attention_shapes(4, 2, 1, 16),
                {"v": "bfloat16"}, FUSED),
        Refusal("3 heads for 2", "multiple of kv heads", _attention_shapes(4, 3, 2, 16),
                scalars=FUSED),
        Refusal("head_dim too large", "at most 128", _attention_shapes(4, 2, 1, 256),
                scalars=FUSED),
        Refusal("too many tokens", "at most 10240 tokens", _attention_shapes(10241, 2, 1, 2),
                scalars=FUSED),
        Refusal("another rounding", "'fused' or 'stepwise'", _attention_shapes(4, 2, 1, 16),
                scalars={"rounding": "half"}),
    ),
)  # fmt: skip


def _output_case(
    label: str, kind: Kind, tokens: int, ranks: int = 4, cores: tuple[int, ...] = (1,)
) -> Case:
    heads, head_dim, hidden = (8, 16, 64) if kind == "model" else (32, 128, 2048)
    heads //= ranks
    shapes = {"attended": (heads, head_dim, tokens), "w_o": (head_dim, heads, hidden)}
    return Case(label, kind, shapes, cores=cores)


OUTPUT_PROJECTION_PREFILL = KernelSpec(
    name="output_projection_prefill",
    title="Output projection (prefill)",
    file="nki_prefill_projection_kernels.py",
    function="nki_output_projection_prefill_kernel",
    description="Output projection of a prompt's attended heads, this rank's part of the sum",
    tile_size="TILE_S=128, TILE_N<=512",
    reference=reference.output_projection_prefill,
    fill=samples.output_projection,
    cases=(
        _output_case("128 tokens", "true", 128, cores=(1, 2)),
        Case("odd sizes", "ragged", {"attended": (3, 10, 131), "w_o": (10, 3, 77)}, cores=(1, 2)),
        _output_case("tiny, 24 tokens", "model", 24, ranks=1, cores=(1, 2)),
        _output_case("tiny, 4 ranks, 300 tokens", "model", 300, cores=(1, 2)),
        _output_case("640 tokens", "true", 640, cores=(2,)),
        _output_case("200 tokens, 2 ranks", "ragged", 200, ranks=2, cores=(2,)),
        _output_case("20 tokens, 1 rank", "ragged", 20, ranks=1, cores=(1, 2)),
        _output_case("1 token", "ragged", 1, cores=(1, 2)),
    ),
    tolerances={
        "float32": Tolerance(
            rtol=1e-5,
            atol=5e-6,
            why="a sum of up to 4096 products of size 2^-6 has about 64 * 2^-24 = 4e-6 of error "
            "in an order that the hardware chooses",
        ),
        "bfloat16": Tolerance(
            rtol=2.0**-7,
            atol=5e-6,
            why="one rounding (1 ulp <= 2^-7) of an fp32 sum, which can flip on its last bits",
        ),
    },
    refusals=(
        Refusal("attended of rank 2", "attended must have 3 dimensions",
                {"attended": (16, 4), "w_o": (16, 2, 64)}),
        Refusal("weight of other heads", "w_o must have shape (16, 2, 64)",
                {"attended": (2, 16, 4), "w_o": (16, 4, 64)}),
        Refusal("weight of another dtype", "w_o must be float32",
                {"attended": (2, 16, 4), "w_o": (16, 2, 64)}, {"w_o": "bfloat16"}),
        Refusal("head_dim too large", "at most 128", {"attended": (2, 256, 4),
                "w_o": (256, 2, 64)}),
        Refusal("too many tokens", "at most 10240 tokens", {"attended": (2, 2, 10241),
                "w_o": (2, 2, 64)}),
    ),
)  # fmt: skip

PREFILL_ATTENTION_KERNELS = (QKV_PREFILL, ATTENTION_PREFILL, OUTPUT_PROJECTION_PREFILL)
