"""``nki.isa``: the GpSimd engine's gathers and searches; random numbers."""

from __future__ import annotations

from ...constants import Engine
from ...engines import gathers, random_numbers
from ...errors import NotModelled
from ...handles import NkiInstruction
from ...views import NkiTensor
from .._surface import vendor

__all__ = [
    "dropout",
    "local_gather",
    "nc_n_gather",
    "nonzero_with_count",
    "rand2",
    "rand_get_state",
    "rand_set_state",
    "rng",
    "sequence_bounds",
    "set_rng_seed",
    "topk",
]

Name = str | None


@vendor
def nc_n_gather(
    dst: NkiTensor, data: NkiTensor, indices: NkiTensor, name: Name = None
) -> NkiInstruction:
    """Gather within each partition."""
    return gathers.NcNGather(dst, data, indices, name=name).issue()


@vendor
def local_gather(
    dst: NkiTensor,
    src_buffer: NkiTensor,
    index: NkiTensor,
    num_elem_per_idx: int = 1,
    num_valid_indices: int | None = None,
    name: Name = None,
) -> NkiInstruction:
    """Gather within each group of 16 partitions, by the group's indices."""
    return gathers.LocalGather(
        dst, src_buffer, index, num_elem_per_idx, num_valid_indices, name=name
    ).issue()


@vendor
def nonzero_with_count(
    dst: NkiTensor,
    src: NkiTensor,
    index_offset: int = 0,
    padding_val: int = -1,
    name: Name = None,
) -> NkiInstruction:
    """Positions of non-zero elements in every 16th partition."""
    return gathers.NonzeroWithCount(dst, src, index_offset, padding_val, name=name).issue()


@vendor
def topk(
    val_dst: NkiTensor,
    idx_dst: NkiTensor,
    src: NkiTensor,
    n: int,
    name: Name = None,
    *,
    sorted: bool = False,
) -> NkiInstruction:
    """The largest elements of each group of 16 partitions."""
    if sorted is not False:
        raise NotModelled("topk", "sorted=True (SDK 2.33) is not modelled", repr(sorted))
    return gathers.TopK(val_dst, idx_dst, src, n, name=name).issue()


@vendor
def sequence_bounds(dst: NkiTensor, segment_ids: NkiTensor, name: Name = None) -> NkiInstruction:
    """Start and end of the segment of each element."""
    return gathers.SequenceBounds(dst, segment_ids, name=name).issue()


@vendor
def dropout(
    dst: NkiTensor, data: NkiTensor, prob: NkiTensor | float, name: Name = None
) -> NkiInstruction:
    """Zeros at random."""
    return random_numbers.Dropout(dst, data, prob, name=name).issue()


@vendor
def rng(dst: NkiTensor, engine: Engine = Engine.unknown, name: Name = None) -> NkiInstruction:
    """Random bits."""
    return random_numbers.Rng(dst, engine=engine, name=name).issue()


@vendor
def rand2(
    dst: NkiTensor, min: NkiTensor | float, max: NkiTensor | float, name: Name = None
) -> NkiInstruction:
    """Uniform random numbers (trn3)."""
    return random_numbers.Rand2(dst, min, max, name=name).issue()


@vendor
def rand_get_state(
    dst: NkiTensor, engine: Engine = Engine.unknown, name: Name = None
) -> NkiInstruction:
    """Read the generators' state; the number of words tells the engine when it is left out."""
    return random_numbers.RandGetState(dst, engine=engine, name=name).issue()


@vendor
def rand_set_state(
    src_seeds: NkiTensor, engine: Engine = Engine.unknown, name: Name = None
) -> NkiInstruction:
    """Set the generators' state; the number of words tells the engine when it is left out."""
    return random_numbers.RandSetState(src_seeds, engine=engine, name=name).issue()


@vendor
def set_rng_seed(src_seeds: NkiTensor, name: Name = None) -> NkiInstruction:
    """Seed the vector engine's generators."""
    return random_numbers.SetRngSeed(src_seeds, name=name).issue()
