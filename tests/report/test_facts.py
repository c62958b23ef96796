from __future__ import annotations

import pytest
from sample_record import device_record, simulator_record

from kernels.specs import SPECS
from report.facts import (
    ENGINES,
    FAMILIES,
    drift_by_layer,
    engines,
    facts,
    families,
    launches_match,
    runs,
    top_k_keys,
    work,
)
from report.fields import Fields

ROWS = set(dict(FAMILIES)["Rows"])
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
    assert found["heaviest"]["kernel"] == "experts_prefill"
    assert found["finest"]["kernel"] == "top8"
    assert found["coarsest"]["kernel"] == "output_projection_prefill"
    assert found["thin_heaviest"]["kernel"] == "lm_head"
    assert {k["kernel"] for k in found["sparse"]} == {"experts_decode", "decoder_stack"}
    assert "rope" in {kernel["kernel"] for kernel in found["rereading"]}
    assert {kernel["kernel"] for kernel in found["without_macs"]}.isdisjoint(
        {"rmsnorm", "add_rmsnorm"}
    )


def test_engines_come_in_a_fixed_order_and_unused_ones_not_at_all() -> None:
    record = simulator_record()
    assert engines(Fields(record)) == list(ENGINES)
    record["nki_kernels_implemented"][0]["cost"]["instructions"] |= {"unheard_of": 1}
    assert engines(Fields(record)) == [*ENGINES, "unheard_of"]


def test_an_engine_that_issues_nothing_is_left_out() -> None:
    record = simulator_record()
    for kernel in record["nki_kernels_implemented"]:
        if "sync" in kernel["cost"]["instructions"]:
            kernel["cost"]["instructions"]["sync"] = 0
    assert "sync" not in engines(Fields(record))


def test_every_kernel_is_in_one_family_and_a_stranger_in_the_last() -> None:
    record = simulator_record()
    kernels = record["nki_kernels_implemented"]
    grouped = families(Fields(record)["nki_kernels_implemented"])
    names = [kernel["kernel"] for _title, members in grouped for kernel in members]
    assert sorted(names) == sorted(kernel["kernel"] for kernel in kernels)
    assert sorted(names) == sorted(SPECS)
    assert "Others" not in dict(grouped)
    kernels[0]["kernel"] = "novel"
    title, members = families(Fields(record)["nki_kernels_implemented"])[-1]
    assert (title, [kernel["kernel"] for kernel in members]) == ("Others", ["novel"])


def test_padding_and_drift_come_from_the_evaluation() -> None:
    record = simulator_record()
    prefill = record["per_prompt_results"][2]["nki"]["coverage"]["prefill"]
    prefill["counted_macs"]["router_prefill"] = 77 * prefill["useful_macs"]["router"]
    layers = record["per_prompt_results"][1]["nki"]["drift"]["layers"]
    layers[-1]["relative"] = 0.25
    record["path_checks"][0]["drift"]["layers"][0]["relative"] = 0.5
    found = facts(Fields(record))
    overhead, operation, prompt = found["worst_padding"]
    assert (overhead, operation, prompt["prompt_id"]) == (77, "router", 2)
    assert found["worst_drift"] == {**layers[-1]}
    evaluated, layered = runs(Fields(record))[:2]
    assert drift_by_layer(evaluated[2], "decode_step")[-1] == 0.25
    assert drift_by_layer(layered[2], "prefill")[0] == 0.5
    assert evaluated[:2] == ("fused", "float32")


def test_coverage_is_the_least_of_any_prompt_and_phase() -> None:
    record = simulator_record()
    assert facts(Fields(record))["least_share"] == 1
    record["per_prompt_results"][3]["nki"]["coverage"]["decode_step"]["useful_share"] = 0.75
    assert facts(Fields(record))["least_share"] == 0.75


def test_a_device_has_neither_coverage_nor_drift() -> None:
    found = facts(Fields(device_record()))
    assert found["runs"] == []
    assert found["path"] == "rows"
    assert {kernel["kernel"] for kernel in found["idle"]} == set(SPECS) - ROWS


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
