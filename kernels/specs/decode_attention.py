"""Kernels of the attention block in decode: QKV, attention over the cache, output projection."""

from __future__ import annotations

from kernels import decoder_reference as reference
from kernels import samples, samples_decode
from kernels.layouts import partitions
from kernels.specs.base import EPS, Case, KernelSpec, Refusal, Scalars, Tolerance

BOTH = (1, 2)
STEPWISE: Scalars = {"rounding": "stepwise"}
HEAD_DIM = 128


def columns(size: int) -> tuple[int, int]:
    """(P, J) of a vector of `size` elements."""
    count = partitions(size)
    return count, size // count


def _qkv(
    tokens: int, hidden: int, heads: int, kv_heads: int, head_dim: int, residual: bool = True
) -> samples.Shapes:
    table = (tokens, head_dim)
    rows = {"x": (tokens, hidden)} | ({"residual": (tokens, hidden)} if residual else {})
    return rows | {
        "norm_weight": columns(hidden),
        "w_qkv": (*columns(hidden), (heads + 2 * kv_heads) * head_dim),
        "q_norm": (head_dim,),
        "k_norm": (head_dim,),
        "cos": table,
        "sin": table,
    }


def _kv(count: int, other: Scalars | None = None) -> Scalars:
    return {"kv_heads": count, "rounding": "fused", **(other or {})}


ALONE: Scalars = {"residual": None}
_QKV_REFUSED: Scalars = {"eps": EPS, **_kv(1)}

QKV_DECODE = KernelSpec(
    name="qkv_decode",
    title="QKV (decode)",
    file="nki_decode_qkv_kernels.py",
    function="nki_qkv_decode_kernel",
    description="Norm, projection to queries, keys and values, their norms and RoPE, few tokens",
    tile_size="TILE_K=128, TILE_M=128, TILE_N=T",
    reference=reference.qkv_decode,
    fill=samples_decode.qkv,
    scalars={"eps": EPS},
    cases=(
        Case("one token", "true", _qkv(1, 2048, 8, 1, HEAD_DIM), scalars=_kv(1), cores=BOTH),
        Case(
            "one token, stepwise",
            "true",
            _qkv(1, 2048, 8, 1, HEAD_DIM),
            scalars=_kv(1, STEPWISE),
            cores=BOTH,
        ),
        Case(
            "8 tokens, float32 tables",
            "true",
            _qkv(8, 2048, 8, 1, HEAD_DIM),
            float32=("cos", "sin"),
            scalars=_kv(1),
            cores=BOTH,
        ),
        Case(
            "first layer, no residual",
            "true",
            _qkv(1, 2048, 8, 1, HEAD_DIM, residual=False),
            scalars=_kv(1, ALONE),
            cores=BOTH,
        ),
        Case("TP 2", "true", _qkv(1, 2048, 16, 2, HEAD_DIM), scalars=_kv(2), cores=BOTH),
        Case("TP 1", "true", _qkv(1, 2048, 32, 4, HEAD_DIM), scalars=_kv(4), cores=BOTH),
        Case("5 tokens", "ragged", _qkv(5, 384, 4, 2, 32), scalars=_kv(2, STEPWISE), cores=BOTH),
        Case("96 partitions", "ragged", _qkv(3, 192, 6, 1, 96), scalars=_kv(1), cores=BOTH),
        Case("tiny", "model", _qkv(1, 64, 8, 4, 16), scalars=_kv(4), cores=BOTH),
        Case("tiny, TP 2", "model", _qkv(1, 64, 4, 2, 16), scalars=_kv(2), cores=BOTH),
        Case("tiny, TP 4", "model", _qkv(3, 64, 2, 1, 16), scalars=_kv(1, STEPWISE), cores=BOTH),
    ),
    tolerances={
        "float32": Tolerance(
            rtol=1e-5,
            atol=1e-5,
            why="sums of 2048 products in the hardware's order are off by about sqrt(2048) * 2^-24 "
            "= 3e-6 of their deviation, 1; RoPE adds two of them, which may cancel",
        ),
        "bfloat16": Tolerance(
            rtol=2.0**-6,
            atol=2.0**-7,
            why="a last-bit difference in fp32 flips one rounding (2^-8 of the value) of each of "
            "some operations in a row; RoPE adds two terms of size 1 to 4, which may cancel",
        ),
    },
    refusals=(
        Refusal(
            "x of rank 3",
            "x must have 2 dimensions",
            {**_qkv(2, 64, 2, 1, 16), "x": (1, 2, 64)},
            scalars=_QKV_REFUSED,
        ),
        Refusal(
            "norm weight as a vector",
            "norm_weight must have 2 dimensions",
            {**_qkv(2, 64, 2, 1, 16), "norm_weight": (64,)},
            scalars=_QKV_REFUSED,
        ),
        Refusal(
            "weight in the checkpoint's layout",
            "w_qkv must have 3 dimensions",
            {**_qkv(2, 64, 2, 1, 16), "w_qkv": (64, 64)},
            scalars=_QKV_REFUSED,
        ),
        Refusal(
            "tables of another dtype",
            "sin must be float32",
            _qkv(2, 64, 2, 1, 16),
            dtypes={"sin": "bfloat16"},
            scalars=_QKV_REFUSED,
        ),
        Refusal(
            "as many key heads as outputs",
            "check kv_heads",
            _qkv(2, 64, 2, 1, 16),
            scalars={**_QKV_REFUSED, "kv_heads": 2},
        ),
        Refusal(
            "heads that form no groups",
            "multiple of key heads",
            _qkv(2, 64, 3, 2, 16),
            scalars={**_QKV_REFUSED, "kv_heads": 2},
        ),
        Refusal(
            "an odd head",
            "head_dim must be at most 128 and even",
            _qkv(2, 64, 2, 1, 15),
            scalars=_QKV_REFUSED,
        ),
        Refusal(
            "too many tokens",
            "too many columns",
            _qkv(64, 2048, 2, 1, 16),
            scalars=_QKV_REFUSED,
        ),
        Refusal(
            "eps of zero",
            "eps must be a positive",
            _qkv(2, 64, 2, 1, 16),
            scalars={**_QKV_REFUSED, "eps": 0.0},
        ),
        Refusal(
            "another rounding",
            "'fused' or 'stepwise'",
            _qkv(2, 64, 2, 1, 16),
            scalars={**_QKV_REFUSED, "rounding": "exact"},
        ),
    ),
)


