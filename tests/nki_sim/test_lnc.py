"""Launches on two cores: memories, rendezvous, deadlocks, races, and any order of execution."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nki_sim
from nki_sim.errors import IllegalProgram, NotModelled, SimulationError, UninitialisedRead
from nki_sim.modes import MODES
from nki_sim.schedule import shuffled

from .support import loaded, tile

X = np.arange(32, dtype=np.float32).reshape(8, 4)
SEEDS = range(8)


def two(body: Callable[..., Any], *arguments: Any) -> Any:
    """Run a kernel body on two cores."""
    return nki.jit(body)[2](*arguments)


def shared(shape: tuple[int, ...], dtype: str = "float32", name: str = "") -> Any:
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm, name=name)


def swap(src: Any, dst: Any, pipe: int = 0, **options: Any) -> None:
    other = 1 - nl.program_id(0)
    nisa.sendrecv(
        src=src, dst=dst, send_to_rank=other, recv_from_rank=other, pipe_id=pipe, **options
    )


def in_every_order(body: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a kernel gives, or the error it raises, with the plain and with random schedules."""
    found: list[Any] = []
    for seed in (None, *SEEDS):
        try:
            if seed is None:
                found.append(two(body, *arguments))
            else:
                with shuffled(seed):
                    found.append(two(body, *arguments))
        except SimulationError as error:
            found.append(error)
    return found


def always_refused(body: Callable[..., Any], pattern: str, *arguments: Any) -> None:
    """The kernel is refused for the same reason, whatever the schedule."""
    for error in in_every_order(body, *arguments):
        assert isinstance(error, IllegalProgram), error
        assert pattern in str(error), error


# -- memories and results --------------------------------------------------------------------------


def halves(x):
    """Each core doubles its half."""
    out, rows = shared(x.shape), x.shape[0] // nl.num_programs(0)
    part = nl.ds(nl.program_id(0) * rows, rows)
    mine = loaded(x[part])
    nisa.tensor_scalar(dst=mine, data=mine, op0=nl.multiply, operand0=2.0)
    nisa.dma_copy(dst=out[part], src=mine)
    return out


def test_cores_share_inputs_and_outputs() -> None:
    for result in in_every_order(halves, X):
        np.testing.assert_array_equal(result, X * 2)
    np.testing.assert_array_equal(nki.simulate(nki.jit(halves)[2])(X), X * 2)
    np.testing.assert_array_equal(nki.jit(halves)[(2,)](X), X * 2)
    np.testing.assert_array_equal(two(halves, torch.from_numpy(X)).numpy(), X * 2)


def test_grid_queries() -> None:
    seen = []

    def kernel():
        seen.append((nl.program_id(0), nl.num_programs(0), nl.program_ndim()))

    two(kernel)
    assert seen == [(0, 2, 1), (1, 2, 1)]


def test_on_chip_memory_and_private_hbm_are_private() -> None:
    def kernel():
        core, out = nl.program_id(0), shared((2, 4))
        scratch = nl.ndarray((1, 4), dtype=nl.float32, buffer=nl.private_hbm, name="scratch")
        nisa.dma_copy(dst=scratch, src=tile((1, 4), value=core + 5))
        nisa.dma_copy(dst=out[core : core + 1], src=scratch)
        return out

    for result in in_every_order(kernel):
        np.testing.assert_array_equal(result, [[5] * 4, [6] * 4])


def test_inputs_are_updated_in_place() -> None:
    def kernel(cache):
        core = nl.program_id(0)
        nisa.dma_copy(dst=cache[core : core + 1], src=tile((1, 4), value=core + 1))
        return cache

    cache = X.copy()
    assert two(kernel, cache) is cache
    assert (cache[0] == 1).all() and (cache[1] == 2).all() and (cache[2:] == X[2:]).all()


def test_shared_tensors_match_by_order() -> None:
    def shapes():
        shared((2, 4) if nl.program_id(0) else (4, 4))

    def types():
        shared((2, 4), dtype="int32" if nl.program_id(0) else "float32")

    def names():
        shared((2, 4), name=f"t{nl.program_id(0)}")

    for body in (shapes, types):
        always_refused(body, "both cores allocate the same tensors in shared HBM")
    with pytest.raises(NotModelled, match="matched by their order"):
        two(names)


