"""Collectives across simulated ranks, against NumPy, in any order of execution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import nki
import nki.collectives as ncc
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nki_sim
from nki_sim import ranks
from nki_sim.errors import IllegalProgram, UninitialisedRead
from nki_sim.schedule import shuffled

from .support import loaded, tile

SEEDS = (None, *range(4))


def world(size: int) -> ncc.ReplicaGroup:
    return ncc.ReplicaGroup([list(range(size))])


def data(size: int, shape: tuple[int, ...] = (8, 4), dtype: Any = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(size)
    return [rng.integers(-50, 50, shape).astype(dtype) for _ in range(size)]


def own(x: Any, buffer: Any = nl.shared_hbm) -> Any:
    """A tensor of the kernel's own with the contents of an argument (core 0 writes it)."""
    made = nl.ndarray(x.shape, dtype=x.dtype, buffer=buffer)
    if buffer is not nl.shared_hbm or nl.program_id(0) == 0:
        nisa.dma_copy(dst=made, src=x)
    return made


def fresh(shape: tuple[int, ...], dtype: Any, buffer: Any = nl.shared_hbm) -> Any:
    return nl.ndarray(shape, dtype=dtype, buffer=buffer)


def everywhere(kernel: Callable[..., Any], inputs: list[np.ndarray], *rest: Any) -> list[Any]:
    """The results of all ranks, the same in every order and on one or two cores per rank."""
    arguments = [(x, *rest) for x in inputs]
    results = ranks.run(nki.jit(kernel), ranks=len(inputs), arguments=arguments)
    for seed in SEEDS[1:]:
        for cores in (1, 2):
            with shuffled(seed):
                again = ranks.run(nki.jit(kernel)[cores], ranks=len(inputs), arguments=arguments)
            for one, other in zip(results, again, strict=True):
                np.testing.assert_array_equal(one, other)
    return results


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("op", "function"), [("add", np.sum), ("maximum", np.max), ("minimum", np.min)]
)
def test_all_reduce(size: int, op: str, function: Any) -> None:
    def kernel(x, group):
        out = fresh(x.shape, x.dtype)
        ncc.all_reduce(srcs=[own(x)], dsts=[out], replica_group=group, op=getattr(nl, op))
        return out

    inputs = data(size)
    for result in everywhere(kernel, inputs, world(size)):
        np.testing.assert_array_equal(result, function(inputs, axis=0))


def test_all_reduce_rounds_once_and_keeps_integers() -> None:
    def kernel(x, group):
        out = fresh(x.shape, x.dtype)
        ncc.all_reduce([own(x)], [out], group, nl.add)
        return out

    parts = [np.full((1, 1), v, ml_dtypes.bfloat16) for v in (256, 1, 1)]
    assert float(everywhere(kernel, parts, world(3))[0][0, 0]) == 258.0  # 256 + 1 would stay 256
    big = [np.full((1, 1), 2**30 + 1, np.int32), np.full((1, 1), 1, np.int32)]
    assert everywhere(kernel, big, world(2))[1][0, 0] == 2**30 + 2


