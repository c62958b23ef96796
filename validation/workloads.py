"""What the model predicts for each program of a published point, in ns of kernel time.

A workload records its program on shapes and returns the number that was published: the time of the
whole kernel, with what the device adds to a program of its own where the source measured that, or
the time per instruction in a long chain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nki_sim
from nki_sim import dtypes
from nki_sim.latency import Prediction, Range, predict
from nki_sim.placeholders import Placeholder

from .programs import decode, matmul, single, vector

Workload = Callable[..., Range]
MANY = 2048
"""Instructions of a chain; half as many are subtracted, and with them what happens once."""
TRACED = 2, 4
"""Repetitions of a large kernel's loop that are traced; more of them take as much longer."""
TILE_ROWS, TILE_COLUMNS = 128, 512


def tensor(*shape: int, dtype: str = "float32") -> Placeholder:
    """An input without numbers."""
    return Placeholder(shape, dtypes.TABLE[dtype].numpy)


def predicted(platform: str, kernel: Any, *arguments: Any) -> Prediction:
    """The prediction for a launch on shapes."""
    with nki_sim.mode("shapes"), nki_sim.record() as recording:
        kernel(*arguments)
    return predict(recording.launches[0], platform)


def time_of(platform: str, kernel: Any, *arguments: Any) -> Range:
    """ns of a kernel."""
    return predicted(platform, kernel, *arguments).time_us * 1e3


def interval(platform: str, kernel: Any, count: int, *arguments: Any, last: bool = True) -> Range:
    """ns per instruction of a chain; `kernel` takes the length as its last argument, or first."""

    def at(length: int) -> Range:
        return time_of(platform, kernel, *((*arguments, length) if last else (length, *arguments)))

    half = count // 2
    return _difference(at(count), at(half), half)


def repeated(at: Callable[[int], Range], count: int) -> Range:
    """ns of `count` repetitions of what a loop repeats, from those of `TRACED` repetitions."""
    few, many = TRACED
    if count <= many:
        return at(count)
    short, long = at(few), at(many)
    return short + (long - short) * ((count - few) / (many - few))


def _difference(long: Range, short: Range, count: int) -> Range:
    return (long - short) * (1 / count)


# -- single instructions ---------------------------------------------------------------------------


def isolated_activation(platform: str, columns: int) -> Range:
    """One activation from its start to its result."""
    with nki_sim.mode("shapes"), nki_sim.record() as recording:
        single.activations(columns, 1)
    timing = predict(recording.launches[0], platform).timing
    latency = timing.end[-1] - timing.start[-1]
    return Range(timing.busy_end[-1] - timing.start[-1], latency, latency)


def activation_chain(platform: str) -> Range:
    """Between dependent activations of one element."""
    return interval(platform, single.activation_chain, MANY)


def eviction(platform: str, columns: int) -> Range:
    """Between copies from PSUM."""
    return interval(platform, single.evictions, 64, columns)


def addition(platform: str, columns: int, count: int) -> Range:
    """`count` sums, from the interval between them."""
    return interval(platform, single.additions, 1024, columns) * count


def matmul_interval(platform: str, rows: int, columns: int, dtype: str) -> Range:
    """Between products."""

    def at(count: int) -> Range:
        return time_of(platform, single.matmuls, rows, columns, count, dtype)

    return _difference(at(2 * MANY), at(MANY), MANY)


def gemv_interval(platform: str, pairs: int) -> Range:
    """Between products with one column, each with a stationary tile of its own."""
    tiles = 4
    short, long = pairs // 2 // tiles, pairs // tiles

    def at(times: int) -> Range:
        weights = tensor(128, 128 * tiles, dtype="bfloat16")
        return time_of(platform, matmul.vectors, weights, times)

    return _difference(at(long), at(short), (long - short) * tiles)