def test_both_cores_return_the_same() -> None:
    def kernel():
        first, second = shared((1, 4)), shared((1, 4))
        return second if nl.program_id(0) else first

    always_refused(kernel, "both cores return the same tensors")


def test_capacity_is_per_core() -> None:
    def kernel():
        tile((128, 40000))  # 160000 bytes per partition: once per core, not twice

    two(kernel)


def test_two_cores_need_trn2_and_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IllegalProgram, match="two cores take part"):
        nki.jit(lambda: swap(tile((1, 4)), tile((1, 4))))[1]()
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn1")
    with pytest.raises(IllegalProgram, match="exists from trn2 on"):
        two(halves, X)


# -- sendrecv and core_barrier ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dma_engine": nisa.dma_engine.gpsimd_dma},
        {"use_gpsimd_dma": True},
        {"use_gpsimd_dma": False, "name": "swap"},
    ],
)
def test_sendrecv_exchanges_tiles(options: dict[str, Any]) -> None:
    def kernel(x):
        core, out = nl.program_id(0), shared(x.shape)
        rows = nl.ds(4 * core, 4)
        mine, theirs = loaded(x[rows]), tile((4, 4))
        swap(mine, theirs, **options)
        nisa.dma_copy(dst=out[rows], src=theirs)
        return out

    for result in in_every_order(kernel, X):
        np.testing.assert_array_equal(result, np.roll(X, 4, 0))


def test_sendrecv_of_unequal_parts() -> None:
    """An odd number of rows: each core receives as many as the other sends."""

    def kernel(x):
        core, out = nl.program_id(0), shared((2, 5, 4))
        mine, others = (2, 3) if core == 0 else (3, 2)
        received = tile((others, 4))
        swap(loaded(x[nl.ds(2 * core, mine)]), received)
        nisa.dma_copy(dst=out[core, nl.ds(2 - 2 * core, others)], src=received)
        nisa.dma_copy(dst=out[core, nl.ds(2 * core, mine)], src=x[nl.ds(2 * core, mine)])
        return out

    with pytest.warns(UserWarning, match="documented to have one shape"):
        for result in in_every_order(kernel, X[:5]):
            np.testing.assert_array_equal(result, [X[:5], X[:5]])


def test_sendrecv_into_its_own_source() -> None:
    def kernel(x):
        core, out = nl.program_id(0), shared((2, 4))
        one = loaded(x[core : core + 1])
        swap(one, one)
        nisa.dma_copy(dst=out[core : core + 1], src=one)
        return out

    for result in in_every_order(kernel, X):
        np.testing.assert_array_equal(result, X[[1, 0]])


def test_sendrecv_to_oneself() -> None:
    def kernel(x):
        core, out = nl.program_id(0), shared((2, 4))
        received = tile((1, 4))
        nisa.sendrecv(loaded(x[core : core + 1]), received, core, core, 1)
        nisa.dma_copy(dst=out[core : core + 1], src=received)
        return out

    np.testing.assert_array_equal(two(kernel, X), X[:2])


def test_sendrecv_limits() -> None:
    def send(columns: int, dtype: str, **options: Any) -> None:
        swap(tile((2, columns), dtype), tile((2, columns), dtype), **options)

    gpsimd = {"dma_engine": nisa.dma_engine.gpsimd_dma}
    for dtype, columns in (("float32", 256), ("bfloat16", 256), ("uint8", 256)):
        two(lambda d=dtype, c=columns: send(c, d, **gpsimd))
        two(lambda d=dtype, c=columns: send(c + 1, d))
        with pytest.raises(IllegalProgram, match="GpSimd's DMA swaps at most"):
            two(lambda d=dtype, c=columns: send(c + 1, d, **gpsimd))
    wrong: list[tuple[Callable[[], None], str]] = [
        (lambda: nisa.sendrecv(tile((1, 4)), tile((1, 4)), 2, 0, 0), "the ranks are 0 and 1"),
        (lambda: nisa.sendrecv(tile((1, 4)), tile((1, 4)), 0, 0, "a"), "pipe is a number"),
        (lambda: swap(tile((1, 4)), tile((1, 4), "int32")), "dst has src's type"),
        (lambda: swap(tile((1, 4)), tile((1, 4)), use_gpsimd_dma=1), "is a bool"),
        (lambda: swap(tile((1, 4 + nl.program_id(0))), tile((1, 4 + nl.program_id(0)))), "shape"),
        (lambda: nisa.sendrecv(tile((1, 4)), tile((1, 4)), 1, 1, 0), "receives from a core"),
    ]
    for body, pattern in wrong:
        always_refused(body, pattern)


