from __future__ import annotations

import pytest
from sample_record import device_record, simulator_record

from report.facts import engines, facts, launches_match, top_k_keys, work
from report.fields import Fields

COST = {
    "dtype": "float32",
    "shapes": {"x": [2, 64], "w": [64]},
    "instructions": {"vector": 3, "dma": 2},
    "macs": 512,
    "hbm_read_bytes": 1024,
    "hbm_write_bytes": 512,
}


def test_work_of_a_launch() -> None:
    launch = work(Fields(COST))
    assert launch.total_bytes == 1536
    assert launch.input_bytes == 4 * (2 * 64 + 64)
    assert launch.read_factor == pytest.approx(1024 / 768)
    assert launch.macs_per_byte == pytest.approx(512 / 1536)
    assert launch.bytes_per_instruction == pytest.approx(1536 / 5)


def test_the_extremes_belong_to_the_kernels_that_hold_them() -> None:
    found = facts(Fields(simulator_record()))
    assert found["heaviest"]["kernel"] == "softmax"
    assert found["finest"]["kernel"] == "top8"
    assert [kernel["kernel"] for kernel in found["rereading"]] == ["rope"]
    assert {kernel["kernel"] for kernel in found["without_macs"]}.isdisjoint(
        {"rmsnorm", "add_rmsnorm"}
    )


def test_engines_come_in_a_fixed_order_and_unused_ones_not_at_all() -> None:
    record = simulator_record()
    assert engines(Fields(record)) == ["tensor", "vector", "scalar", "dma"]
    record["nki_kernels_implemented"][0]["cost"]["instructions"] |= {"unheard_of": 1, "gpsimd": 0}
    assert engines(Fields(record)) == ["tensor", "vector", "scalar", "dma", "unheard_of"]


@pytest.mark.parametrize("phase", ["prefill", "decode_step"])
def test_one_launch_too_few_is_a_mismatch(phase: str) -> None:
    kernel = simulator_record()["nki_kernels_implemented"][0]
    assert launches_match(Fields(kernel))
    kernel["launches"][phase] -= 1
    assert not launches_match(Fields(kernel))


def test_sets_run_from_all_tokens_to_few() -> None:
    assert top_k_keys(Fields(simulator_record())) == ["all", "1000", "50", "5"]


@pytest.mark.parametrize(("gain", "gains", "losses"), [(1.2, 5, 0), (0.9, 0, 5)])
def test_gains_and_losses_are_told_apart(gain: float, gains: int, losses: int) -> None:
    found = facts(Fields(device_record(gain)))
    assert (len(found["gains"]), len(found["losses"])) == (gains, losses)
