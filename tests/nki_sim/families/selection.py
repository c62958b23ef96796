"""Selection along rows: more than 8 of the largest, the maximum over cores, gathers, sums."""

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

from .case import Case, normal
from .tiles import filled, fresh, loaded, swap

LOWEST = -3.4028235e38
ROUND = 8  # values that one round of max8 finds
GROUP = 16  # partitions of one core of GpSimd


@nki.jit
def top_k(scores, payload, k):
    """(values [T, k], payload at their places [T, k]) of scores and payload [T, V]; descending.

    In each round the 8 largest are found, and replaced so that the next round finds others. k is a
    multiple of 8; the cores share the rows.
    """
    cores = nl.num_programs(0)
    rows = scores.shape[0] // cores
    begin = rows * nl.program_id(0)
    tile = loaded(scores[begin : begin + rows, :])
    values = fresh((rows, k), scores.dtype)
    places = fresh((rows, k), nl.uint32)
    for first in range(0, k, ROUND):
        best = values[:, first : first + ROUND]
        nisa.max8(dst=best, src=tile)
        nisa.nc_match_replace8(
            dst=tile, data=tile, vals=best, imm=LOWEST, dst_idx=places[:, first : first + ROUND]
        )
    chosen = fresh((rows, k), payload.dtype)
    nisa.nc_n_gather(dst=chosen, data=loaded(payload[begin : begin + rows, :]), indices=places)
    values_out = nl.ndarray((rows * cores, k), dtype=scores.dtype, buffer=nl.shared_hbm)
    chosen_out = nl.ndarray((rows * cores, k), dtype=payload.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=values_out[begin : begin + rows, :], src=values)
    nisa.dma_copy(dst=chosen_out[begin : begin + rows, :], src=chosen)
    return values_out, chosen_out


def top_k_reference(scores, payload, k):
    places = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, places, 1), np.take_along_axis(payload, places, 1)


@nki.jit
def greedy_token(logits):
    """[T, 1] int32: where the maximum of each row of logits [T, V] is.

    Each core searches its part of the row; of the two winners the larger one counts, of equal ones
    the first. Each stores half of the tokens: T is then 64, for a half to begin in a quadrant.
    """
    cores = nl.num_programs(0)
    tokens = logits.shape[0]
    width = logits.shape[1] // cores
    begin = width * nl.program_id(0)
    tile = loaded(logits[:, begin : begin + width])
    best = fresh((tokens, ROUND), nl.float32)
    nisa.max8(dst=best, src=tile)
    places = fresh((tokens, ROUND), nl.uint32)
    nisa.nc_find_index8(dst=places, data=tile, vals=best)
    winner = fresh((tokens, 2), nl.float32)
    nisa.tensor_copy(dst=winner[:, 0:1], src=best[:, 0:1])
    nisa.tensor_scalar(dst=winner[:, 1:2], data=places[:, 0:1], op0=nl.add, operand0=1.0 * begin)
    if cores == 2:
        winner = better_of_both(winner)
    result = fresh((tokens, 1), nl.int32)
    nisa.tensor_copy(dst=result, src=winner[:, 1:2])
    out = nl.ndarray((tokens, 1), dtype=nl.int32, buffer=nl.shared_hbm)
    rows = tokens // cores
    first = rows * nl.program_id(0)
    nisa.dma_copy(dst=out[first : first + rows, :], src=result[first : first + rows, :])
    return out


