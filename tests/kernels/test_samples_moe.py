"""The samples' choices are stable: what is chosen differs from what is not by far."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.layouts import unpack_linear
from kernels.specs import SPECS, Case


def cases(kernel: str) -> list[Case]:
    return list(SPECS[kernel].cases)


@pytest.mark.parametrize("kernel", ["router_decode", "router_prefill"])
def test_chosen_experts_lie_apart(kernel: str) -> None:
    spec = SPECS[kernel]
    for case in spec.cases:
        arguments = spec.inputs(case, "float32")
        normed = spec.reference(**arguments)[0]
        logits = np.sort(normed @ unpack_linear(arguments["w_router"]).T, axis=1)[:, ::-1]
        apart = np.min(logits[:, :8] - logits[:, 1:9]) if logits.shape[1] > 8 else 0.3
        assert apart > 0.25, case.label


def test_the_next_token_wins_by_far_and_has_equals() -> None:
    spec = SPECS["lm_head"]
    for case in spec.cases:
        logits, largest, token = spec.reference(**spec.inputs(case, "float32"))
        for row, value, chosen in zip(logits, largest, token, strict=True):
            equals = np.flatnonzero(row == value)
            assert len(equals) >= 3 and equals[0] == chosen[0], case.label
            assert min(equals % 128) < chosen[0] % 128, "an equal on an earlier partition"
            assert np.max(row[row < value]) < value - 0.125, case.label