def test_core_barrier_orders_accesses() -> None:
    def kernel(x):
        core, board, out = nl.program_id(0), shared((2, 4)), shared((2, 4))
        for turn in range(3):
            nisa.dma_copy(dst=board[core : core + 1], src=tile((1, 4), value=10 * turn + core))
            nisa.core_barrier(board, (0, 1))
            theirs = loaded(board[1 - core : 2 - core])
            nisa.core_barrier(data=board, cores=[0, 1], engine=nisa.engine.vector)
        nisa.dma_copy(dst=out[core : core + 1], src=theirs)
        return out

    for result in in_every_order(kernel, X):
        np.testing.assert_array_equal(result, [[21] * 4, [20] * 4])


@pytest.mark.parametrize("grid", [None, 1])
def test_core_barrier_on_one_core_waits_for_nobody(grid: int | None) -> None:
    def kernel(x):
        out = shared(x.shape)
        nisa.dma_copy(dst=out, src=x)
        nisa.core_barrier(out, (0, 1))
        nisa.dma_copy(dst=out[0:1], src=out[1:2])
        return out

    launched = nki.jit(kernel) if grid is None else nki.jit(kernel)[grid]
    with pytest.warns(UserWarning, match="on one core there is nothing to wait for") as found:
        result = launched(X)
    assert [warning.filename for warning in found] == [__file__]
    np.testing.assert_array_equal(result, np.concatenate([X[1:2], X[1:]]))
    with pytest.raises(IllegalProgram, match=r"the cores are \(0, 1\)"):
        nki.jit(lambda x: nisa.core_barrier(x, (0,)))(X)


def test_core_barrier_on_a_tile_orders_accesses_too() -> None:
    def kernel(x):
        core, out = nl.program_id(0), shared((2, 2, 4))
        nisa.dma_copy(dst=out[core, 0:1], src=x[core : core + 1])
        nisa.core_barrier(tile((1, 1)), (0, 1))
        nisa.dma_copy(dst=out[core, 1:2], src=out[1 - core, 0:1])
        return out

    with pytest.warns(UserWarning, match="which no other core can access"):
        for result in in_every_order(kernel, X):
            np.testing.assert_array_equal(result, [X[:2], X[1::-1]])


def test_core_barrier_limits() -> None:
    def private():
        nisa.core_barrier(nl.ndarray((1, 4), dtype=nl.int32, buffer=nl.private_hbm), (0, 1))

    def different():
        first, second = shared((1, 4)), shared((1, 4))
        nisa.core_barrier(second if nl.program_id(0) else first, (0, 1))

    always_refused(private, "data must be in shared_hbm")
    always_refused(lambda x: nisa.core_barrier(x, (0, 1, 2)), "the cores are (0, 1)", X)
    always_refused(different, "both cores name the same tensor")


# -- deadlocks -------------------------------------------------------------------------------------


def test_a_rendezvous_that_one_core_skips() -> None:
    def kernel(x):
        if nl.program_id(0) == 0:
            nisa.core_barrier(x, (0, 1))

    for error in in_every_order(kernel, X):
        text = str(error)
        assert isinstance(error, IllegalProgram) and error.operation == "core_barrier"
        assert "core 0 waits for core_barrier on x (8, 4)" in text
        assert "nisa.core_barrier(x, (0, 1))" in text and "test_lnc.py" in text
        assert "core 1 has finished" in text and error.remedy


def test_rendezvous_in_different_orders_show_both_stacks() -> None:
    def exchange(pipe: int) -> None:
        swap(tile((1, 4)), tile((1, 4)), pipe)

    def kernel():
        for pipe in (0, 1) if nl.program_id(0) else (1, 0):
            exchange(pipe)

    def barrier_against_swap(x):
        if nl.program_id(0):
            nisa.core_barrier(x, (0, 1))
        else:
            exchange(7)

    for error in in_every_order(kernel):
        text = str(error)
        assert "core 0 waits for sendrecv on pipe 1" in text
        assert "core 1 waits for sendrecv on pipe 0" in text
        assert text.count("in kernel\n") == text.count("in exchange\n") == 2
        assert "site-packages" not in text and "nki_sim/schedule" not in text
    always_refused(barrier_against_swap, "core 1 waits for core_barrier", X)
    always_refused(barrier_against_swap, "core 0 waits for sendrecv on pipe 7", X)


