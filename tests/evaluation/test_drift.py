"""Drift of hidden states: relative, and in units of the last place."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.drift import drift


@pytest.mark.parametrize(("dtype", "ulp"), [("float32", 2.0**-21), ("bfloat16", 2.0**-5)])
def test_one_ulp_of_a_state_of_size_four(dtype, ulp):
    expected = np.full((2, 3, 8), 4.0, np.float32)
    actual = expected.copy()
    actual[1, 2, 5] += 3 * ulp
    result = drift(expected, actual, dtype)
    assert [(entry["phase"], entry["layer"]) for entry in result] == [
        (phase, layer) for phase in ("prefill", "decode_step") for layer in range(3)
    ]
    assert [entry["largest_ulps"] for entry in result] == [0, 0, 0, 0, 0, 3]
    assert result[-1]["relative"] == pytest.approx(3 * ulp / (4.0 * np.sqrt(8)))


def test_states_of_other_shapes_are_no_drift():
    with pytest.raises(ValueError):
        drift(np.ones((2, 3, 4)), np.ones((2, 2, 4)), "float32")
