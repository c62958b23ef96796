"""The record's section of modelled times: what is taken into it, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from evaluation.files import write_json
from evaluation.freshness import read_results
from evaluation.modelled import modelled, stale_modelled
from evaluation.modelled_checks import modelled_figures
from evaluation.problems import is_finite, is_number, lookup, walk
from tests import modelled_sample

TRN2 = "modelled.predictions.trn2"
STEP = "modelled.ladders.kernels.experts_prefill.steps[1]"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("modelled")
    contents = {
        "trn2": modelled_sample.prediction("trn2"), "trn3": modelled_sample.prediction("trn3"),
        "latency": modelled_sample.validation(), "ladder": modelled_sample.ladders(),
    }  # fmt: skip
    for name, content in contents.items():
        write_json(folder / f"{name}.json", content)
    return [folder / f"{name}.json" for name in contents]


@pytest.fixture(scope="module")
def sound(files: list[Path]) -> Json:
    *predictions, validation, ladder = read_results(files)
    return {"modelled": modelled(predictions, validation, ladder)}


@pytest.fixture
def record(sound: Json) -> Json:
    return copy.deepcopy(sound)


def set_at(record: Json, path: str, value: Any) -> None:
    outer, _, last = path.rpartition(".")
    lookup(record, outer)[last] = value


def test_sound_files_have_no_problem(files: list[Path], sound: Json) -> None:
    *predictions, validation, ladder = read_results(files)
    assert list(stale_modelled(predictions, validation, ladder)) == []
    assert list(modelled_figures(sound)) == []
    assert list(sound["modelled"]["predictions"]) == ["trn2", "trn3"]


def test_a_record_without_the_section_is_none_of_these_rules() -> None:
    assert list(modelled_figures({})) == []


@pytest.mark.parametrize("name", ["trn2", "trn3", "latency"])
def test_files_of_other_sources_are_refused_by_name(files: list[Path], name: str) -> None:
    results = read_results(files)
    (one,) = (file for file in results if file.path.stem == name)
    one.content["inputs"] = {"sources_sha256": "0" * 64}
    (problem,) = stale_modelled(results[:2], *results[2:])
    assert str(one.path) in problem and "other sources" in problem


def test_a_platform_must_be_there_once(files: list[Path]) -> None:
    one, _, *others = read_results(files)
    assert any("predict once each" in text for text in stale_modelled([one, one], *others))


def test_a_ladder_of_other_steps_is_refused(files: list[Path]) -> None:
    *predictions, validation, ladder = read_results(files)
    ladder.content["kernels"]["experts_prefill"]["steps"].pop()
    (problem,) = stale_modelled(predictions, validation, ladder)
    assert str(ladder.path) in problem and "other steps" in problem


@pytest.mark.parametrize(
    ("path", "value", "wrong"),
    [
        (f"{TRN2}.basis", "measured", f"{TRN2}.basis"),
        (f"{TRN2}.platform", "trn3", f"{TRN2}.platform"),
        ("modelled.validation.basis", "measured", "modelled.validation.basis"),
        (f"{STEP}.gain_us.trn3", 0.5, f"{STEP}.gain_us.trn3"),
        (f"{TRN2}.prefill[0].total_us.low", 1.0, f"{TRN2}.prefill[0].total_us.low"),
        (
            f"{TRN2}.paths.fused.decode[2].terms[1].time_us.nominal", 901.0,
            f"{TRN2}.paths.fused.decode[2].total_us.nominal",
        ),
        (
            f"{TRN2}.paths.fused.decode[2].terms[0].hbm_us", 1e6,
            f"{TRN2}.paths.fused.decode[2].terms[0].hbm_us",
        ),
        (
            f"{TRN2}.paths.layered.decode[0].terms[1].time_us.high", 1.0,
            f"{TRN2}.paths.layered.decode[0].terms[1].time_us",
        ),
        (f"{TRN2}.roofline.points[0].time_us.low", 1e6, f"{TRN2}.roofline.points[0].time_us"),
        (f"{TRN2}.prefill[2].device_us.high", 9e9, f"{TRN2}.prefill[2].device_us.high"),
        (
            f"{TRN2}.paths.layered.device_bound_ratio", 1.0,
            f"{TRN2}.paths.layered.device_bound_ratio",
        ),
        (f"{TRN2}.bound.time_us", 1999.0, f"{TRN2}.bound.time_us"),
        (f"{TRN2}.paths.fused.bound_ratio", 1.0, f"{TRN2}.paths.fused.bound_ratio"),
        (
            f"{TRN2}.padded_baseline.buckets[1].times_ours", 5.0,
            f"{TRN2}.padded_baseline.buckets[1].times_ours",
        ),
        (
            f"{TRN2}.paths.fused.prompts[3].throughput_tok_s.high", 1e6,
            f"{TRN2}.paths.fused.prompts[3].throughput_tok_s.high",
        ),
        (
            f"{TRN2}.paths.fused.prompts[3].decode_ms.nominal", 3300.0,
            f"{TRN2}.paths.fused.prompts[3].latency_ms.nominal",
        ),
        (
            f"{TRN2}.paths.layered.prompts[1].decode_steps.640", 382,
            f"{TRN2}.paths.layered.prompts[1].decode_steps",
        ),
        (
            f"{TRN2}.paths.layered.prompts[1].output_tokens", 449,
            f"{TRN2}.paths.layered.prompts[1].decode_steps",
        ),
        (
            f"{TRN2}.paths.layered.prompts[1].nki_flops_ratio", 0.5,
            f"{TRN2}.paths.layered.prompts[1].score.low",
        ),
        (
            f"{TRN2}.paths.layered.prompts[1].score.low", 1.0,
            f"{TRN2}.paths.layered.total_score.low",
        ),
        (f"{TRN2}.paths.fused.total_score.high", 1e6, f"{TRN2}.paths.fused.total_score.high"),
    ],
)  # fmt: skip
def test_a_changed_figure_is_found(record: Json, path: str, value: Any, wrong: str) -> None:
    assert lookup(record, path) is not None, path
    set_at(record, path, value)
    assert wrong in {problem.path for problem in modelled_figures(record)}


@pytest.mark.parametrize(
    "value",
    [10**400, 10**308, -(10**308), 1e-320, 1e308, float("nan"), -1],
    ids=lambda v: f"{v!s:.9}",
)
def test_figures_of_any_size_are_judged(sound: Json, value: Any) -> None:
    record = copy.deepcopy(sound)
    places = [
        (outer, key)
        for _, outer in walk(record["modelled"]["predictions"]["trn2"]["paths"])
        if isinstance(outer, dict)
        for key, found in outer.items()
        if is_number(found)
    ]
    for outer, key in places:
        outer[key] = value
    problems = list(modelled_figures(record))
    assert problems or not is_finite(value)  # what is not finite is another rule's


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [None], {"trn2": {"prefill": [7]}}])
def test_sections_of_any_shape_are_judged(value: Any) -> None:
    for record in ({"modelled": value}, {"modelled": {"predictions": value}}):
        assert list(modelled_figures(record)) == []