def _attention(
    tokens: int, heads: int, kv_heads: int, head_dim: int, capacity: int
) -> samples.Shapes:
    return {
        "q": (head_dim, heads, tokens),
        "k": (head_dim, kv_heads, tokens),
        "v": (tokens, kv_heads, head_dim),
        "k_cache": (kv_heads, head_dim, capacity),
        "v_cache": (kv_heads, capacity, head_dim),
        "position": (1, 1),
    }


_FUSED: Scalars = {"rounding": "fused", "update_cache": True}
_INT32 = {"position": "int32"}

ATTENTION_DECODE = KernelSpec(
    name="attention_decode",
    title="Attention (decode)",
    file="nki_decode_attention_kernels.py",
    function="nki_attention_decode_kernel",
    description="Grouped-query attention of few tokens over the cache, and the cache's update",
    tile_size="TILE_S=128, TILE_N=group x T",
    reference=reference.attention_decode,
    fill=samples_decode.attention,
    scalars=_FUSED,
    updates={"k_cache": 1, "v_cache": 2},
    cases=(
        Case("640 positions", "true", _attention(1, 8, 1, HEAD_DIM, 640), cores=BOTH),
        Case(
            "640 positions, stepwise",
            "true",
            _attention(1, 8, 1, HEAD_DIM, 640),
            scalars=STEPWISE,
            cores=BOTH,
        ),
        Case(
            "first position",
            "true",
            _attention(1, 8, 1, HEAD_DIM, 128),
            values={"position": 0},
            cores=BOTH,
        ),
        Case(
            "second position, stepwise",
            "true",
            _attention(1, 8, 1, HEAD_DIM, 256),
            values={"position": 1},
            scalars=STEPWISE,
            cores=BOTH,
        ),
        Case(
            "last position",
            "true",
            _attention(1, 8, 1, HEAD_DIM, 640),
            values={"position": 639},
            cores=BOTH,
        ),
        Case("8 tokens", "true", _attention(8, 8, 1, HEAD_DIM, 640), cores=BOTH),
        Case(
            "8 tokens from the first",
            "true",
            _attention(8, 8, 1, HEAD_DIM, 256),
            values={"position": 0},
            scalars=STEPWISE,
            cores=BOTH,
        ),
        Case(
            "8 tokens to the last",
            "true",
            _attention(8, 8, 1, HEAD_DIM, 640),
            values={"position": 632},
            cores=BOTH,
        ),
        Case(
            "cache left to the caller",
            "true",
            _attention(2, 8, 1, HEAD_DIM, 256),
            scalars={"update_cache": False},
            cores=BOTH,
        ),
        Case("TP 2", "true", _attention(1, 16, 2, HEAD_DIM, 640), cores=BOTH),
        Case("TP 1", "true", _attention(2, 32, 4, HEAD_DIM, 256), cores=BOTH),
        Case("200 positions", "ragged", _attention(5, 4, 2, 32, 200), cores=BOTH),
        Case("96 per head", "ragged", _attention(3, 6, 1, 96, 96), scalars=STEPWISE, cores=BOTH),
        Case("tiny", "model", _attention(1, 8, 4, 16, 48), cores=BOTH),
        Case("tiny, TP 2", "model", _attention(1, 4, 2, 16, 48), scalars=STEPWISE, cores=BOTH),
        Case(
            "tiny, TP 4", "model", _attention(3, 2, 1, 16, 24), values={"position": 5}, cores=BOTH
        ),
    ),
    tolerances={
        "float32": Tolerance(
            rtol=1e-5,
            atol=6e-5,
            why="sums of 128 products behind scores around 45 run up to 509, so scores are off by "
            "some 509 * 2^-24 / sqrt(128) = 3e-6 per rounding, up to 5e-5 in all; exponentials "
            "inherit that, as shares of values of size 1",
        ),
        "bfloat16": Tolerance(
            rtol=2.0**-7,
            atol=2.0**-7,
            why="exponentials are operands of bfloat16 (2^-9 each), shares too if stepwise, where "
            "a score whose rounding flips moves its share by 2^-7; the result rounds once",
        ),
    },
    refusals=(
        Refusal(
            "q of rank 2",
            "q must have 3 dimensions",
            {**_attention(1, 2, 1, 16, 32), "q": (16, 2)},
            dtypes=_INT32,
            scalars=_FUSED,
        ),
        Refusal(
            "keys not transposed",
            "the cache keeps keys transposed",
            {**_attention(1, 2, 1, 16, 32), "k_cache": (1, 32, 16)},
            dtypes=_INT32,
            scalars=_FUSED,
        ),
        Refusal(
            "values transposed",
            "v_cache must have shape (1, 32, 16)",
            {**_attention(1, 2, 1, 16, 32), "v_cache": (1, 16, 32)},
            dtypes=_INT32,
            scalars=_FUSED,
        ),
        Refusal(
            "a cache of another dtype",
            "k_cache must be float32",
            _attention(1, 2, 1, 16, 32),
            dtypes={"position": "int32", "k_cache": "bfloat16"},
            scalars=_FUSED,
        ),
        Refusal(
            "position of another dtype",
            "position must be int32",
            _attention(1, 2, 1, 16, 32),
            scalars=_FUSED,
        ),
        Refusal(
            "a prime capacity",
            "spread evenly over partitions",
            _attention(2, 2, 1, 16, 131),
            dtypes=_INT32,
            scalars=_FUSED,
        ),
        Refusal(
            "too many queries",
            "queries share a key head",
            _attention(8, 32, 1, 16, 128),
            dtypes=_INT32,
            scalars=_FUSED,
        ),
        Refusal(
            "heads that form no groups",
            "multiple of key heads",
            _attention(1, 3, 2, 16, 32),
            dtypes=_INT32,
            scalars=_FUSED,
        ),
    ),
)


