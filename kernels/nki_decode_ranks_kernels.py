"""Kernel of a decode step's layers on several tensor-parallel ranks, which sum on the way.

`nki.collectives` exists from SDK 2.28 on, so what needs it stands apart from the kernels that 2.27
compiles; there the framework sums, between launches.
"""

import nki
import nki.collectives as ncc
import nki.isa as nisa
import nki.language as nl

from kernels.nki_decode_common import add_columns, share
from kernels.nki_decode_layer_kernels import decoder_stack


def sum_over_ranks(part, group, name, apart):
    """[P, J, T] tile: the sum over the ranks of tiles [P, J, T], and over the cores if `apart`.

    Cores that hold parts of their own send both, and add them up afterwards: a collective's time is
    its latency, so that the second part costs less than an exchange beforehand. Cores that hold the
    same write half of the partitions each.

    Collectives take tensors of the kernel in HBM. SDK 2.33 wants them private on one core, and the
    compiler of 2.29 cannot place them without a name.
    """
    lines, count, tokens = part.shape
    width = count * tokens
    cores = nl.num_programs(0)
    memory = nl.private_hbm if cores == 1 else nl.shared_hbm
    parts = cores if apart else 1
    rows = parts * lines
    sent = nl.ndarray((rows, width), dtype=part.dtype, buffer=memory, name=f"{name}_sent")
    received = nl.ndarray((rows, width), dtype=part.dtype, buffer=memory, name=f"{name}_received")
    first, stored = share(rows)
    start = first - first // lines * lines
    nisa.dma_copy(
        dst=sent[first : first + stored, :],
        src=part.ap(pattern=[[width, stored], [1, width]], offset=start * width),
    )
    if cores == 2:
        nisa.core_barrier(data=sent, cores=(0, 1))
    ncc.all_reduce(srcs=[sent], dsts=[received], replica_group=group, op=nl.add)
    sums = nl.ndarray((lines, parts, count, tokens), dtype=part.dtype, buffer=nl.sbuf)
    nisa.dma_copy(
        dst=sums,
        src=received.ap(pattern=[[width, lines], [lines * width, parts], [1, width]], offset=0),
    )
    if parts == 1:
        return sums.reshape((lines, count, tokens))
    return add_columns(sums[:, 0, :, :], sums[:, 1, :, :], part.dtype)


@nki.jit
def nki_decoder_stack_ranks_kernel(
    x,
    input_norm,
    w_qkv,
    q_norm,
    k_norm,
    w_o,
    post_norm,
    w_router,
    w_gate_up,
    w_down,
    k_cache,
    v_cache,
    position,
    cos,
    sin,
    eps,
    group,
    rounding="fused",
    prefetch="paced",
    buffers=4,
    side_by_side=4,
    sums="together",
):
    """As nki_decoder_stack_kernel, on one of several ranks: 1 to 128 layers of 1 to 8 tokens.

    Math:        as there, but the outputs of attention and of the experts are sums over the ranks
    Dimensions:  as there, with this rank's heads, kv_heads and I
    Args:        as there, and
                 group  nki.collectives.ReplicaGroup; one of its lists holds this rank
                 sums   string "together" or "apart": whether the sum over ranks takes both cores'
                        parts, or the cores exchange theirs before it
    Returns:     hidden [T, H]  dtype of x  shared HBM, the same on all ranks; k_cache, v_cache
    Tiling:      as there; a sum [P, J, T] goes through HBM: if "fused" and "together" one of each
                 core, which need no exchange then; else half of it written by each core
    Engine plan: as there, and two collectives per layer, each between two DMAs. The next layer's
                 weights come in meanwhile, one half behind each collective's barrier.
    Bound:       as there, and two collectives' fixed cost, about 10 us each
    Numerics:    as there; the sums over ranks are of fp32 parts of cores if "fused", else of parts
                 rounded to the dtype of x, and rounded again, as the framework's all-reduce
    Refuses:     as there
    """
    assert sums == "together" or sums == "apart", (
        f'nki_decoder_stack_ranks_kernel: sums must be "together" or "apart", received {sums}'
    )
    return decoder_stack(
        "nki_decoder_stack_ranks_kernel",
        x,
        (input_norm, w_qkv, q_norm, k_norm, w_o),
        (post_norm, w_router, w_gate_up, w_down),
        (k_cache, v_cache),
        position,
        (cos, sin),
        (
            eps,
            rounding,
            sum_over_ranks,
            group,
            (prefetch, buffers, side_by_side, sums == "together"),
        ),
    )
