"""What the report says of times that a device measured."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from sample_record import device_record, simulator_record

from report.device import against_modelled, device_facts
from report.fields import Fields
from report.render import render
from tests.report.test_render import FIGURE_PATHS, one_line

LAYERED = device_record(3.0, "layered")


def test_the_parts_of_a_run_add_up() -> None:
    record = device_record()
    found = device_facts(Fields(record))
    for prompt, (baseline, nki) in found["phases_of_runs"]:
        for side, parts in (("baseline", baseline), ("nki", nki)):
            tokens, mean_ms = prompt["output_tokens"], prompt[side]["host_time"]["mean_ms"]
            graphs_ms = parts["prefill_ms"] + (tokens - 1) * parts["step_ms"]
            assert graphs_ms + tokens * parts["host_ms_per_token"] == pytest.approx(mean_ms)
            assert parts["host_share"] == pytest.approx(0.25)
    assert found["host_percent"][0] == pytest.approx([25.0] * 5)


def test_a_record_without_host_times_has_no_phases() -> None:
    record = device_record()
    del record["per_prompt_results"][2]["baseline"]["host_time"]
    assert device_facts(Fields(record))["phases_of_runs"] == []
    assert "tab:phases" not in render(record, FIGURE_PATHS)[0]


def test_what_was_modelled_stands_beside_what_was_measured() -> None:
    rows = against_modelled(Fields(LAYERED))
    assert [row["prompt"]["prompt_id"] for row in rows] == [0, 1, 2, 3, 4]
    path = LAYERED["modelled"]["predictions"]["trn2"]["paths"]["layered"]
    for row, modelled in zip(rows, path["prompts"], strict=True):
        median = row["prompt"]["nki"]["host_time"]["p50_ms"]
        assert row["ratio"] == modelled["latency_ms"]["nominal"] / median
        low, high = modelled["latency_ms"]["low"], modelled["latency_ms"]["high"]
        assert row["inside"] == (low <= median <= high)
    text = one_line(render(LAYERED, FIGURE_PATHS)[0])
    inside = sum(row["inside"] for row in rows)
    assert rf"\num{{{inside}}} of \num{{5}}~medians that were measured lie in the" in text


def _other_model(record: dict[str, Any]) -> None:
    record["model"] = "Qwen3-235B-A22B"


def _fewer_ranks(record: dict[str, Any]) -> None:
    record["provenance"]["config"]["neuron"]["tp_degree"] = 1


def _short(record: dict[str, Any]) -> None:
    record["test_configuration"]["max_new_tokens"] = 8


def _no_model(record: dict[str, Any]) -> None:
    del record["modelled"]


@pytest.mark.parametrize("change", [_other_model, _fewer_ranks, _short, _no_model])
def test_another_run_than_the_modelled_one_is_not_compared(change: Any) -> None:
    record = copy.deepcopy(LAYERED)
    change(record)
    assert against_modelled(Fields(record)) == []
    assert "tab:against" not in render(record, FIGURE_PATHS)[0]


def test_another_path_or_a_simulator_is_not_compared() -> None:
    assert against_modelled(Fields(device_record())) == []
    assert against_modelled(Fields(simulator_record())) == []
