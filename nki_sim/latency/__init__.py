"""What a recorded launch would take on a chip: `predict`.

`tasks` reads the account, `dependencies` finds who waits for whom, `hardware` holds the constants,
`costs` turns tasks into times, `scheduler` runs them, `results` says what that means, `rows`,
`perfetto` and `timeline` show it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .hardware import SCENARIOS, Constant, Hardware, HardwareError, load
from .plan import Plan, plan_of
from .results import Prediction, Range, Step, assemble
from .scheduler import Timing, schedule

if TYPE_CHECKING:
    from ..trace import Launch

__all__ = [
    "Constant",
    "Hardware",
    "HardwareError",
    "Plan",
    "Prediction",
    "Range",
    "Step",
    "Timing",
    "load",
    "predict",
]


def predict(
    launch: Launch,
    platform: str | Path | Hardware | None = None,
    *,
    streaming_cores: int | None = None,
) -> Prediction:
    """The modelled time of a launch.

    Args:
        launch: one of `nki_sim.record()`'s, in mode ``full``, ``unchecked`` or ``shapes``.
        platform: ``trn1``, ``trn2``, ``trn3``, a YAML file of constants, or loaded constants; None
            for what NEURON_PLATFORM_TARGET_OVERRIDE names (trn2 when it is not set).
        streaming_cores: how many cores stream from the same HBM stack at the same time; None for
            those of the launch. From trn2 on a stack serves two cores.

    Raises:
        ValueError: the launch was not recorded, or has more cores than stream.
        HardwareError: there are no such constants.
    """
    if not launch.instructions and launch.issued:
        raise ValueError(
            f"{launch.kernel} ran outside of a recording; launch it inside nki_sim.record()"
        )
    if platform is None:
        platform = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE") or "trn2"
    hardware = platform if isinstance(platform, Hardware) else load(platform)
    scenarios = {name: hardware.values(name) for name in SCENARIOS}
    cores = max(1, len(launch.cores))
    if streaming_cores is not None and streaming_cores < cores:
        raise ValueError(f"streaming_cores={streaming_cores} for a launch on {cores} cores")
    for values in scenarios.values():
        values["memory.hbm_rate"] *= cores / (streaming_cores or cores)
    with _no_collection():
        plan = plan_of(launch, list(scenarios.values()))
        timings = {name: schedule(plan, values) for name, values in scenarios.items()}
        return assemble(launch.kernel, hardware, plan, timings)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector, which would look through the growing graph again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