def better_of_both(winner):
    """Of this core's and the other's [value, place] the pair with the larger value."""
    tokens = winner.shape[0]
    other = fresh((tokens, 2), nl.float32)
    swap(winner, other, 0)
    highest = fresh((tokens, 1), nl.float32)
    nisa.tensor_tensor(dst=highest, data1=winner[:, 0:1], data2=other[:, 0:1], op=nl.maximum)
    far = filled((tokens, 1), nl.float32, 1.0e9)  # behind every place
    places = fresh((tokens, 2), nl.float32)
    nisa.tensor_copy(dst=places[:, 0:1], src=far)
    nisa.tensor_copy(dst=places[:, 1:2], src=far)
    for column in range(2):
        pair = winner if column == 0 else other
        wins = fresh((tokens, 1), nl.uint8)
        nisa.tensor_tensor(dst=wins, data1=pair[:, 0:1], data2=highest, op=nl.equal)
        nisa.tensor_copy_predicated(
            dst=places[:, column : column + 1], src=pair[:, 1:2], predicate=wins
        )
    result = fresh((tokens, 2), nl.float32)
    nisa.tensor_copy(dst=result[:, 0:1], src=highest)
    nisa.tensor_reduce(dst=result[:, 1:2], op=nl.minimum, data=places, axis=1)
    return result


def greedy_token_reference(logits):
    return logits.argmax(1)[:, None].astype(np.int32)


@nki.jit
def gather_columns(table, index):
    """out[p, j] = table[p, index[j]], for table [P, E] and index [N] uint16, N a multiple of 16.

    Each core of GpSimd gathers for its 16 partitions by the indices that lie in them, column by
    column. P is a multiple of 16, of 32 on two cores.
    """
    cores = nl.num_programs(0)
    rows = table.shape[0] // cores
    begin = rows * nl.program_id(0)
    count = index.shape[0]
    places = fresh((rows, count // GROUP), index.dtype)
    for first in range(0, rows, GROUP):
        nisa.dma_copy(
            dst=places[first : first + GROUP, :],
            src=index.ap(pattern=[[1, GROUP], [GROUP, count // GROUP]], offset=0),
        )
    gathered = fresh((rows, count), table.dtype)
    source = loaded(table[begin : begin + rows, :])
    nisa.local_gather(
        dst=gathered,
        src_buffer=source,
        index=places,
        num_elem_per_idx=1,
        num_valid_indices=count,
    )
    out = nl.ndarray((rows * cores, count), dtype=table.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out[begin : begin + rows, :], src=gathered)
    return out


def gather_columns_reference(table, index):
    return table[:, index]


@nki.jit
def cumulative_sum(x):
    """out[n, i] = sum of x[n, : i + 1], in tiles of columns; each begins where the last ended."""
    cores = nl.num_programs(0)
    rows, width = x.shape[0] // cores, x.shape[1]
    begin = rows * nl.program_id(0)
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    carried = filled((rows, 1), nl.float32, 0.0)
    for first in range(0, width, 512):
        last = min(first + 512, width)
        tile = loaded(x[begin : begin + rows, first:last])
        sums = fresh((rows, last - first), nl.float32)
        nisa.tensor_tensor_scan(
            dst=sums,
            data0=filled((rows, last - first), nl.float32, 1.0),
            data1=tile,
            initial=carried,
            op0=nl.multiply,
            op1=nl.add,
        )
        nisa.tensor_copy(dst=carried, src=sums[:, last - first - 1 : last - first])
        nisa.dma_copy(dst=out[begin : begin + rows, first:last], src=sums)
    return out


def cumulative_sum_reference(x):
    return x.cumsum(1)


def candidates(rng, rows=12, width=700, k=16):
    return normal(rng, rows, width), np.arange(rows * width, dtype=np.int32).reshape(rows, -1), k


def logits_with_a_tie(rng, rows=64, width=512):
    logits = normal(rng, rows, width)
    logits[0, [7, 300]] = 9.0
    return (logits,)


CASES = (
    Case(top_k, candidates, top_k_reference),
    Case(greedy_token, logits_with_a_tie, greedy_token_reference),
    Case(
        gather_columns,
        lambda rng: (normal(rng, 64, 50), rng.integers(0, 50, 48).astype(np.uint16)),
        gather_columns_reference,
    ),
    Case(
        cumulative_sum,
        lambda rng: (normal(rng, 20, 1300),),
        cumulative_sum_reference,
        tolerance=1e-5,
    ),
)