def load(platform: str, row_bytes: int) -> Range:
    """From the trigger of a load to the start of its consumer."""
    source = tensor(128, row_bytes // 4)
    with nki_sim.mode("shapes"), nki_sim.record() as recording:
        single.load(source)
    found = predict(recording.launches[0], platform)
    consumer = (found.timing.end[-1] - found.timing.start[-1]) / 1e3
    return (found.time_us + Range(-consumer, -consumer, -consumer)) * 1e3


def small_add(platform: str) -> Range:
    """The sum of two tensors of 4 x 3."""
    return time_of(
        platform, single.add, tensor(4, 3, dtype="float16"), tensor(4, 3, dtype="float16")
    )


# -- DMA -------------------------------------------------------------------------------------------


def relative_rate(platform: str, row_bytes: int) -> Range:
    """Bytes per ns of loads of 128 rows, over those of rows of 32 KiB (a fraction, no time)."""
    times = [
        interval(platform, lambda x, n: single.loads(x, n), 64, tensor(128, size // 4))
        for size in (row_bytes, 32768)
    ]
    rates = [row_bytes / times[0].nominal, 32768 / times[1].nominal]
    fastest = row_bytes / times[0].low / (32768 / times[1].low)
    slowest = row_bytes / times[0].high / (32768 / times[1].high)
    nominal = rates[0] / rates[1]
    return Range(min(fastest, slowest, nominal), nominal, max(fastest, slowest, nominal))


def gather_interval(platform: str) -> Range:
    """Between gathers of 128 rows of 512 bytes."""
    table = tensor(4096, 256, dtype="bfloat16")

    def at(count: int) -> Range:
        return time_of(platform, single.gathers, table, count)

    return _difference(at(128), at(64), 64)


# -- matrix products -------------------------------------------------------------------------------


def _factors(rows: int, depth: int, columns: int, dtype: str) -> tuple[Placeholder, Placeholder]:
    return tensor(depth, rows, dtype=dtype), tensor(depth, columns, dtype=dtype)


def _by_rows(
    platform: str, kernel: Any, rows: int, block: int, *blocks: int, **sizes: Any
) -> Range:
    """A product, of which the loop over blocks of `block` tiles of rows is traced in part."""

    def at(count: int) -> Range:
        factors = _factors(rows=count * block * TILE_ROWS, **sizes)
        return time_of(platform, kernel, *factors, *blocks)

    return repeated(at, rows // (block * TILE_ROWS))


def naive_matmul(platform: str, **sizes: Any) -> Range:
    """Tiles loaded for each product."""
    return _by_rows(platform, matmul.naive, block=1, **sizes)


def hoisted_matmul(platform: str, rows: int, together: int, **sizes: Any) -> Range:
    """Block rows of lhs reused."""
    return _by_rows(platform, matmul.hoisted, rows, 1, together, **sizes)


def blocked_matmul(
    platform: str, rows: int, block_rows: int, block_columns: int, **sizes: Any
) -> Range:
    """Blocks of the result."""
    return _by_rows(platform, matmul.blocked, rows, block_rows, block_rows, block_columns, **sizes)


def split_depth_matmul(
    platform: str, columns: int, block_rows: int, block_columns: int, block_depth: int, **sizes: Any
) -> Range:
    """Blocks in all dimensions."""
    width = block_columns * TILE_COLUMNS

    def at(count: int) -> Range:
        factors = _factors(columns=count * width, **sizes)
        return time_of(
            platform, matmul.split_depth, *factors, block_rows, block_columns, block_depth
        )

    return repeated(at, columns // width)


def one_bank_matmul(platform: str, **sizes: Any) -> Range:
    """All results through one PSUM bank."""
    return time_of(platform, matmul.one_bank, *_factors(**sizes))


def batched_matmul(
    platform: str, batch: int, rows: int, depth: int, columns: int, dtype: str
) -> Range:
    """A product per batch element."""

    def at(count: int) -> Range:
        left, right = (tensor(count, depth, size, dtype=dtype) for size in (rows, columns))
        return time_of(platform, matmul.batched, left, right)

    return repeated(at, batch)


# -- the vector engine -----------------------------------------------------------------------------


def scan(platform: str, channels: int, length: int, states: int, chunk: int, hoist: bool) -> Range:
    """A selective state space layer."""
    gates = tensor(states, length), tensor(states, length)

    def at(count: int) -> Range:
        rows = count * TILE_ROWS
        streams = tensor(rows, length), tensor(rows, length)
        return time_of(platform, vector.scan, *streams, tensor(rows, states), *gates, chunk, hoist)

    return repeated(at, channels // TILE_ROWS)


def rotate(platform: str, heads: int, size: int, length: int) -> Range:
    """Rotary embedding."""
    tables = tensor(size // 2, length), tensor(size // 2, length)
    return time_of(platform, vector.rotate, tensor(heads, size, length), *tables, 512)


# -- decode ----------------------------------------------------------------------------------------


def mlp(
    platform: str,
    cores: int,
    tokens: int,
    hidden: int,
    inner: int,
    norm: bool,
    gated: bool,
    weight_dtype: str,
) -> Range:
    """The MLP of a decode step, as a program of its own."""
    up, down = tensor(hidden, inner, dtype=weight_dtype), tensor(inner, hidden, dtype=weight_dtype)
    x = tensor(tokens, hidden, dtype="bfloat16")
    kernel = decode.mlp[cores]
    found = predicted(platform, kernel, x, up, up, down, norm, gated)
    return (found.time_us + found.launch_us) * 1e3


WORKLOADS: dict[str, Workload] = {
    one.__name__: one
    for one in (
        isolated_activation, activation_chain, eviction, addition, matmul_interval, gemv_interval,
        load, small_add, relative_rate, gather_interval, naive_matmul, hoisted_matmul,
        blocked_matmul, split_depth_matmul, one_bank_matmul, batched_matmul, scan, rotate, mlp,
    )
}  # fmt: skip