def _output(tokens: int, heads: int, head_dim: int, hidden: int) -> samples.Shapes:
    return {"attended": (head_dim, heads, tokens), "w_o": (head_dim, heads, hidden)}


OUTPUT_PROJECTION_DECODE = KernelSpec(
    name="output_projection_decode",
    title="Output projection (decode)",
    file="nki_decode_attention_kernels.py",
    function="nki_output_projection_decode_kernel",
    description="Projection of the attended heads of few tokens to the hidden size",
    tile_size="TILE_K=128, TILE_M=128, TILE_N=T",
    reference=reference.output_projection_decode,
    fill=samples_decode.output_projection,
    cases=(
        Case("one token", "true", _output(1, 8, HEAD_DIM, 2048), cores=BOTH),
        Case("8 tokens", "true", _output(8, 8, HEAD_DIM, 2048), cores=BOTH),
        Case("TP 2", "true", _output(1, 16, HEAD_DIM, 2048), cores=BOTH),
        Case("TP 1", "true", _output(2, 32, HEAD_DIM, 2048), cores=BOTH),
        Case("5 tokens", "ragged", _output(5, 6, 32, 192), cores=BOTH),
        Case("tiny", "model", _output(1, 8, 16, 64), cores=BOTH),
        Case("tiny, TP 4", "model", _output(3, 2, 16, 64), cores=BOTH),
    ),
    tolerances={
        "float32": Tolerance(
            rtol=1e-5,
            atol=1e-5,
            why="sums of up to 4096 products of deviation 1, in the hardware's order: about "
            "sqrt(4096) * 2^-24 = 4e-6",
        ),
        "bfloat16": Tolerance(
            rtol=2.0**-7,
            atol=1e-5,
            why="bfloat16 keeps 8 significant bits (1 ulp <= 2^-7), and the only rounding can flip "
            "on a difference of 1e-5 in fp32",
        ),
    },
    refusals=(
        Refusal(
            "heads as rows",
            "attended must have 3 dimensions",
            {**_output(2, 2, 16, 64), "attended": (2, 32)},
        ),
        Refusal(
            "weight of other heads",
            "w_o must have shape (16, 2, 64)",
            {**_output(2, 2, 16, 64), "w_o": (16, 4, 64)},
        ),
        Refusal(
            "weight of another dtype",
            "w_o must be float32",
            _output(2, 2, 16, 64),
            dtypes={"w_o": "bfloat16"},
        ),
        Refusal("too many tokens", "too many columns", _output(64, 2, 16, 2048)),
    ),
)

DECODE_ATTENTION_KERNELS = (QKV_DECODE, ATTENTION_DECODE, OUTPUT_PROJECTION_DECODE)