def test_in_place_and_several_tensors() -> None:
    def kernel(x, group):
        first, second, out = own(x), own(x), fresh(x.shape, x.dtype)
        ncc.all_reduce([first, second], [first, out], group, nl.add)
        result = fresh((2, *x.shape), x.dtype)
        for number, tensor in enumerate((first, out)):
            if nl.program_id(0) == 0:
                nisa.dma_copy(dst=result[number], src=tensor)
        return result

    inputs = data(3)
    for result in everywhere(kernel, inputs, world(3)):
        np.testing.assert_array_equal(result, [np.sum(inputs, 0)] * 2)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_all_gather_and_reduce_scatter_and_all_to_all(size: int) -> None:
    def gather(x, group):
        out = fresh((x.shape[0] * size, x.shape[1]), x.dtype)
        ncc.all_gather([own(x)], [out], group, collective_dim=0)
        return out

    def scatter(x, group):
        out = fresh((x.shape[0] // size, x.shape[1]), x.dtype)
        ncc.reduce_scatter([own(x)], [out], group, collective_dim=0, op=nl.add)
        return out

    def exchange(x, group):
        out = fresh(x.shape, x.dtype)
        ncc.all_to_all([own(x)], [out], group, collective_dim=0)
        return out

    inputs, group = data(size), world(size)
    parts = np.array([np.split(x, size) for x in inputs])
    for result in everywhere(gather, inputs, group):
        np.testing.assert_array_equal(result, np.concatenate(inputs))
    for rank, result in enumerate(everywhere(scatter, inputs, group)):
        np.testing.assert_array_equal(result, parts[:, rank].sum(0))
    for rank, result in enumerate(everywhere(exchange, inputs, group)):
        np.testing.assert_array_equal(result, np.concatenate(parts[:, rank]))


@pytest.mark.parametrize("dim", [0, 1])
def test_sbuf_collectives(dim: int) -> None:
    def kernel(x, group):
        mine = loaded(x)
        shape = (x.shape[0] * 2, x.shape[1]) if dim == 0 else (x.shape[0], x.shape[1] * 2)
        gathered, out = nl.ndarray(shape, dtype=x.dtype), fresh(shape, x.dtype)
        ncc.all_gather([mine], [gathered], group, collective_dim=dim)
        if nl.program_id(0) == 0:
            nisa.dma_copy(dst=out, src=gathered)
        return out

    inputs = data(2)
    for result in everywhere(kernel, inputs, world(2)):
        np.testing.assert_array_equal(result, np.concatenate(inputs, axis=dim))


def test_groups_are_independent() -> None:
    def kernel(x, group):
        out = fresh(x.shape, x.dtype)
        ncc.all_reduce([own(x)], [out], group, nl.add)
        return out

    inputs = data(4)
    results = everywhere(kernel, inputs, ncc.ReplicaGroup([[0, 2], [3, 1]]))
    for rank, pair in enumerate([(0, 2), (1, 3), (0, 2), (1, 3)]):
        np.testing.assert_array_equal(results[rank], inputs[pair[0]] + inputs[pair[1]])


def test_groups_give_the_order() -> None:
    def kernel(x, group):
        out = fresh((16, 4), x.dtype)
        ncc.all_gather([own(x)], [out], group, 0)
        return out

    inputs = data(2)
    results = everywhere(kernel, inputs, ncc.ReplicaGroup([[1, 0]]))
    np.testing.assert_array_equal(results[0], np.concatenate([inputs[1], inputs[0]]))


def test_collective_permute() -> None:
    def kernel(x, pairs):
        source, out = own(x), own(x)
        nisa.core_barrier(out, (0, 1)) if nl.num_programs(0) == 2 else None
        ncc.collective_permute([source], [out], pairs)
        return out

    inputs = data(4)
    results = everywhere(kernel, inputs, ((0, 2), (2, 1)))
    for rank, source in enumerate((0, 2, 0, 3)):
        np.testing.assert_array_equal(results[rank], inputs[source])
    for wrong in (((0, 1), (0, 2)), ((0, 1), (2, 1)), (), 3):
        with pytest.raises(IllegalProgram):
            ranks.run(nki.jit(kernel), ranks=4, arguments=[(x, wrong) for x in inputs])


@pytest.mark.parametrize("size", [2, 3])
def test_rings_bring_every_ranks_data(size: int) -> None:
    """The all-gather that ring kernels build: at each step the register tells whose data it is."""

    def kernel(x, group):
        current, following = own(x), fresh(x.shape, x.dtype)
        out = fresh((size, *x.shape), x.dtype)
        rows, columns = x.shape
        for step in range(size):
            whose = ncc.collective_permute_implicit_current_processing_rank_id(step, group)
            place = out.ap([[columns, rows], [1, columns]], 0, scalar_offset=whose, indirect_dim=0)
            if nl.program_id(0) == 0:
                nisa.dma_copy(dst=place, src=current)
            if step < size - 1:
                ncc.collective_permute_implicit([[current]], [[following]], group)
                current, following = following, current
        return out

    inputs = data(size)
    for result in everywhere(kernel, inputs, world(size)):
        np.testing.assert_array_equal(result, inputs)


def test_ring_reduction_and_channels() -> None:
    def kernel(x, group):
        first, second = own(x), own(x)
        outs = [fresh(x.shape, x.dtype) for _ in range(2)]
        ncc.collective_permute_implicit_reduce(
            [[first], [second]], [[second], [second]], [[outs[0]], [outs[1]]], group, nl.add,
            channel_ids=[0, 1],
        )  # fmt: skip
        return tuple(outs)

    inputs = data(3)
    results = ranks.run(nki.jit(kernel), 3, [(x, world(3)) for x in inputs])
    for rank, (one, other) in enumerate(results):
        np.testing.assert_array_equal(one, 2 * inputs[rank - 1])
        np.testing.assert_array_equal(other, 2 * inputs[rank - 1])


def test_rank_id_selects_a_slice() -> None:
    def kernel(x):
        rows, columns = x.shape[1:]
        out = fresh((rows, columns), x.dtype)
        source = x.ap([[columns, rows], [1, columns]], scalar_offset=ncc.rank_id(), indirect_dim=0)
        if nl.program_id(0) == 0:
            nisa.dma_copy(dst=out, src=source)
        return out

    cube = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    results = everywhere(kernel, [cube] * 3)
    np.testing.assert_array_equal(results, cube)


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=3, max_size=3))
def test_all_to_all_v(counts: list[list[int]]) -> None:
    """counts[i][j] elements go from rank i to rank j."""

    def kernel(x, metadata, group):
        out, table = fresh((9,), x.dtype), own(metadata)
        nisa.dma_copy(dst=out, src=tile((1, 9), "int32", value=-1).reshape((1, 9)))
        ncc.all_to_all_v([own(x)], [out], group, table)
        return out, table

    arguments, starts = [], []
    for rank in range(3):
        start = np.concatenate([[0], np.cumsum(counts[rank])[:-1]])
        starts.append(start)
        table = np.array([counts[rank], start, [99] * 3], np.uint32)
        arguments.append((np.arange(9, dtype=np.int32) + 100 * rank, table, world(3)))
    for rank, (out, table) in enumerate(ranks.run(nki.jit(kernel), 3, arguments)):
        expected = np.full(9, -1)
        for sender in range(3):
            n, start = counts[sender][rank], starts[sender][rank]
            expected[3 * sender : 3 * sender + n] = 100 * sender + start + np.arange(n)
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(table[2], [counts[s][rank] for s in range(3)])


