"""The account of a kernel whose numbers can be worked out by hand."""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

import nki_sim

from .support import loaded


@nki.jit
def linear(x, w):
    """out[16, 32] = x[64, 16].T @ w[64, 32], bf16 to fp32."""
    product = nl.ndarray((16, 32), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=product, stationary=loaded(x), moving=loaded(w), name="multiply")
    result = nl.ndarray((16, 32), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=result, op=nl.relu, data=product)
    nisa.tensor_scalar(dst=result, data=result, op0=nl.multiply, operand0=0.5)
    out = nl.ndarray((16, 32), dtype=nl.float32, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=result)
    return out


def arguments() -> tuple[np.ndarray, np.ndarray]:
    import ml_dtypes

    return np.ones((64, 16), ml_dtypes.bfloat16), np.ones((64, 32), ml_dtypes.bfloat16)


def test_summary_of_a_small_kernel() -> None:
    with nki_sim.record() as recording:
        linear(*arguments())
    (launch,) = recording.launches
    assert launch.kernel == "linear"
    assert launch.summary() == {
        "instructions": {"dma": 3, "scalar": 1, "tensor": 1, "vector": 1},
        "macs": 64 * 16 * 32,
        "hbm_read_bytes": 64 * 16 * 2 + 64 * 32 * 2,
        "hbm_write_bytes": 16 * 32 * 4,
        # loaded(w), while loaded(x) is alive, is the peak before the operands are released
        "sbuf_peak_bytes_per_partition": max(16 * 2 + 32 * 2, 32 * 4),
        "psum_peak_banks": 1,
        "elements": {
            "dma": 64 * 16 + 64 * 32 + 16 * 32,
            "scalar": 16 * 32,
            "tensor": 64 * 32,
            "vector": 16 * 32,
        },
    }


def test_events_describe_operands() -> None:
    with nki_sim.record() as recording:
        linear(*arguments())
    events = recording.launches[0].instructions
    assert [e.opcode for e in events] == [
        "dma_copy", "dma_copy", "nc_matmul", "activation", "tensor_scalar", "dma_copy",
    ]  # fmt: skip
    matmul = events[2]
    assert (matmul.engine, matmul.macs, matmul.elements) == ("tensor", 32768, 2048)
    assert matmul.name == "multiply"
    assert matmul.bytes == 64 * 16 * 2 + 64 * 32 * 2 + 2 * 16 * 32 * 4  # dst is read and written
    dst, stationary, _ = matmul.operands
    assert (dst.role, dst.access, dst.shape, dst.dtype, dst.memory) == (
        "dst", "update", (16, 32), "float32", "psum",
    )  # fmt: skip
    assert stationary.storage == events[0].operands[0].storage
    assert dst.storage == events[3].operands[1].storage


def test_launches_are_counted_only_while_recording() -> None:
    linear(*arguments())
    with nki_sim.record() as outer:
        linear(*arguments())
        with nki_sim.record() as inner:
            linear(*arguments())
    assert (len(outer.launches), len(inner.launches)) == (2, 1)


def test_transposes_have_no_macs() -> None:
    @nki.jit
    def transpose(x):
        nisa.nc_transpose(dst=nl.ndarray((4, 8), dtype=x.dtype, buffer=nl.psum), data=loaded(x))

    with nki_sim.record() as recording:
        transpose(np.ones((8, 4), np.float32))
    summary = recording.launches[0].summary()
    assert summary["macs"] == 0 and summary["instructions"] == {"dma": 1, "tensor": 1}


def test_integer_addition_is_accounted_to_gpsimd() -> None:
    @nki.jit
    def add(x):
        tile = loaded(x)
        nisa.tensor_tensor(dst=tile, data1=tile, data2=tile, op=nl.add)

    with nki_sim.record() as recording:
        add(np.ones((4, 4), np.int32))
    assert recording.launches[0].summary()["instructions"] == {"dma": 1, "gpsimd": 1}