def test_a_core_that_raises_ends_the_launch() -> None:
    def kernel(x, failing):
        if nl.program_id(0) == failing:
            raise ValueError("the kernel's own")
        nisa.core_barrier(x, (0, 1))

    for failing in (0, 1):
        for seed in SEEDS:
            with shuffled(seed), pytest.raises(ValueError, match="the kernel's own"):
                two(kernel, X, failing)


def test_a_kernel_cannot_swallow_the_end_of_the_other_core() -> None:
    def kernel(x):
        if nl.program_id(0) == 0:
            raise ValueError("first")
        try:
            nisa.core_barrier(x, (0, 1))
        except Exception:
            nisa.core_barrier(x, (0, 1))

    with pytest.raises(ValueError, match="first"):
        two(kernel, X)


def test_no_thread_stays() -> None:
    before = threading.active_count()
    for body in (halves, lambda x: 1 / nl.program_id(0)):
        with suppress(ZeroDivisionError):
            two(body, X)
    assert threading.active_count() == before


# -- races -----------------------------------------------------------------------------------------


def test_writing_other_values_to_the_same_rows_is_a_race() -> None:
    def kernel(x):
        out, core = shared((8, 4), name="out"), nl.program_id(0)
        for row in range(8):
            if row % 2 == core or row == 6:
                value = tile((1, 4), value=core)
                nisa.dma_copy(dst=out[row : row + 1], src=value, name=f"row{row}")
        return out

    for error in in_every_order(kernel, X):
        assert isinstance(error, IllegalProgram) and error.operation == "dma_copy"
        for core in (0, 1):
            assert f"core {core}: dma_copy 'row6' (test_lnc.py:" in error.received
        assert "writes out (1, 4)" in error.received


def test_writing_equal_values_to_the_same_rows_is_a_finding() -> None:
    def kernel(x):
        out, core = shared((8, 4), name="out"), nl.program_id(0)
        first = 2 * core
        nisa.dma_copy(dst=out[first : first + 6], src=loaded(x[first : first + 6]))
        return out

    for result in in_every_order(kernel, X):
        np.testing.assert_array_equal(result, X)
    with nki_sim.record() as recording:
        two(kernel, X)
    (warning,) = [w for w in recording.launches[0].warnings if "same bytes" in w]
    assert re.match(r"dma_copy \(test_lnc.py:\d+\) writes out \(6, 4\)", warning)
    with nki_sim.mode("shapes"), nki_sim.record() as recording:
        two(kernel, X)
    assert "both cores write equal bytes to the same elements" in recording.launches[0].assumed


def test_equal_values_in_the_end_are_a_race_if_another_came_before() -> None:
    def kernel(again: bool):
        out, core = shared((2, 4), name="out"), nl.program_id(0)
        if core == 0:
            nisa.dma_copy(dst=out[0:1], src=tile((1, 4), value=1))
            if again:
                nisa.dma_copy(dst=out[0:1], src=tile((1, 4), value=1))
        nisa.dma_copy(dst=out, src=tile((2, 4), value=1 if again else 2))
        return out

    for result in in_every_order(kernel, True):
        np.testing.assert_array_equal(result, np.ones((2, 4)))
    always_refused(kernel, "with elements in common", False)


def test_equal_values_may_be_read_by_a_core_that_has_written_them() -> None:
    def kernel(first: int, second: int):
        """Core 0 writes before or after it reads, core 1 writes `second` at last."""
        out, core, result = shared((2, 4), name="out"), nl.program_id(0), shared((2, 2, 4))
        if core == 1 or first:
            nisa.dma_copy(dst=out, src=tile((2, 4), value=1))
        nisa.dma_copy(dst=result[core], src=loaded(out))
        if core == 1:
            nisa.dma_copy(dst=out, src=tile((2, 4), value=second))
        return result

    for result in in_every_order(kernel, 1, 1):
        np.testing.assert_array_equal(result, np.ones((2, 2, 4)))
    always_refused(kernel, "reads out (2, 4)", 0, 1)
    always_refused(kernel, "with elements in common", 1, 2)


