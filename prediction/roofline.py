"""Every kernel's place under the roofs, at its true shape."""

from __future__ import annotations

from typing import Any

import nki_sim
from evaluation.shapes import Trace
from evaluation.tracing import hollow
from kernels.specs import SPECS, Case, KernelSpec
from model.plan import BUCKETS
from nki_sim.latency import Prediction, predict
from prediction.baseline import ARRAY
from prediction.costs import Cost
from prediction.launches import DTYPE, PASSES, Rank, cost


def roofline(rank: Rank) -> dict[str, Any]:
    """The roofs of one core and one HBM stack (which two cores share), and a point per kernel."""
    values = rank.hardware.values()
    return {
        "roofs": {
            "macs_per_us_and_core": 1e3 * ARRAY * values["tensor.clock"],
            "hbm_bytes_per_us_and_stack": 1e3 * values["memory.hbm_rate"],
        },
        "points": [_point(rank, spec) for spec in SPECS.values()],
    }


def _point(rank: Rank, spec: KernelSpec) -> dict[str, Any]:
    case = next(case for case in spec.cases if case.kind == "true")
    dtype = DTYPE if DTYPE in spec.dtypes else "float32"
    cores = max(case.cores)
    grouped = spec.name == "experts_prefill"
    found = _prediction(rank, spec, case, dtype, PASSES[1] if grouped else 1)
    whole: Cost = cost(found)
    if grouped:  # its loop runs on: the bound is of the part that was traced
        whole = rank.experts_prefill(BUCKETS[0], BUCKETS[0])
    return {
        "kernel": spec.name,
        "case": case.label,
        "dtype": dtype,
        "cores": cores,
        "macs": round(whole.macs),
        "elements": round(whole.elements),
        "hbm_bytes": round(whole.hbm_bytes),
        "hbm_us": whole.hbm_us,
        "time_us": whole.time_us.as_dict(),
        "bound": found.bound,
        "kind": found.kind,
    }


def _prediction(rank: Rank, spec: KernelSpec, case: Case, dtype: str, passes: int) -> Prediction:
    tokens = next(iter(case.shapes.values()))[0]
    trace = Trace(spec.name, "", tokens, dict(case.shapes), {})
    arguments = hollow(spec, trace, dtype) | dict(spec.scalars) | dict(case.scalars)
    with nki_sim.mode("shapes", passes=passes), nki_sim.record() as recording:
        spec.load()[max(case.cores)](**arguments)
    return predict(recording.launches[0], rank.hardware)
