"""Who waits for whom, on programs where it is evident."""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl

import nki_sim
from nki_sim.latency.dependencies import Edges, analyse
from nki_sim.placeholders import Placeholder
from nki_sim.trace import Launch

ROOM = (212984, 8)


def recorded(kernel, *arguments) -> Launch:
    with nki_sim.mode("shapes"), nki_sim.record() as recording:
        nki.jit(kernel)(*arguments)
    return recording.launches[0]


def edges(launch: Launch) -> list[Edges]:
    return analyse(launch.instructions, [ROOM]).edges


def tile(width: int = 64, dtype=nl.float32, buffer=nl.sbuf):
    return nl.ndarray((128, width), dtype=dtype, buffer=buffer)


def test_reads_wait_for_writes_and_writes_for_reads_and_writes() -> None:
    def kernel():
        a, b, c = tile(), tile(), tile()
        nisa.memset(dst=a, value=1.0, engine=nisa.engine.vector)  # 0
        nisa.activation(dst=b, op=nl.copy, data=a)  # 1 reads a
        nisa.memset(dst=a, value=2.0, engine=nisa.engine.gpsimd)  # 2 overwrites a
        nisa.activation(dst=c, op=nl.copy, data=a)  # 3

    found = edges(recorded(kernel))
    assert found == [[], [(0, True)], [(0, True), (1, False)], [(2, True)]]


def test_halves_of_a_tile_are_independent() -> None:
    def kernel():
        a, b = tile(), tile()
        nisa.memset(dst=a[:, 0:32], value=1.0, engine=nisa.engine.vector)  # 0
        nisa.memset(dst=a[:, 32:64], value=1.0, engine=nisa.engine.gpsimd)  # 1
        nisa.activation(dst=b[:, 0:32], op=nl.copy, data=a[:, 32:64])  # 2
        nisa.activation(dst=b[:, 32:64], op=nl.copy, data=a[:, 0:64:2])  # 3 touches both

    found = edges(recorded(kernel))
    assert found[1] == [] and found[2] == [(1, True)]
    assert sorted(found[3]) == [(0, True), (1, True)]


def test_views_of_another_type_share_bytes() -> None:
    def kernel():
        a, b = tile(), tile(128, nl.bfloat16)
        nisa.memset(dst=a[:, 0:32], value=1.0, engine=nisa.engine.vector)  # 0
        nisa.memset(dst=a[:, 32:64], value=1.0, engine=nisa.engine.gpsimd)  # 1
        halves = a.view(nl.bfloat16)
        nisa.activation(dst=b[:, 0:64], op=nl.copy, data=halves[:, 64:128])  # 2

    assert edges(recorded(kernel))[2] == [(1, True)]


def test_rows_and_columns_of_a_matrix_in_hbm() -> None:
    def kernel():
        matrix = nl.ndarray((256, 64), dtype=nl.float32, buffer=nl.private_hbm)
        a, b = tile(), tile(32)
        nisa.memset(dst=a, value=1.0, engine=nisa.engine.vector)  # 0
        nisa.dma_copy(dst=matrix[0:128, :], src=a)  # 1
        nisa.dma_copy(dst=matrix[128:256, :], src=a)  # 2
        nisa.dma_copy(dst=b, src=matrix[128:256, 32:64])  # 3

    found = edges(recorded(kernel))
    assert found[1] == found[2] == [(0, True)] and found[3] == [(2, True)]


def test_inputs_that_nobody_writes_order_nothing() -> None:
    def kernel(x):
        nisa.dma_copy(dst=tile(), src=x)
        nisa.dma_copy(dst=tile(), src=x)

    assert edges(recorded(kernel, Placeholder((128, 64), "float32"))) == [[], []]


def test_a_dynamic_offset_waits_for_its_index_and_touches_all_of_its_tensor() -> None:
    def kernel(table):
        index = nl.ndarray((128, 1), dtype=nl.int32, buffer=nl.sbuf)
        scratch = nl.ndarray((512, 64), dtype=nl.float32, buffer=nl.private_hbm)
        a = tile()
        nisa.memset(dst=a, value=1.0, engine=nisa.engine.vector)  # 0
        nisa.dma_copy(dst=scratch[384:512, :], src=a)  # 1
        nisa.iota(dst=index, pattern=[[0, 1]], offset=0, channel_multiplier=1)  # 2
        rows = scratch.ap(pattern=[[64, 128], [1, 64]], offset=0, vector_offset=index)
        nisa.dma_copy(dst=tile(), src=rows)  # 3

    launch = recorded(kernel, Placeholder((512, 64), "float32"))
    assert sorted(edges(launch)[3]) == [(1, True), (2, True)]
    assert launch.instructions[3].operands[-1].role == "src.index"


