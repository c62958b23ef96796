"""How fast the simulator is: ``python -m benchmarks`` prints it and writes it as JSON.

Every number that is compared with NumPy is taken beside NumPy's own in the same process, in turns,
and the best of several rounds counts. Nothing here fails because a machine is slow.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

import nki_sim
from benchmarks import kernels
from nki_sim.latency import predict
from nki_sim.modes import MODES
from nki_sim.placeholders import Placeholder

Result = dict[str, Any]


def best(*actions: Callable[[], object], rounds: int = 5) -> list[float]:
    """Seconds that each action takes at best; they take turns."""
    times = [float("inf")] * len(actions)
    for _ in range(rounds):
        for position, action in enumerate(actions):
            began = time.perf_counter()
            action()
            times[position] = min(times[position], time.perf_counter() - began)
    return times


# -- what is measured ------------------------------------------------------------------------------


def calls() -> dict[str, Callable[[], object]]:
    """One call each of common instructions and views on [16, 64] tiles, inside a kernel."""
    x = nl.ndarray((16, 64), dtype=nl.float32, buffer=nl.shared_hbm)
    t = nl.ndarray((16, 64), dtype=nl.float32, buffer=nl.sbuf)
    u = nl.ndarray((16, 64), dtype=nl.bfloat16, buffer=nl.sbuf)
    s = nl.ndarray((16, 1), dtype=nl.float32, buffer=nl.sbuf)
    eight = nl.ndarray((16, 8), dtype=nl.float32, buffer=nl.sbuf)
    found = nl.ndarray((16, 8), dtype=nl.uint32, buffer=nl.sbuf)
    square = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.psum)
    turned = nl.ndarray((64, 16), dtype=nl.float32, buffer=nl.psum)
    for tile in (t, u, s):
        nisa.memset(dst=tile, value=1.0)
    nisa.iota(dst=t, pattern=[[1, 64]], offset=0, channel_multiplier=64)
    nisa.dma_copy(dst=x, src=t)
    return {
        "tensor_tensor": lambda: nisa.tensor_tensor(dst=t, data1=t, data2=t, op=nl.maximum),
        "tensor_tensor bf16": lambda: nisa.tensor_tensor(dst=u, data1=u, data2=u, op=nl.maximum),
        "tensor_scalar": lambda: nisa.tensor_scalar(
            dst=t, data=t, op0=nl.multiply, operand0=s, op1=nl.add, operand1=0.0
        ),
        "activation": lambda: nisa.activation(dst=u, op=nl.square, data=t, bias=s),
        "activation_reduce": lambda: nisa.activation_reduce(
            dst=u, op=nl.copy, data=t, reduce_op=nl.add, reduce_res=s
        ),
        "tensor_reduce": lambda: nisa.tensor_reduce(dst=s, data=t, op=nl.maximum, axis=1),
        "tensor_copy": lambda: nisa.tensor_copy(dst=t, src=t),
        "memset": lambda: nisa.memset(dst=s, value=1.0),
        "dma_copy": lambda: nisa.dma_copy(dst=t, src=x),
        "dma_copy of slices": lambda: nisa.dma_copy(dst=t[0:8, 0:32], src=x[0:8, 0:32]),
        "nc_matmul": lambda: nisa.nc_matmul(dst=square, stationary=t, moving=t),
        "nc_transpose": lambda: nisa.nc_transpose(dst=turned, data=t),
        "max8": lambda: nisa.max8(dst=eight, src=t),
        "nc_find_index8": lambda: nisa.nc_find_index8(dst=found, data=t, vals=eight),
        "iota": lambda: nisa.iota(dst=t, pattern=[[1, 64]], offset=0, channel_multiplier=64),
        "nl.ndarray": lambda: nl.ndarray((16, 64), dtype=nl.float32, buffer=nl.sbuf),
        "slice": lambda: t[0:8, 0:32],
        "ap": lambda: t.ap(pattern=[[64, 16], [0, 4], [1, 16]], offset=0),
    }


def overhead() -> Result:
    """Microseconds per call on small tiles, by mode; and per launch of a kernel of one copy."""
    result: Result = {}
    for mode in MODES:
        times: dict[str, float] = {}

        def kernel(times: dict[str, float] = times) -> None:
            for name, call in calls().items():
                (seconds,) = best(lambda call=call: [call() for _ in range(200)])
                times[name] = seconds / 200 * 1e6

        with nki_sim.mode(mode):
            nki.jit(kernel)()
        result[mode] = times

    @nki.jit
    def one_copy(x):  # type: ignore[no-untyped-def]
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=x)
        return out

    x = np.ones((16, 64), np.float32)
    (seconds,) = best(lambda: [one_copy(x) for _ in range(200)])
    return {"microseconds": result, "launch_microseconds": seconds / 200 * 1e6}


def moe() -> Result:
    """One full-size decode MoE layer of a TP=4 rank in each mode, beside NumPy."""
    inputs = kernels.moe_inputs()
    expected, _ = kernels.moe_oracle(*inputs)
    got, _ = kernels.moe_decode(*inputs)

    def in_mode(mode: str) -> Callable[[], object]:
        def launch() -> object:
            with nki_sim.mode(mode):
                return kernels.moe_decode(*inputs)

        return launch

    def plain() -> object:
        return kernels.moe_oracle(*inputs, precision=np.float32)

    times = best(*map(in_mode, MODES), plain)
    with nki_sim.record() as recording:
        kernels.moe_decode(*inputs)
    return {
        "seconds": dict(zip(MODES, times, strict=False)),
        "numpy_seconds": times[-1],
        "instructions": len(recording.launches[0].instructions),
        "resident_megabytes": sum(a.nbytes for a in inputs) / 1e6,
        "largest_error": float(np.abs(got - expected).max() / np.abs(expected).max()),
    }


def matmul(size: int = 2048) -> Result:
    """A tiled product of two square matrices beside NumPy's of the same numbers."""
    rng = np.random.default_rng(0)
    result: Result = {"size": size}
    for name, dtype in (("float32", np.float32), ("bfloat16", ml_dtypes.bfloat16)):
        x, w = (rng.standard_normal((size, size), np.float32).astype(dtype) for _ in range(2))
        turned = np.ascontiguousarray(x.T)

        def plain(x: Any = x, w: Any = w, dtype: Any = dtype) -> Any:
            return (x.astype(np.float32, copy=False) @ w.astype(np.float32, copy=False)).astype(
                dtype, copy=False
            )

        def simulated(turned: Any = turned, w: Any = w) -> Any:
            return kernels.matmul(turned, w)

        ours, numpys = best(simulated, plain)
        result[name] = {"seconds": ours, "numpy_seconds": numpys, "ratio": ours / numpys}
    return result


