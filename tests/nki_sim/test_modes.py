"""The modes: same account, same numbers where there are any, and which checks stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest

import nki_sim
from benchmarks import kernels
from nki_sim.errors import IllegalProgram, NoNumbers, SimulationError, UninitialisedRead
from nki_sim.modes import MODES
from nki_sim.placeholders import Placeholder

from .support import in_kernel, loaded, stored, tile

SMALL = {"experts": 16, "hidden": 512, "inner": 160}


def accounted(mode: str, kernel: Callable[..., Any], *inputs: Any) -> tuple[Any, Any]:
    """A kernel's results and its launch, in a mode."""
    with nki_sim.mode(mode), nki_sim.record() as recording:
        results = kernel(*inputs)
    return results, recording.launches[0]


def anonymous(launch: Any) -> list[Any]:
    """The events of a launch with storages numbered from 0 in order of appearance."""
    numbers: dict[int, int] = {}
    events = []
    for event in launch.instructions:
        operands = [
            (o.role, o.access, o.shape, o.dtype, o.memory, o.offset, o.strides,
             numbers.setdefault(o.storage, len(numbers)))
            for o in event.operands
        ]  # fmt: skip
        events.append((event.opcode, event.engine, event.elements, event.bytes, event.macs))
        events.append(operands)
    return events


def test_the_moe_layer_agrees_with_its_oracle() -> None:
    inputs = kernels.moe_inputs(**SMALL)
    got, chosen = kernels.moe_decode(*inputs)
    expected, order = kernels.moe_oracle(*inputs)
    np.testing.assert_array_equal(chosen[0], order)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_all_modes_write_the_same_account() -> None:
    inputs = kernels.moe_inputs(**SMALL)
    launches = {mode: accounted(mode, kernels.moe_decode, *inputs)[1] for mode in MODES}
    for mode, launch in launches.items():
        assert launch.mode == mode
        assert anonymous(launch) == anonymous(launches["full"])
        assert launch.summary() == launches["full"].summary()


def test_unchecked_numbers_are_the_same_bits() -> None:
    inputs = kernels.moe_inputs(**SMALL)
    full, _ = accounted("full", kernels.moe_decode, *inputs)
    fast, _ = accounted("unchecked", kernels.moe_decode, *inputs)
    for one, other in zip(full, fast, strict=True):
        np.testing.assert_array_equal(one, other)


def test_shapes_say_what_they_assumed() -> None:
    _, launch = accounted("shapes", kernels.moe_decode, *kernels.moe_inputs(**SMALL))
    assert launch.assumed == {"dma_copy: the dynamic offset of src is 0": 8 * 4}
    assert accounted("full", kernels.moe_decode, *kernels.moe_inputs(**SMALL))[1].assumed == {}


def test_placeholders_go_from_kernel_to_kernel_and_cannot_be_read() -> None:
    x = np.ones((128, 128), np.float32)
    with nki_sim.mode("shapes"):
        product = kernels.matmul(x, x)
        again = kernels.matmul(product.T, product)
    assert isinstance(again, Placeholder)
    assert (again.shape, again.dtype, again.nbytes) == ((128, 128), np.float32, 65536)
    assert again[0, 3:5].shape == (2,) and again.reshape(64, -1).shape == (64, 256)
    for read in (np.asarray, float, bool, list, lambda a: a + 1, lambda a: 1.0 * a, np.sum):
        with pytest.raises(NoNumbers):
            read(again)
    with pytest.raises(ValueError, match="cannot reshape"):
        again.reshape(3, -1)
    with pytest.raises(NoNumbers, match="argument x_transposed has values"):
        kernels.matmul(again, x)


def test_torch_callers_receive_meta_tensors() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones((128, 128), dtype=torch.bfloat16)
    with nki_sim.mode("shapes"):
        product = kernels.matmul(x, x)
        again = kernels.matmul(product, x)
    for one in (product, again):
        assert one.is_meta and one.shape == (128, 128) and one.dtype == torch.bfloat16


def test_updated_arguments_are_not_handed_back_as_if_computed() -> None:
    @nki.jit
    def double(x):
        t = loaded(x)
        nisa.tensor_scalar(dst=t, data=t, op0=nl.multiply, operand0=2.0)
        nisa.dma_copy(dst=x, src=t)
        return x

    x = np.ones((4, 4), np.float32)
    with nki_sim.mode("shapes"):
        assert isinstance(double(x), Placeholder)
    assert (x == 1).all()
    assert double(x) is x and (x == 2).all()