def test_reading_what_the_other_core_writes_is_a_race() -> None:
    def before(x):
        core = nl.program_id(0)
        loaded(x[1 - core : 2 - core])
        nisa.dma_copy(dst=x[core : core + 1], src=tile((1, 4)))

    def fresh(x):
        out, core = shared((2, 4), name="out"), nl.program_id(0)
        nisa.dma_copy(dst=out[core : core + 1], src=tile((1, 4)))
        loaded(out[1 - core : 2 - core])

    always_refused(before, "ordered by a rendezvous", X.copy())
    always_refused(fresh, "ordered by a rendezvous", X)


def test_a_race_of_one_side() -> None:
    def kernel():
        out = shared((1, 4), name="out")
        if nl.program_id(0) == 1:
            nisa.dma_copy(dst=out, src=tile((1, 4)))
        else:
            nisa.dma_copy(dst=tile((1, 4)), src=out)

    always_refused(kernel, "core 0: dma_copy")
    always_refused(kernel, "reads out (1, 4)")


def test_what_nobody_writes_is_not_a_race() -> None:
    def kernel():
        out = shared((2, 4), name="out")
        core = nl.program_id(0)
        if core == 1:
            nisa.dma_copy(dst=out[0:1], src=tile((1, 4)))
        nisa.core_barrier(out, (0, 1))
        loaded(out)

    for error in in_every_order(kernel):
        assert isinstance(error, UninitialisedRead), error


def test_elements_decide_not_rows() -> None:
    def columns(step: int) -> Callable[[Any], Any]:
        def kernel(x):
            out, core = shared((8, 4)), nl.program_id(0)
            nisa.dma_copy(dst=out[:, core * step :: 2], src=loaded(x[:, core::2]))
            return out

        return kernel

    for result in in_every_order(columns(1), X):
        np.testing.assert_array_equal(result, X)
    always_refused(columns(0), "with elements in common", X)


def test_scatters_race_where_their_indices_meet() -> None:
    def kernel(rows):
        out, core = shared((8, 4)), nl.program_id(0)
        nisa.memset(dst=(zero := tile((8, 4))), value=0)
        if core == 0:
            nisa.dma_copy(dst=out, src=zero)
        nisa.core_barrier(out, (0, 1))
        index = loaded(rows[core * 2 : core * 2 + 2])
        target = out.ap([[4, 2], [1, 4]], 0, vector_offset=index)
        nisa.dma_copy(dst=target, src=tile((2, 4), value=core + 1))
        return out

    apart = np.array([[1], [5], [2], [7]], np.int32)
    expected = np.zeros((8, 4))
    expected[[1, 5]], expected[[2, 7]] = 1, 2
    for result in in_every_order(kernel, apart):
        np.testing.assert_array_equal(result, expected)
    always_refused(kernel, "with elements in common", np.array([[1], [5], [5], [7]], np.int32))


def test_views_of_other_types_race_too() -> None:
    def kernel(x):
        core = nl.program_id(0)
        if core:
            nisa.dma_copy(dst=x[0:1, 0:1], src=tile((1, 1), value=1))
        else:
            nisa.dma_copy(dst=x.view(nl.uint8)[0:1, 3:4], src=tile((1, 1), "uint8"))

    always_refused(kernel, "with elements in common", X.copy())


def test_a_sendrecv_orders_too() -> None:
    def kernel(x):
        board, core = shared((2, 4)), nl.program_id(0)
        nisa.dma_copy(dst=board[core : core + 1], src=loaded(x[core : core + 1]))
        swap(tile((1, 1)), tile((1, 1)))
        return_to = shared((2, 4))
        nisa.dma_copy(dst=return_to[core : core + 1], src=board[1 - core : 2 - core])
        return return_to

    for result in in_every_order(kernel, X):
        np.testing.assert_array_equal(result, X[[1, 0]])


# -- the account -----------------------------------------------------------------------------------


