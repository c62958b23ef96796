"""Two cores of a launch run the same instructions, each on its share of the work.

From SDK 2.29 on a kernel must have the same control flow on both cores of a logical one.
"""

from __future__ import annotations

import pytest

import nki_sim
from kernels.specs import SPECS, Case, KernelSpec

SPLIT = [
    pytest.param(spec, case, id=f"{spec.name}-{case.label}")
    for spec in SPECS.values()
    for case in spec.cases
    if 2 in case.cores and case.kind != "true"
]


@pytest.mark.parametrize(("spec", "case"), SPLIT)
def test_both_cores_run_the_same_instructions(spec: KernelSpec, case: Case) -> None:
    with nki_sim.record() as recording:
        spec.load()[2](**spec.inputs(case, "bfloat16"))
    first, second = (
        [event.opcode for event in core.instructions] for core in recording.launches[0].cores
    )
    assert first == second
