"""``nki.collectives``: the vendor's names and signatures.

Parameters stand in the order of SDK 2.32; those of earlier versions follow as keywords.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..engines import collective_groups as groups
from ..engines import collective_permutes as permutes
from ..errors import IllegalProgram
from ..groups import ReplicaGroup as ReplicaGroup
from ..handles import NkiInstruction
from ..machine import current
from ..objects import NKIObject as NKIObject
from ..operators import Op
from ..registers import VirtualRegister
from ..views import NkiTensor
from ..world import place
from ._surface import vendor

Tensors = Sequence[NkiTensor]
Channels = Sequence[Sequence[NkiTensor]]
Name = str | None


@vendor
def all_reduce(
    srcs: Tensors,
    dsts: Tensors,
    replica_group: ReplicaGroup,
    op: Op,
    priority: int | None = None,
    name: Name = None,
) -> NkiInstruction:
    """Reduce over the ranks; all receive the result."""
    return groups.AllReduce(srcs, dsts, replica_group, op, priority=priority, name=name).issue()


@vendor
def all_gather(
    srcs: Tensors,
    dsts: Tensors,
    replica_group: ReplicaGroup,
    collective_dim: int,
    priority: int | None = None,
    name: Name = None,
) -> NkiInstruction:
    """Concatenate over the ranks; all receive the result."""
    return groups.AllGather(
        srcs, dsts, replica_group, collective_dim, priority=priority, name=name
    ).issue()


@vendor
def reduce_scatter(
    srcs: Tensors,
    dsts: Tensors,
    replica_group: ReplicaGroup,
    collective_dim: int,
    op: Op,
    priority: int | None = None,
    name: Name = None,
) -> NkiInstruction:
    """Reduce over the ranks; each receives its part."""
    return groups.ReduceScatter(
        srcs, dsts, replica_group, collective_dim, op, priority=priority, name=name
    ).issue()


@vendor
def all_to_all(
    srcs: Tensors,
    dsts: Tensors,
    replica_group: ReplicaGroup,
    collective_dim: int,
    priority: int | None = None,
    name: Name = None,
) -> NkiInstruction:
    """Exchange equal parts between all ranks."""
    return groups.AllToAll(
        srcs, dsts, replica_group, collective_dim, priority=priority, name=name
    ).issue()


@vendor
def all_to_all_v(
    srcs: Tensors,
    dsts: Tensors,
    replica_group: ReplicaGroup,
    metadata_tensor: NkiTensor,
    recv_counts_known: bool = False,
    has_rdispls: bool = False,
    priority: int | None = None,
    name: Name = None,
) -> NkiInstruction:
    """Exchange parts of sizes that are known at run time."""
    return groups.AllToAllV(
        srcs, dsts, replica_group, metadata_tensor, recv_counts_known, has_rdispls,
        priority=priority, name=name,
    ).issue()  # fmt: skip


@vendor
def all_gather_v(
    srcs: Tensors,
    dsts: Tensors,
    replica_group: ReplicaGroup,
    metadata_tensor: NkiTensor,
    recv_counts_known: bool = False,
    has_rdispls: bool = False,
    priority: int | None = None,
    name: Name = None,
) -> NkiInstruction:
    """Gather parts of sizes that are known at run time; all receive the result."""
    return groups.AllGatherV(
        srcs, dsts, replica_group, metadata_tensor, recv_counts_known, has_rdispls,
        priority=priority, name=name,
    ).issue()  # fmt: skip


@vendor
def collective_permute(
    srcs: Tensors,
    dsts: Tensors,
    source_target_pairs: Sequence[tuple[int, int]],
    priority: int | None = None,
    name: Name = None,
) -> NkiInstruction:
    """Send from the source to the target of each pair."""
    return permutes.CollectivePermute(
        srcs, dsts, source_target_pairs, priority=priority, name=name
    ).issue()


@vendor
def collective_permute_implicit(
    srcs_by_channel: Channels,
    dsts_by_channel: Channels,
    replica_group: ReplicaGroup,
    channel_ids: Sequence[int] = (0,),
    priority: int | None = None,
    name: Name = None,
) -> NkiInstruction:
    """Send to the successor in the ring of the group."""
    operation = "collective_permute_implicit"
    return permutes.RingPermute(
        _one_each(srcs_by_channel, operation, "srcs_by_channel"),
        _one_each(dsts_by_channel, operation, "dsts_by_channel"),
        replica_group, channel_ids, priority=priority, name=name,
    ).issue()  # fmt: skip


@vendor
def collective_permute_implicit_reduce(
    srcs0_by_channel: Channels,
    srcs1_by_channel: Channels,
    dsts_by_channel: Channels,
    replica_group: ReplicaGroup,
    op: Op,
    channel_ids: Sequence[int] = (0,),
    priority: int | None = None,
    name: Name = None,
) -> NkiInstruction:
    """Combine two tensors and send the result to the successor in the ring of the group."""
    operation = "collective_permute_implicit_reduce"
    return permutes.RingReduce(
        _one_each(srcs0_by_channel, operation, "srcs0_by_channel"),
        _one_each(dsts_by_channel, operation, "dsts_by_channel"),
        replica_group, channel_ids,
        _one_each(srcs1_by_channel, operation, "srcs1_by_channel"),
        op, priority=priority, name=name,
    ).issue()  # fmt: skip


def _one_each(channels: object, operation: str, role: str) -> list[NkiTensor]:
    """The tensor of each channel."""
    legal = isinstance(channels, list | tuple) and all(
        isinstance(one, list | tuple) and len(one) == 1 for one in channels
    )
    if not legal or not isinstance(channels, list | tuple):
        raise IllegalProgram(
            operation, f"{role} is one list of one tensor per channel", repr(channels)
        )
    return [one[0] for one in channels]


@vendor
def collective_permute_implicit_current_processing_rank_id(
    iteration_id: int,
    replica_group: ReplicaGroup,
    channel_id: int = 0,
    name: Name = None,
    *,
    num_channels: int = 1,
) -> VirtualRegister:
    """In a register: whose data this rank holds after `iteration_id` steps in the ring."""
    operation = "collective_permute_implicit_current_processing_rank_id"
    rank = _rank(operation, name)
    if type(iteration_id) is not int or iteration_id < 0:
        raise IllegalProgram(operation, "iteration_id counts from 0", repr(iteration_id))
    rings = [one for one in replica_group if rank in one]
    if not rings:
        raise IllegalProgram(
            operation, "a rank asks for its own group", f"rank {rank} and {replica_group!r}"
        )
    ring = rings[0]
    return VirtualRegister(ring[(ring.index(rank) - iteration_id) % len(ring)])


@vendor
def rank_id(name: Name = None) -> VirtualRegister:
    """This rank's number, in a register."""
    return VirtualRegister(_rank("rank_id", name))


def _rank(operation: str, name: Name) -> int:
    program = current(operation)
    if name:
        program.claim_name("instruction", name, operation)
    where = place()
    return where.rank if where is not None else 0