@pytest.mark.parametrize("placed", [False, True])
def test_all_gather_v(placed: bool) -> None:
    """A rank sends one part to all: the first column tells which; they lie in slots, or where the
    receiver says."""
    counts, starts, places = [3, 0, 2], [1, 5, 4], [7, 0, 2]

    def kernel(x, metadata, group):
        out, table = fresh((12,), x.dtype), fresh(metadata.shape, metadata.dtype)
        nisa.dma_copy(dst=out, src=tile((1, 12), "int32", value=-1))
        nisa.dma_copy(dst=table[0:2, 0:1], src=metadata[0:2, 0:1])  # all that is sent is here
        if placed:
            nisa.dma_copy(dst=table[3:4], src=metadata[3:4])
        ncc.all_gather_v([own(x)], [out], group, table, has_rdispls=placed)
        received = fresh((1, 3), table.dtype)
        nisa.dma_copy(dst=received, src=table[2:3])
        return out, received

    expected = np.full(12, -1)
    arguments = []
    for rank, (count, start) in enumerate(zip(counts, starts, strict=True)):
        x = np.arange(9, dtype=np.int32) + 100 * rank
        at = places[rank] if placed else 4 * rank
        expected[at : at + count] = x[start : start + count]
        rows = [[count] * 3, [start] * 3, [0] * 3, places]
        arguments.append((x, np.array(rows[: 3 + placed], np.uint32), world(3)))
    for out, received in ranks.run(nki.jit(kernel), 3, arguments):
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(received[0], counts)