def memory(size: int = 2048) -> Result:
    """Peak memory during a launch over that of its tensors (inputs and results)."""
    result: Result = {}
    left, right = (np.ones((size, size), ml_dtypes.bfloat16) for _ in range(2))
    locked = left.copy(), right.copy()
    for one in locked:
        one.flags.writeable = False
    cases: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "matmul": (kernels.matmul, (left, right)),
        "matmul, read-only inputs": (kernels.matmul, locked),
        "moe": (kernels.moe_decode, kernels.moe_inputs()),
    }
    for name, (kernel, inputs) in cases.items():
        own = sum({id(a): a.nbytes for a in inputs}.values())
        for mode in MODES:
            tracemalloc.start()
            with nki_sim.mode(mode):
                outputs = kernel(*inputs)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            made = outputs if isinstance(outputs, tuple) else (outputs,)
            tensors = own + sum(a.nbytes for a in made)
            result[f"{name}, {mode}"] = {
                "megabytes": tensors / 1e6,
                "ratio": (own + peak) / tensors,
            }
    return result


def latency(instructions: int = 100_000) -> Result:
    """Seconds to predict the time of a long stream, beside those to record it on shapes."""
    x = Placeholder((8192, 512), ml_dtypes.bfloat16)
    with nki_sim.mode("shapes"), nki_sim.record() as recording:
        began = time.process_time()
        kernels.stream(x, instructions // 12)
        recorded = time.process_time() - began
    (launch,) = recording.launches
    began = time.process_time()
    found = predict(launch, "trn2")
    return {
        "instructions": len(launch.instructions),
        "record_seconds": recorded,
        "predict_seconds": time.process_time() - began,
        "modelled_us": found.time_us.nominal,
    }


MEASURED: dict[str, Callable[[], Result]] = {
    "latency": latency,
    "overhead": overhead,
    "moe": moe,
    "matmul": matmul,
    "memory": memory,
}


# -- how it is shown -------------------------------------------------------------------------------


def show(name: str, result: Result) -> None:
    """Print one result."""
    if name == "overhead":
        columns = result["microseconds"]
        print(f"{'microseconds per call on [16, 64]':34}" + "".join(f"{m:>11}" for m in columns))
        for call in columns["full"]:
            print(f"  {call:32}" + "".join(f"{columns[m][call]:11.1f}" for m in columns))
        print(f"  {'launch of one copy':32}{result['launch_microseconds']:11.1f}")
    elif name == "latency":
        print(f"latency model, {result['instructions']} instructions, in all three scenarios")
        print(f"  {'record on shapes':32}{result['record_seconds']:11.2f} s")
        print(f"  {'predict':32}{result['predict_seconds']:11.2f} s")
    elif name == "moe":
        print(f"decode MoE layer, {result['resident_megabytes']:.0f} MB of weights resident, "
              f"{result['instructions']} instructions")  # fmt: skip
        for mode, seconds in result["seconds"].items():
            ratio = seconds / result["numpy_seconds"]
            print(f"  {mode:32}{seconds * 1e3:11.1f} ms  {ratio:.2f} of NumPy's")
        print(f"  {'NumPy, fp32':32}{result['numpy_seconds'] * 1e3:11.1f} ms")
        print(f"  {'largest error / largest value':32}{result['largest_error']:11.1e}")
    elif name == "matmul":
        print(f"matmul of {result['size']}^3")
        for dtype in ("float32", "bfloat16"):
            one = result[dtype]
            print(f"  {dtype:32}{one['seconds'] * 1e3:11.1f} ms  {one['ratio']:.2f} of NumPy's "
                  f"{one['numpy_seconds'] * 1e3:.1f} ms")  # fmt: skip
    else:
        print("peak memory of a launch over its tensors'")
        for case, one in result.items():
            print(f"  {case:40}{one['ratio']:6.2f} of {one['megabytes']:.0f} MB")


def profile(name: str) -> None:
    """Print where the time of one launch goes."""
    if name == "moe":
        inputs: tuple[Any, ...] = kernels.moe_inputs()
        kernel: Any = kernels.moe_decode
    else:
        inputs = (np.ones((2048, 2048), ml_dtypes.bfloat16),) * 2
        kernel = kernels.matmul
    kernel(*inputs)
    profiler = cProfile.Profile()
    profiler.runcall(kernel, *inputs)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MEASURED)}; all by default")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--threads", action="store_true", help="let BLAS use all cores")
    parser.add_argument("--profile", choices=("moe", "matmul"), help="show where time goes instead")
    options = parser.parse_args()
    if unknown := set(options.names) - set(MEASURED):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if options.profile:
        profile(options.profile)
        return
    results: Result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "all"),
        }
    }
    for name in options.names or MEASURED:
        results[name] = MEASURED[name]()
        show(name, results[name])
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