def test_the_account_is_per_core_and_in_total() -> None:
    def kernel(x):
        core, out = nl.program_id(0), shared((8, 128))
        if core:
            tile((1, 100))
        rows = nl.ds(core * 4, 4)
        mine = loaded(x[rows])
        swap(mine, mine)
        nisa.dma_copy(dst=out[rows], src=mine)
        nisa.core_barrier(out, (0, 1))
        return out

    with nki_sim.record() as recording:
        two(kernel, np.ones((8, 128), np.float32))
    (launch,) = recording.launches
    first, second = launch.cores
    assert (first.core, second.core) == (0, 1)
    assert first.summary()["instructions"] == {"dma": 3, "gpsimd": 1}
    assert second.summary()["instructions"] == {"dma": 3, "gpsimd": 1, "vector": 1}
    total = launch.summary()
    assert total["cores"] == [first.summary(), second.summary()]
    assert total["instructions"] == {"dma": 6, "gpsimd": 2, "vector": 1}
    assert total["hbm_read_bytes"] == total["hbm_write_bytes"] == 8 * 128 * 4
    assert total["sbuf_peak_bytes_per_partition"] == 128 * 4
    assert [e.core for e in launch.instructions] == [0] * 4 + [1] * 5
    meetings = {
        core: [(e.opcode, e.rendezvous) for e in launch.cores[core].instructions if e.rendezvous]
        for core in (0, 1)
    }
    assert meetings[0] == meetings[1] == [("sendrecv", 1), ("core_barrier", 2)]
    assert launch.instructions[3].bytes == 0


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode: str) -> None:
    def stuck(x):
        if nl.program_id(0):
            nisa.core_barrier(x, (0, 1))

    with nki_sim.mode(mode):
        assert two(halves, X).shape == (8, 4)
        with pytest.raises(IllegalProgram, match="never ends"):
            two(stuck, X)


# -- any program, any order ------------------------------------------------------------------------

STEPS = st.lists(
    st.sampled_from(["scale", "add core", "swap", "publish", "shift"]), min_size=1, max_size=8
)


def expected_of(steps: list[str]) -> np.ndarray:
    """The same steps on one [2, rows, columns] array."""
    data = X.reshape(2, 4, 4).copy()
    for step in steps:
        if step == "scale":
            data *= 2
        elif step == "add core":
            data += np.array([0, 1], np.float32).reshape(2, 1, 1)
        elif step == "swap":
            data = data + data[::-1]
        elif step == "publish":
            data = data - data[::-1]
        else:
            data = np.roll(data, 1, 2)
    return data.reshape(8, 4)


def run_steps(x: Any, steps: tuple[str, ...]) -> Any:
    core, out, board = nl.program_id(0), shared((8, 4)), shared((8, 4))
    mine, other = nl.ds(4 * core, 4), nl.ds(4 - 4 * core, 4)
    data, theirs = loaded(x[mine]), tile((4, 4))
    for number, step in enumerate(steps):
        if step == "scale":
            nisa.tensor_scalar(dst=data, data=data, op0=nl.multiply, operand0=2.0)
        elif step == "add core":
            nisa.tensor_scalar(dst=data, data=data, op0=nl.add, operand0=float(core))
        elif step == "swap":
            swap(data, theirs, number)
            nisa.tensor_tensor(dst=data, data1=data, data2=theirs, op=nl.add)
        elif step == "publish":
            nisa.dma_copy(dst=board[mine], src=data)
            nisa.core_barrier(board, (0, 1))
            nisa.dma_copy(dst=theirs, src=board[other])
            nisa.core_barrier(board, (0, 1))
            nisa.tensor_tensor(dst=data, data1=data, data2=theirs, op=nl.subtract)
        else:
            moved = tile((4, 4))
            nisa.tensor_copy(dst=moved[:, 1:4], src=data[:, 0:3])
            nisa.tensor_copy(dst=moved[:, 0:1], src=data[:, 3:4])
            data = moved
    nisa.dma_copy(dst=out[mine], src=data)
    return out


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 2**32))
def test_results_do_not_depend_on_the_schedule(steps: list[str], seed: int) -> None:
    kernel = nki.jit(run_steps)[2]
    with shuffled(seed):
        result = kernel(X, tuple(steps))
    np.testing.assert_array_equal(result, expected_of(steps))
    np.testing.assert_array_equal(kernel(X, tuple(steps)), result)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS.filter(lambda s: set(s) & {"swap", "publish"}), seed=st.integers(0, 2**32))
def test_leaving_out_a_rendezvous_is_always_noticed(steps: list[str], seed: int) -> None:
    """Core 1 skips its last rendezvous."""

    def kernel(x, steps):
        last = max(n for n, s in enumerate(steps) if s in ("swap", "publish"))
        kept = steps[:last] if nl.program_id(0) else steps
        return run_steps(x, kept)

    with shuffled(seed), pytest.raises(IllegalProgram, match="never ends"):
        two(kernel, X, tuple(steps))