def test_a_register_orders_what_writes_and_reads_it() -> None:
    def kernel(x):
        number = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.memset(dst=number, value=1, engine=nisa.engine.vector)  # 0
        register = nisa.register_alloc()
        nisa.register_load(register, number)  # 1
        window = x.ap(pattern=[[64, 128], [1, 64]], offset=0, scalar_offset=register)
        nisa.dma_copy(dst=tile(), src=window)  # 2

    found = edges(recorded(kernel, Placeholder((512, 64), "float32")))
    assert found[1] == [(0, True)] and found[2] == [(1, True)]


def test_accumulation_does_not_wait_for_itself() -> None:
    def kernel():
        a, b = tile(128, nl.bfloat16), tile(64)
        nisa.memset(dst=a, value=1.0, engine=nisa.engine.vector)  # 0
        total = tile(64, buffer=nl.psum)
        for _ in range(3):
            nisa.nc_matmul(dst=total, stationary=a, moving=a[:, 0:64])  # 1, 2, 3
        nisa.activation(dst=b, op=nl.copy, data=total)  # 4

    found = edges(recorded(kernel))
    assert found[1:4] == [[(0, True)]] * 3 and found[4] == [(3, True)]


def reuse_of(kernel, room: tuple[int, int]) -> tuple[list[tuple[int, int, bool]], int]:
    found = analyse(recorded(kernel).instructions, [room])
    return found.reuse[0], found.overfull[0]


def test_tiles_wait_for_each_other_only_where_memory_is_short() -> None:
    def kernel():
        for _ in range(3):
            a = tile(64)  # 256 bytes per partition
            nisa.memset(dst=a, value=1.0, engine=nisa.engine.vector)  # 0, 2, 4
            nisa.activation(dst=tile(1), op=nl.copy, data=a[:, 0:1])  # 1, 3, 5

    assert reuse_of(kernel, (4096, 8)) == ([], 0)
    waits, overfull = reuse_of(kernel, (2 * 256 + 8, 8))
    assert overfull == 0 and (4, 1, False) in waits  # the third tile lies where the first one was
    assert {waiting for waiting, _, _ in waits} <= {4, 5}


def test_psum_rotates_through_its_banks() -> None:
    def kernel():
        a = tile(128, nl.bfloat16)
        nisa.memset(dst=a, value=1.0, engine=nisa.engine.vector)  # 0
        for _ in range(10):
            total = tile(128, buffer=nl.psum)
            nisa.nc_matmul(dst=total, stationary=a, moving=a)  # 1, 3, ...
            nisa.activation(dst=tile(1), op=nl.copy, data=total[:, 0:1])  # 2, 4, ...

    waits, _ = reuse_of(kernel, ROOM)
    assert (17, 2, False) in waits and (19, 4, False) in waits
    assert min(waiting for waiting, _, _ in waits) == 17


def test_tensors_in_use_that_do_not_fit_are_counted() -> None:
    def kernel():
        a, b = tile(64), tile(64)
        nisa.memset(dst=a, value=1.0)
        nisa.memset(dst=b, value=1.0)
        nisa.tensor_tensor(dst=a, data1=a, data2=b, op=nl.add)

    assert reuse_of(kernel, (300, 8))[1] == 1


def test_tensors_at_overlapping_addresses_depend_on_each_other() -> None:
    def kernel():
        a = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 0))
        nisa.memset(dst=a, value=1.0, engine=nisa.engine.vector)  # 0
        nisa.activation(dst=tile(), op=nl.copy, data=a)  # 1
        b = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 128))
        nisa.memset(dst=b, value=1.0, engine=nisa.engine.gpsimd)  # 2
        c = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 512))
        nisa.memset(dst=c, value=1.0, engine=nisa.engine.gpsimd)  # 3

    found = edges(recorded(kernel))
    assert sorted(found[2]) == [(0, True), (1, False)] and found[3] == []