def test_all_gather_v_stays_in_its_slot() -> None:
    def kernel(x, metadata, group):
        ncc.all_gather_v([own(x)], [own(x)], group, own(metadata))

    x = np.arange(8, dtype=np.int32)
    table = np.array([[5, 0], [0, 0], [0, 0]], np.uint32)
    with pytest.raises(IllegalProgram, match="counts and offsets stay inside"):
        ranks.run(nki.jit(kernel), 2, [(x, table, world(2))] * 2)


def test_private_tensors_of_two_cores_are_exchanged_core_by_core() -> None:
    def kernel(x, group):
        core, out = nl.program_id(0), fresh((2, 4), x.dtype)
        mine, theirs = tile((1, 4)), nl.ndarray((1, 4), dtype=nl.float32)
        nisa.tensor_scalar(dst=mine, data=loaded(x[0:1]), op0=nl.add, operand0=float(100 * core))
        ncc.collective_permute_implicit(((mine,),), ((theirs,),), group)
        nisa.dma_copy(dst=out[core : core + 1], src=theirs)
        return out

    inputs = data(2)
    results = ranks.run(nki.jit(kernel)[2], 2, [(x, world(2)) for x in inputs])
    for rank, result in enumerate(results):
        np.testing.assert_array_equal(result, [inputs[1 - rank][0], inputs[1 - rank][0] + 100])


# -- the run ---------------------------------------------------------------------------------------


