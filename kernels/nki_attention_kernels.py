"""Kernels of the attention block: rotary position embedding."""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.nki_common import (
    PARTITIONS,
    check_dtype,
    check_float,
    check_rank,
    check_row_length,
    check_shape,
    spread,
)


def check_rope_arguments(kernel, x, cos, sin):
    """Refuse what the kernel does not rotate: ranks, an odd head_dim, foreign tables and dtypes."""
    check_rank(kernel, "x", x, ("tokens", "heads", "head_dim"))
    check_float(kernel, "x", x)
    tokens, heads, head_dim = x.shape
    assert head_dim % 2 == 0, (
        f"{kernel}: head_dim must be even, received {head_dim}; its halves are rotated as pairs"
    )
    check_row_length(kernel, heads * head_dim)
    check_shape(kernel, "cos", cos, (tokens, head_dim))
    check_shape(kernel, "sin", sin, (tokens, head_dim))
    assert cos.dtype == nl.float32 or cos.dtype == x.dtype, (
        f"{kernel}: cos must be float32 or the dtype of x ({x.dtype}), received {cos.dtype}; "
        f"cast it before the call"
    )
    check_dtype(kernel, "sin", sin, cos.dtype)


def load_table(table, first, tokens, split):
    """[tokens * split, D] tile: rows first..first+tokens of a [S, D] table, each `split` times."""
    width = table.shape[1]
    tile = nl.ndarray((tokens * split, width), dtype=table.dtype, buffer=nl.sbuf)
    pattern = [[width, tokens], [0, split], [1, width]]
    nisa.dma_copy(dst=tile, src=table.ap(pattern=pattern, offset=first * width))
    return tile


def head_columns(tile, heads, width, first, count):
    """[P, heads, count] view: `count` columns from `first` of every head of [P, heads * D]."""
    pattern = [[heads * width, tile.shape[0]], [width, heads], [1, count]]
    return tile.ap(pattern=pattern, offset=first)


def table_columns(tile, heads, first, count):
    """[P, heads, count] view: the same columns of a [P, D] table for every head (a step of 0)."""
    pattern = [[tile.shape[1], tile.shape[0]], [0, heads], [1, count]]
    return tile.ap(pattern=pattern, offset=first)


def load_signed_sin(sin, first, tokens, split):
    """As `load_table`, the first half of every row negated: what `rotate` multiplies with.

    rotate_half's sign is put where it costs D / 2 elements per token instead of heads * D / 2, and
    a sign never changes a rounding.
    """
    tile = load_table(sin, first, tokens, split)
    half = tile.shape[1] // 2
    nisa.tensor_scalar(dst=tile[:, 0:half], data=tile[:, 0:half], op0=nl.multiply, operand0=-1.0)
    return tile


def rotate(dst, tile, cos_tile, sin_tile, heads):
    """dst = tile * cos + rotate_half(tile) * sin, for `heads` heads per partition.

    sin_tile is that of `load_signed_sin`; dst may be `tile`. Both products have the wider of the
    dtypes of tile and tables.
    """
    lines, length = tile.shape
    width = length // heads
    half = width // 2
    inner = nl.float32 if tile.dtype == nl.float32 else cos_tile.dtype
    straight = nl.ndarray((lines, length), dtype=inner, buffer=nl.sbuf)
    nisa.tensor_tensor(
        dst=head_columns(straight, heads, width, 0, width),
        data1=head_columns(tile, heads, width, 0, width),
        data2=table_columns(cos_tile, heads, 0, width),
        op=nl.multiply,
    )
    crossed = nl.ndarray((lines, length), dtype=inner, buffer=nl.sbuf)
    for side in range(2):
        here = side * half
        nisa.tensor_tensor(
            dst=head_columns(crossed, heads, width, here, half),
            data1=head_columns(tile, heads, width, half - here, half),
            data2=table_columns(sin_tile, heads, here, half),
            op=nl.multiply,
        )
    nisa.tensor_tensor(dst=dst, data1=straight, data2=crossed, op=nl.add)


@nki.jit
def nki_rope_kernel(x, cos, sin):
    """Rotary position embedding of up to 6144 elements (heads x head_dim) per token.

    Math:        y[s, h, :] = x[s, h, :] * cos[s, :] + rotate_half(x[s, h, :]) * sin[s, :]
                 rotate_half(v) = (-v[D/2:], v[:D/2])
    Dimensions:  S tokens, heads, D head_dim (even), P = 128 partitions
    Args:        x    [S, heads, D]  float32 or bfloat16      HBM
                 cos  [S, D]         float32 or dtype of x    HBM
                 sin  [S, D]         dtype of cos             HBM
    Returns:     [S, heads, D]  dtype of x  shared HBM
    Tiling:      128 tokens per tile, one per partition with its heads along the free dimension, so
                 that cos and sin are loaded once for all heads. Fewer than 128 tokens: the heads of
                 a token are cut over 2^i partitions (one token with 32 heads: 32 partitions) and
                 its row of cos and sin is broadcast to them. The last tile holds the tokens left.
    Engine plan: DMA: three loads and one store per tile. VE: one negation of half of sin, then
                 x * cos, two half-wide crossed products with sin, one addition.
    Bound:       VE: 3 passes over S heads D / 128 elements; HBM: (2 S heads D + 2 S D) elements
    Numerics:    both products are rounded to the dtype of cos, their sum to the dtype of x. With
                 cos in the dtype of x that is transformers' apply_rotary_pos_emb, which casts cos
                 and sin to it; with float32 tables only the sum is rounded below fp32. No sum has
                 more than two terms: bit-exact against the oracle.
    Refuses:     other ranks, empty tensors, other dtypes, an odd D, tables of another shape or
                 dtype, heads x D > 6144
    """
    check_rope_arguments("nki_rope_kernel", x, cos, sin)
    tokens, heads, head_dim = x.shape
    split = spread(min(tokens, PARTITIONS), heads, 1)
    heads_per_line = heads // split
    length = heads_per_line * head_dim
    tokens_per_tile = PARTITIONS // split

    out = nl.ndarray((tokens, heads, head_dim), dtype=x.dtype, buffer=nl.shared_hbm)
    x_lines = x.reshape((tokens * split, length))
    out_lines = out.reshape((tokens * split, length))
    for first in range(0, tokens, tokens_per_tile):
        count = min(tokens_per_tile, tokens - first)
        start = first * split
        stop = start + count * split
        tile = nl.ndarray((count * split, length), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x_lines[start:stop, :])
        cos_tile = load_table(cos, first, count, split)
        sin_tile = load_signed_sin(sin, first, count, split)
        rotate(tile, tile, cos_tile, sin_tile, heads_per_line)
        nisa.dma_copy(dst=out_lines[start:stop, :], src=tile)
    return out
