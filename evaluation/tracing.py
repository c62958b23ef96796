"""Runs a kernel once at given shapes, on random numbers or on none, and accounts for it."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from evaluation.shapes import Trace

if TYPE_CHECKING:
    from kernels.specs import Inputs, KernelSpec


def run_traced(trace: Trace, dtype: str, numbers: bool = True) -> dict[str, Any]:
    """Run a kernel once at these shapes and return the simulator's summary.

    With `numbers` on random inputs. Without, all that does not depend on data is checked and
    counted, in memory and time that do not grow with the weights: a loop whose length the data
    decide counts once, and "assumed" says so.
    """
    import nki_sim
    from kernels.specs import SPECS

    spec: KernelSpec = SPECS[trace.kernel]
    # A kernel that takes float32 alone is fed it, whatever the model's dtype.
    dtype = dtype if dtype in spec.dtypes else "float32"
    arguments = _random(spec, trace, dtype) if numbers else hollow(spec, trace, dtype)
    kernel = spec.load()
    with nki_sim.mode("full" if numbers else "shapes"), nki_sim.record() as recording:
        kernel(**arguments)
    (launch,) = recording.launches
    summary: dict[str, Any] = launch.summary()
    return summary if numbers else {**summary, "assumed": dict(sorted(launch.assumed.items()))}


def _random(spec: KernelSpec, trace: Trace, dtype: str) -> Inputs:
    from kernels.specs import Case

    label = f"{trace.phase} of {trace.tokens} tokens"
    case = Case(label, "model", trace.shapes, float32=spec.cases[0].float32, scalars=trace.scalars)
    return spec.inputs(case, dtype, seed=0)


def hollow(spec: KernelSpec, trace: Trace, dtype: str) -> Inputs:
    """Tensors without memory, of the dtypes that the spec's smallest case has, and its constants.

    It is one that rounds as the model does, not "stepwise" as for comparisons.
    """
    from nki_sim.placeholders import Placeholder

    alike = [
        case
        for case in spec.cases
        if case.shapes.keys() == trace.shapes.keys() and case.scalars.get("rounding") != "stepwise"
    ]
    smallest = min(alike, key=lambda case: sum(map(prod, case.shapes.values())))
    arguments = spec.inputs(smallest, dtype)
    for name, shape in trace.shapes.items():
        arguments[name] = Placeholder(shape, arguments[name].dtype)
    return arguments | dict(trace.scalars)