def test_shapes_need_no_memory_for_data() -> None:
    """A launch on 64 GiB of weights."""
    weights = Placeholder((1 << 15, 1 << 20), np.uint16)

    @nki.jit
    def big(w):
        out = nl.ndarray(w.shape, dtype=w.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=w)
        return out

    with nki_sim.mode("shapes"):
        assert big(weights).nbytes == 1 << 36


BREAKS: dict[str, Callable[[], Any]] = {
    "size": lambda: nisa.tensor_copy(dst=tile((4, 8)), src=tile((4, 9))),
    "limit": lambda: nisa.nc_matmul(
        dst=nl.ndarray((4, 600), dtype=nl.float32, buffer=nl.psum),
        stationary=tile((4, 4)),
        moving=tile((4, 600)),
    ),
    "memory": lambda: nisa.dma_copy(dst=tile((4, 4)), src=tile((4, 4), buffer=nl.psum)),
    "type": lambda: nisa.nc_transpose(
        dst=nl.ndarray((4, 4), dtype=nl.bfloat16, buffer=nl.psum), data=tile((4, 4))
    ),
    "start": lambda: nisa.memset(dst=nl.ndarray((64, 2), dtype=nl.float32)[16:20], value=0.0),
    "capacity": lambda: nl.ndarray((128, 80000), dtype=nl.float32),
    "slice": lambda: tile((4, 4))[0:5],
    "operator": lambda: nisa.tensor_tensor(
        dst=tile((4, 4)), data1=tile((4, 4)), data2=tile((4, 4)), op=nl.exp
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_shapes_keep_the_checks_that_need_no_data(what: str) -> None:
    with pytest.raises(IllegalProgram) as full:
        in_kernel(BREAKS[what])
    with nki_sim.mode("shapes"), pytest.raises(IllegalProgram) as on_shapes:
        in_kernel(BREAKS[what])
    assert str(full.value) == str(on_shapes.value)


def test_shapes_refuse_what_nothing_has_written() -> None:
    def read_fresh() -> None:
        nisa.tensor_copy(dst=tile((4, 4)), src=nl.ndarray((4, 4), dtype=nl.float32))

    def read_part() -> None:
        fresh = nl.ndarray((4, 4), dtype=nl.float32)
        nisa.memset(dst=fresh[:, 0:2], value=0.0)
        nisa.tensor_copy(dst=tile((4, 4)), src=fresh)

    with nki_sim.mode("shapes"):
        with pytest.raises(UninitialisedRead, match=r"element \(0, 0\)"):
            in_kernel(read_fresh)
        in_kernel(read_part)
    with pytest.raises(UninitialisedRead):
        in_kernel(read_part)


def test_unchecked_accepts_illegal_programs() -> None:
    """More columns than the array has, and rows from an illegal partition: NumPy can do that."""

    def body(x: Any) -> Any:
        product = nl.ndarray((4, 512), dtype=nl.float32, buffer=nl.psum)
        data = loaded(x)
        nisa.nc_matmul(dst=product.reshape((4, 512)), stationary=data[:, 0:4], moving=data)
        result = nl.ndarray((64, 512), dtype=nl.float32)
        nisa.tensor_copy(dst=result[17:21], src=product)
        return np.array(result[17:21].array)

    x = np.ones((128, 512), np.float32)
    with pytest.raises(IllegalProgram):
        in_kernel(body, x)
    with nki_sim.mode("unchecked"):
        assert (in_kernel(body, x) == 128).all()


def test_modes_nest_and_are_known() -> None:
    with nki_sim.mode("shapes"):
        with nki_sim.mode("full"):
            assert (in_kernel(lambda: np.array(tile((2, 2), value=3).array)) == 3).all()
        with pytest.raises(NoNumbers, match="computes no numbers"):
            in_kernel(lambda: tile((2, 2)).array)
    with pytest.raises(IllegalProgram, match="one of full, tails, unch"), nki_sim.mode("x"):
        pass


def test_accumulation_in_psum_without_checks() -> None:
    def body(x: Any) -> Any:
        data = loaded(x)
        total = nl.ndarray((4, 4), dtype=nl.float32, buffer=nl.psum)
        for _ in range(3):
            nisa.nc_matmul(dst=total, stationary=data, moving=data)
        return np.array(total.array)

    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    with nki_sim.mode("unchecked"):
        np.testing.assert_array_equal(in_kernel(body, x), 3 * (x.T @ x))


def test_fresh_memory_is_poison_until_it_is_written() -> None:
    """The filling is put off, but never seen to be missing."""

    def body() -> tuple[Any, Any, Any]:
        part = nl.ndarray((4, 8), dtype=nl.float32)
        nisa.memset(dst=part[0:2], value=1.0)
        whole = nl.ndarray((4, 8), dtype=nl.float32)
        nisa.memset(dst=whole, value=2.0)
        return np.array(part.array), np.array(whole.array), nl.ndarray((4, 8), nl.int8).array.copy()

    part, whole, fresh = in_kernel(body)
    assert (part[:2] == 1).all() and np.isnan(part[2:]).all()
    assert (whole == 2).all() and (fresh == -1).all()


def test_results_of_a_failed_launch_do_not_leak_into_the_next() -> None:
    with nki_sim.mode("shapes"), pytest.raises(SimulationError):
        in_kernel(lambda: tile((4, 4)).array)
    assert stored and (in_kernel(lambda: np.array(tile((4, 4)).array)) == 0).all()


@nki.jit
def halves(x, index):
    """Each of two cores doubles the row of its half that `index` names, and adds the other's."""
    core = nl.program_id(0)
    out = nl.ndarray((2, 8), dtype=x.dtype, buffer=nl.shared_hbm)
    place = loaded(index[core : core + 1])
    row = nl.ndarray((1, 8), dtype=x.dtype, buffer=nl.sbuf)
    source = x.ap(pattern=[[8, 1], [1, 8]], offset=16 * core, scalar_offset=place, indirect_dim=0)
    nisa.dma_copy(dst=row, src=source)
    nisa.tensor_scalar(dst=row, data=row, op0=nl.multiply, operand0=2.0)
    other = nl.ndarray((1, 8), dtype=x.dtype, buffer=nl.sbuf)
    nisa.sendrecv(src=row, dst=other, send_to_rank=1 - core, recv_from_rank=1 - core, pipe_id=0)
    nisa.tensor_tensor(dst=other, data1=row, data2=other, op=nl.add)
    nisa.dma_copy(dst=out[core : core + 1], src=other)
    nisa.core_barrier(out, (0, 1))
    return out


@pytest.mark.parametrize("mode", MODES)
def test_two_cores_run_in_every_mode(mode: str) -> None:
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    with nki_sim.mode(mode), nki_sim.record() as recording:
        got = halves[2](x, np.array([[1], [0]], np.int32))
    (launch,) = recording.launches
    assert launch.mode == mode and got.shape == (2, 8)
    if mode == "shapes":
        assert sum(launch.assumed.values()) == 2
    else:
        np.testing.assert_array_equal(got, np.tile(2 * x[1] + 2 * x[2], (2, 1)))


# -- rows that nobody has written ------------------------------------------------------------------


def ragged(after: Callable[[Any, Any], None] | None = None) -> Callable[..., Any]:
    """A kernel that normalises whole tiles of 128 rows and stores the rows that it has loaded.

    ``after(tile, sums)`` issues more instructions before the store.
    """

    @nki.jit
    def kernel(x):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        rows, columns = x.shape
        data = nl.ndarray((128, columns), dtype=x.dtype, buffer=nl.sbuf)
        squares = nl.ndarray((128, columns), dtype=nl.float32, buffer=nl.sbuf)
        sums = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=data[0:rows], src=x)
        nisa.activation(
            dst=squares, op=nl.square, data=data, reduce_op=nl.add, reduce_res=sums,
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )  # fmt: skip
        nisa.activation(dst=sums, op=nl.rsqrt, data=sums)
        nisa.tensor_scalar(dst=data, data=data, op0=nl.multiply, operand0=sums)
        if after is not None:
            after(data, sums)
        nisa.dma_copy(dst=out, src=data[0:rows])
        return out

    return kernel


ROWS = np.random.default_rng(3).standard_normal((40, 8)).astype(np.float32)


def test_unwritten_rows_pass_row_wise_instructions_in_mode_tails_only() -> None:
    with pytest.raises(UninitialisedRead, match=r"\(40, 0\) has never been written"):
        ragged()(ROWS)
    result, launch = accounted("tails", ragged(), ROWS)
    expected = ROWS / np.sqrt((ROWS**2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    texts = [text for text in launch.warnings if "nobody has written, in 88 partitions" in text]
    assert [text.split()[0] for text in texts] == ["activation", "activation", "tensor_scalar"]


def test_the_environment_chooses_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NKI_SIM_MODE", "tails")
    assert ragged()(ROWS).shape == ROWS.shape
    with nki_sim.mode("full"), pytest.raises(UninitialisedRead):
        ragged()(ROWS)
    monkeypatch.setenv("NKI_SIM_MODE", "lenient")
    with pytest.raises(IllegalProgram, match="NKI_SIM_MODE"):
        ragged()(ROWS)


def _store_too_much(data: Any, sums: Any) -> None:
    scratch = nl.ndarray((41, 8), dtype=nl.float32, buffer=nl.private_hbm)
    nisa.dma_copy(dst=scratch, src=data[0:41])


def _sum_over_rows(data: Any, sums: Any) -> None:
    total = nl.ndarray((1, 8), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=total, stationary=sums, moving=data)


def _transpose(data: Any, sums: Any) -> None:
    turned = nl.ndarray((8, 128), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_transpose(dst=turned, data=data)


def _go_on_in_the_registers(data: Any, sums: Any) -> None:
    whole = tile((128, 8), value=1)
    for command in (nisa.reduce_cmd.reset_reduce, nisa.reduce_cmd.reduce):
        nisa.activation(
            dst=tile((128, 8)), op=nl.copy, data=data, reduce_op=nl.add, reduce_cmd=command
        )
        data = whole


@pytest.mark.parametrize(
    "after", [_store_too_much, _sum_over_rows, _transpose, _go_on_in_the_registers]
)
def test_unwritten_rows_stay_unwritten(after: Callable[[Any, Any], None]) -> None:
    with nki_sim.mode("tails"), pytest.raises(UninitialisedRead):
        ragged(after)(ROWS)


@pytest.mark.parametrize("stored", ["written", "unwritten", "sum of the row"])
def test_elements_are_followed_one_by_one(stored: str) -> None:
    def kernel(x):
        data, sums = (nl.ndarray((4, n), dtype=x.dtype) for n in (8, 1))
        nisa.dma_copy(dst=data[:, 0:5], src=x)
        nisa.tensor_tensor(dst=data, data1=data, data2=tile((4, 8), value=2), op=nl.multiply)
        nisa.tensor_reduce(dst=sums, data=data, op=nl.add, axis=1)
        out = nl.ndarray((4, 1), dtype=x.dtype, buffer=nl.shared_hbm)
        source = {"written": data[:, 4:5], "unwritten": data[:, 5:6], "sum of the row": sums}
        nisa.dma_copy(dst=out, src=source[stored])
        return out

    x = np.ones((4, 5), np.float32)
    with nki_sim.mode("tails"):
        if stored == "written":
            assert (nki.jit(kernel)(x) == 2).all()
        else:
            with pytest.raises(UninitialisedRead, match="dma_copy"):
                nki.jit(kernel)(x)


@pytest.mark.parametrize("rows", [8, 9])
def test_what_the_other_core_has_not_written_is_not_received(rows: int) -> None:
    def kernel():
        core = nl.program_id(0)
        sent, received = nl.ndarray((16, 4), dtype=nl.float32), tile((16, 4))
        nisa.memset(dst=sent[0 : 8 + 8 * core], value=float(core + 1))
        nisa.sendrecv(
            src=sent, dst=received, send_to_rank=1 - core, recv_from_rank=1 - core, pipe_id=0
        )
        out = nl.ndarray((2, rows, 4), dtype=nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out[core], src=received[0:rows])
        return out

    with pytest.raises(UninitialisedRead, match="NKI_SIM_MODE=tails"):
        nki.jit(kernel)[2]()
    with nki_sim.mode("tails"):
        if rows == 8:
            assert (nki.jit(kernel)[2]()[:, 0, 0] == [2, 1]).all()
        else:  # core 1 has received eight rows from core 0
            with pytest.raises(UninitialisedRead, match=r"\(8, 0\)"):
                nki.jit(kernel)[2]()


def test_rows_written_later_are_rows_like_others() -> None:
    def after(data: Any, sums: Any) -> None:
        nisa.memset(dst=data, value=1.0)
        _store_too_much(data, sums)

    with nki_sim.mode("tails"):
        assert (ragged(after)(ROWS) == 1).all()
