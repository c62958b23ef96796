"""What a variant is checked on, and what its time is predicted for."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import nki_sim
from evaluation.shapes import QWEN3_30B_A3B, Trace, decoder_shapes
from evaluation.tracing import hollow
from kernels.specs import SPECS, Case, KernelSpec
from kernels.variants import Settings
from nki_sim import ranks
from nki_sim.latency import Prediction, Range, predict

PLATFORMS = ("trn2", "trn3")
CORES = 2
RANKS = 4
POSITIONS = 640
DTYPE = "bfloat16"
RANKS_KERNEL = "decoder_stack_ranks"
# From the second layer on all are alike; the difference leaves out what begins and ends a launch.
FEW_LAYERS, MORE_LAYERS = 3, 5
NEEDS_VALUES = ("experts_prefill",)  # how many blocks it runs follows from the routing

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Modelled:
    """The modelled time of one variant on one platform, and what limits it."""

    time_us: Range
    kind: str
    bound: str
    bound_us: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "time_us": self.time_us.as_dict(),
            "kind": self.kind,
            "bound": self.bound,
            "bound_us": self.bound_us,
        }


def spec_of(kernel: str) -> KernelSpec:
    """The specification whose oracle a kernel must agree with."""
    return SPECS["decoder_stack" if kernel == RANKS_KERNEL else kernel]


def checked_cases(kernel: str) -> list[Case]:
    """The small cases that a variant is checked on: those of the tiny checkpoint."""
    return [one for one in spec_of(kernel).cases if one.kind == "model" and CORES in one.cores]


def launch_of(kernel: str, settings: Settings) -> Callable[..., Any]:
    """The kernel on two cores with certain values; with ranks, on the only one of a group."""
    if kernel == RANKS_KERNEL:
        return lambda **arguments: _on_ranks(arguments, settings, 1)[0]
    function = spec_of(kernel).load()[CORES]
    return lambda **arguments: function(**arguments, **settings)


def described(kernel: str) -> tuple[str, str]:
    """(workload, unit) of the predicted time."""
    if kernel == RANKS_KERNEL:
        token = f"a decoder layer of 1 token, {RANKS} ranks, {POSITIONS} positions, {DTYPE}"
        return token, "us per layer"
    return f"{spec_of(kernel).cases[0].label}, {RANKS} ranks, {DTYPE}", "us per launch"


def modelled(kernel: str, settings: Settings) -> dict[str, Modelled]:
    """{platform: time}, at the shapes of Qwen3-30B-A3B on four ranks, on two cores.

    It is recorded within the memories of trn2, which are the smaller ones.
    """
    before = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE")
    os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = PLATFORMS[0]
    try:
        if kernel == RANKS_KERNEL:
            few, more = (_record_layers(n, settings) for n in (FEW_LAYERS, MORE_LAYERS))
            return {one: _per_layer(predict(few, one), predict(more, one)) for one in PLATFORMS}
        launch = _record_case(kernel, settings)
        return {one: _whole(predict(launch, one)) for one in PLATFORMS}
    finally:
        os.environ.pop("NEURON_PLATFORM_TARGET_OVERRIDE")
        if before is not None:
            os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = before


def _record_case(kernel: str, settings: Settings) -> Any:
    """The launch of the spec's first case, on shapes alone where values decide nothing."""
    spec = spec_of(kernel)
    case = spec.cases[0]
    if kernel in NEEDS_VALUES:
        mode, arguments = "unchecked", spec.inputs(case, DTYPE)
    else:
        mode = "shapes"
        trace = Trace(spec.name, "", 1, dict(case.shapes), {})
        arguments = hollow(spec, trace, DTYPE) | dict(spec.scalars) | dict(case.scalars)
    with nki_sim.mode(mode), nki_sim.record() as recording:
        launch_of(kernel, settings)(**arguments)
    return recording.launches[0]


def _record_layers(layers: int, settings: Settings) -> Any:
    spec, part = spec_of(RANKS_KERNEL), replace(QWEN3_30B_A3B.of_rank(RANKS), layers=layers)
    shapes = decoder_shapes(part, spec.name, 1, POSITIONS)
    arguments = hollow(spec, Trace(spec.name, "", 1, shapes, {}), DTYPE)
    with nki_sim.mode("shapes"), nki_sim.record() as recording:
        _on_ranks(arguments, settings, RANKS)
    return recording.launches[0]


def _on_ranks(arguments: Arguments, settings: Settings, count: int) -> list[Any]:
    """Every rank's results, all with the same arguments."""
    module = importlib.import_module("kernels.nki_decode_ranks_kernels")
    group = importlib.import_module("nki.collectives").ReplicaGroup([list(range(count))])
    function = module.nki_decoder_stack_ranks_kernel[CORES]
    given = {**arguments, **settings, "group": group}
    return ranks.run(function, ranks=count, arguments=[given] * count)


def _whole(prediction: Prediction) -> Modelled:
    return Modelled(prediction.time_us, prediction.kind, prediction.bound, prediction.bound_us)


def _per_layer(few: Prediction, more: Prediction) -> Modelled:
    layers = MORE_LAYERS - FEW_LAYERS
    ends = sorted(
        (getattr(more.time_us, end) - getattr(few.time_us, end)) / layers for end in ("low", "high")
    )
    nominal = (more.time_us.nominal - few.time_us.nominal) / layers
    time = Range(min(ends[0], nominal), nominal, max(ends[1], nominal))
    bound = (more.bound_us - few.bound_us) / layers
    return Modelled(time, more.kind, more.bound, bound)