def test_ways_to_start_ranks() -> None:
    assert ranks.run(lambda rank: rank * 2, ranks=3) == [0, 2, 4]
    assert ranks.run([lambda: "a", lambda: "b"], ranks=2) == ["a", "b"]
    assert ranks.run(max, ranks=2, arguments=[(1, 2), (5, 4)]) == [2, 5]
    assert ranks.run(dict, ranks=1, arguments=[{"a": 1}]) == [{"a": 1}]
    for wrong in (
        lambda: ranks.run(max, ranks=0),
        lambda: ranks.run([max], ranks=2),
        lambda: ranks.run(lambda rank: ranks.run(max, ranks=1), ranks=1),
    ):
        with pytest.raises(IllegalProgram):
            wrong()
    with pytest.raises(ZeroDivisionError):
        ranks.run(lambda rank: 1 // (1 - rank), ranks=3)


def reduce(x, group, op=nl.add):
    out = fresh(x.shape, x.dtype)
    ncc.all_reduce([own(x)], [out], group, op)
    return out


def test_launches_are_accounted_per_rank() -> None:
    with nki_sim.record() as recording:
        ranks.run(nki.jit(reduce)[2], 2, [(x, world(2)) for x in data(2)])
    assert len(recording.launches) == 2
    for launch in recording.launches:
        assert [len(core.instructions) for core in launch.cores] == [2, 1]
        assert {e.rendezvous for e in launch.instructions if e.opcode == "all_reduce"} == {1}


def test_missing_ranks_are_named() -> None:
    with pytest.raises(IllegalProgram, match=r"start them with nki_sim\.ranks\.run"):
        nki.jit(reduce)(data(1)[0], world(2))
    with pytest.raises(IllegalProgram, match="where 2 run"):
        ranks.run(nki.jit(reduce), 2, [(x, world(3)) for x in data(2)])
    with pytest.raises(IllegalProgram, match="its own group"):
        ranks.run(nki.jit(reduce), 2, [(x, ncc.ReplicaGroup([[0]])) for x in data(2)])


def test_deadlocks_show_every_rank() -> None:
    def twice(x, group, times):
        for _ in range(times):
            out = reduce(x, group)
        return out

    for seed in SEEDS:
        with shuffled(seed or 0), pytest.raises(IllegalProgram) as caught:
            ranks.run(nki.jit(twice), 3, [(x, world(3), 1 + n % 2) for n, x in enumerate(data(3))])
        text = str(caught.value)
        assert "rank 1 waits for all_reduce with ranks [0, 1, 2]" in text
        assert "rank 0 has finished" in text and "rank 2 has finished" in text
        assert "in twice\n" in text and "in reduce\n" in text


def test_ranks_call_the_same_collective() -> None:
    inputs, group = data(2), world(2)
    wrong: list[Callable[[int], Any]] = [
        lambda rank: nki.jit(reduce)(inputs[rank][: 4 + rank], group),
        lambda rank: nki.jit(reduce)(inputs[rank], group, nl.maximum if rank else nl.add),
        lambda rank: nki.jit(reduce)(inputs[rank].astype([np.float32, np.int32][rank]), group),
    ]
    for function in wrong:
        with pytest.raises(IllegalProgram, match="calls the same collective"):
            ranks.run(function, 2)


def test_limits() -> None:
    def case(body: Callable[[Any, Any], Any]) -> Callable[[], Any]:
        return lambda: ranks.run(nki.jit(body), 2, [(x, world(2)) for x in data(2)])

    def reduce_with(src: Callable[[Any], Any], dst: Callable[[Any], Any], **options: Any) -> Any:
        def body(x, group):
            call = {"replica_group": group, "op": nl.add} | options
            ncc.all_reduce([src(x)], [dst(x)], **call)

        return case(body)

    def like(x: Any) -> Any:
        return fresh(x.shape, x.dtype)

    refused = [
        (reduce_with(lambda x: x, like), "not on its arguments"),
        (reduce_with(own, lambda x: nl.ndarray(x.shape, dtype=x.dtype)), "all tensors are in HBM"),
        (reduce_with(own, like, op=nl.multiply), "nl.minimum or nl.maximum"),
        (reduce_with(own, lambda x: fresh(x.shape, "int32")), "of the same type"),
        (reduce_with(own, lambda x: fresh((4, 8), x.dtype)), "have the shapes"),
        (reduce_with(own, like, replica_group=[[0, 1]]), "is a ReplicaGroup"),
        (reduce_with(own, like, priority=1), "priority is 0 to 3, from trn3 on"),
        (reduce_with(own, like, wrong=1), "parameters are srcs"),
        (
            case(lambda x, g: ncc.all_gather([own(x)], [fresh((8, 8), x.dtype)], g, 1)),
            "collective_dim is 0 in HBM",
        ),
        (
            case(lambda x, g: ncc.reduce_scatter([own(x[0:7])], [like(x)], g, 0, nl.add)),
            "divides into 2 parts",
        ),
        (
            case(lambda x, g: ncc.collective_permute_implicit([own(x)], [[like(x)]], g)),
            "one list of one tensor per channel",
        ),
        (
            case(lambda x, g: ncc.collective_permute_implicit([[own(x)]], [[like(x)]], g, [0, 1])),
            "there is one channel",
        ),
    ]
    for call, pattern in refused:
        with pytest.raises(IllegalProgram, match=pattern):
            call()
    with pytest.raises(UninitialisedRead, match="srcs must have been written"):
        reduce_with(like, like)()
    for groups in ([], [[0], [0]], [0, 1], [[-1]], 3):
        with pytest.raises(IllegalProgram, match="ReplicaGroup"):
            ncc.ReplicaGroup(groups)


@pytest.mark.parametrize("mode", ["unchecked", "shapes"])
def test_modes(mode: str) -> None:
    with nki_sim.mode(mode):
        results = ranks.run(nki.jit(reduce)[2], 2, [(x, world(2)) for x in data(2)])
        assert [r.shape for r in results] == [(8, 4)] * 2
        with pytest.raises(IllegalProgram, match="never ends"):
            ranks.run(lambda rank: rank and nki.jit(reduce)(data(1)[0], world(2)), 2)
