"""The record is made of files that fit together, and of no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation import aggregation, artefact
from evaluation.checks import path_checks
from evaluation.freshness import StaleInput
from evaluation.records import RecordError, validate
from evaluation.scoring import CURRENT_FORMULA
from kernels.specs import SPECS
from model.plan import Phase, expected_launches

from . import result_files
from .result_files import Results


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return result_files.make(tmp_path)


def refused(results: Results, **changes: Any) -> str:
    with pytest.raises(StaleInput) as raised:
        results.record(**changes)
    return str(raised.value)


def test_files_that_fit_make_a_valid_record(results: Results) -> None:
    record = results.record()
    assert validate(record) == []
    assert record["model"] == "tiny Qwen3-MoE (2 layers, 16 experts)"
    assert record["timestamp"] == "2026-05-02T10:00:00Z"
    assert record["summary"] == {
        "accuracy": 1.0, "prompts_passed": 2, "prompts_total": 2, "tokens_checked": 16,
        "tokens_equal": 16,
    }  # fmt: skip
    assert record["scoring_formula"] == CURRENT_FORMULA.text
    assert [kernel["kernel"] for kernel in record["nki_kernels_implemented"]] == list(SPECS)


def test_host_times_are_derived_from_the_samples(results: Results) -> None:
    host_time = results.record()["per_prompt_results"][0]["nki"]["host_time"]
    assert host_time["samples_ms"] == [1000.0, 1500.0, 1250.0]
    assert host_time["mean_ms"] == 1250.0 and host_time["p50_ms"] == 1250.0
    assert host_time["p99_ms"] == pytest.approx(1495.0)
    assert host_time["token_generation_samples_ms"] == pytest.approx([150.0, 200.0, 200.0])
    assert host_time["context_encoding_mean_ms"] == pytest.approx(1000 / 3)


def test_a_simulator_gives_no_score_and_says_so(results: Results) -> None:
    record = results.record()
    absent = {entry["key"] for entry in record["absent"]}
    assert {"summary.nki_total_score", "per_prompt_results[*].nki.latency_ms"} <= absent
    assert "nki_total_score" not in record["summary"]
    assert record["per_prompt_results"][0]["baseline"].keys() == {"host_time"}


def test_a_failing_prompt_is_recorded_not_refused(results: Results) -> None:
    path = results.evaluation("nki", 1)
    results.change(path, "accuracy>divergences", [
        {"position": 2, "expected_token": 1, "actual_token": 2, "gap": 0.5,
         "within_tolerance": False},
    ])  # fmt: skip
    results.change(path, "accuracy>tokens_equal", 7)
    results.change(path, "accuracy>passed", False)
    summary = results.record()["summary"]
    assert summary["accuracy"] == 0.5 and summary["tokens_equal"] == 15


def test_fallbacks_are_listed_once(results: Results) -> None:
    fallback = {"kernel": "top8", "reason": "7 experts"}
    for prompt in (0, 1):
        results.change(results.evaluation("nki", prompt), "fallbacks", [fallback, fallback])
    assert results.record()["fallbacks"] == [fallback]


@pytest.mark.parametrize(
    ("variant", "keys", "value", "named"),
    [
        ("nki", "inputs>kernels>kernels/nki_kernels.py", "f" * 64, "kernels: kernels/nki_kernels"),
        ("nki", "inputs>model_code>model/layers.py", "f" * 64, "model_code: model/layers.py"),
        ("baseline", "inputs>model_code>model/baseline.py", None, "is absent there"),
        ("baseline", "inputs>model_manifest_sha256", "f" * 64, "model_manifest_sha256"),
        ("nki", "inputs>artefact_key", "f" * 64, "artefact_key"),
        ("nki", "inputs>baseline_logits_sha256", "f" * 64, "baseline_logits_sha256"),
        ("nki", "prompt>sha256", "f" * 64, "prompt: sha256"),
        ("nki", "settings>timed_runs", 9, "timed_runs is 9 there, 3 now"),
        ("baseline", "settings>max_new_tokens", 9, "max_new_tokens is 9 there"),
        ("nki", "accuracy>divergence_tolerance", 0.1, "divergence is 0.1 there"),
        ("nki", "accuracy>top_k", [], "50 is absent there"),
        ("nki", "platform_target", "trn3", "platform_target is trn3 there"),
        ("nki", "backend", "neuron", "backend is neuron there"),
        ("nki", "variant", "other", "not an evaluation"),
        ("nki", "provenance>versions>python", "3.10.1", "versions: python is 3.11.7 there, 3.10.1"),
        ("nki", "provenance>machine>cpu", "another CPU", "machine: cpu is a CPU there"),
        ("baseline", "inputs", None, "not a complete evaluation, without inputs"),
        ("nki", "launches", None, "not a complete evaluation, without launches"),
    ],
)
def test_a_stale_evaluation_is_named_with_what_to_run(
    results: Results, variant: str, keys: str, value: Any, named: str
) -> None:
    path = results.evaluation(variant, 1)
    results.change(path, keys, value)
    message = refused(results)
    assert str(path) in message and named in message
    assert "again" in message or "leave it out" in message


def test_what_started_a_run_does_not_matter(results: Results) -> None:
    results.change(results.evaluation("nki", 1), "provenance>versions>snakemake", "9.1")
    assert validate(results.record()) == []


def test_every_stale_file_is_listed(results: Results) -> None:
    for prompt in (0, 1):
        results.change(results.evaluation("nki", prompt), "backend", "neuron")
    message = refused(results)
    assert all(str(results.evaluation("nki", prompt)) in message for prompt in (0, 1))


def test_an_edited_kernel_makes_evaluation_and_artefact_stale(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edited(variant: str, backend: str) -> dict[str, dict[str, str]]:
        sources = artefact.variant_sources(variant)
        if variant == "nki":
            sources["kernels"]["kernels/nki_kernels.py"] = "e" * 64
        return sources

    monkeypatch.setattr(aggregation, "variant_sources", edited)
    message = refused(results)
    assert str(results.evaluation("nki", 0)) in message
    assert "evaluate prompt 0 with nki again" in message
    assert str(results.evaluation("baseline", 0)) not in message


def test_a_stale_artefact_is_refused(results: Results) -> None:
    results.change(results.artefact("nki"), "inputs>dtype", "bfloat16")
    message = refused(results)
    assert "the key is not the hash of the inputs; compile nki again" in message
    assert "dtype is bfloat16 there, float32 now" in message


def test_missing_files_are_named(results: Results) -> None:
    results.evaluation("nki", 1).unlink()
    assert "prompt 1: no file for it; evaluate it with nki" in refused(results)
    results.artefact("baseline").unlink()
    assert "variant baseline: no file for it; compile it" in refused(results)


def test_a_prompt_twice_is_refused(results: Results) -> None:
    copy = results.evaluation("nki", 7)
    copy.write_bytes(results.evaluation("nki", 0).read_bytes())
    assert "prompt 0: more than one file" in refused(results)


def test_an_edited_or_removed_prompt_is_refused(results: Results) -> None:
    prompts = Path(results.config["evaluation"]["prompts"])
    prompts.write_text("the first prompt\n\nanother prompt\n")
    message = refused(results)
    assert str(results.evaluation("baseline", 1)) in message
    assert str(results.evaluation("baseline", 0)) not in message
    prompts.write_text("the first prompt\n")
    assert "prompt 1 is not wanted; leave it out" in refused(results)


def test_damaged_files_are_named(results: Results) -> None:
    path = results.evaluation("nki", 0)
    path.write_text(path.read_text()[:200])
    assert f"{path}: not valid JSON, perhaps truncated" in refused(results)
    path.write_text("[]")
    assert f"{path}: not a result" in refused(results)


def test_a_failed_or_missing_kernel_test_is_refused(results: Results) -> None:
    results.change(results.kernel_test("rope"), "kernels>rope>passed", False)
    assert "the test of rope failed" in refused(results)
    results.kernel_test("rope").unlink()
    assert "kernel rope: 0 test results, expected one" in refused(results)


def test_a_stale_kernel_test_is_refused(results: Results) -> None:
    path = results.kernel_test("silu")
    results.change(path, "kernels>silu>inputs>kernels>kernels/nki_kernels.py", "f" * 64)
    assert "kernels: kernels/nki_kernels.py is ffffffffffff there" in refused(results)
    assert "test silu again" in refused(results)


def test_a_foreign_kernel_test_is_refused(results: Results) -> None:
    results.change(results.kernel_test("rope"), "kernels>other", {"passed": True})
    assert "kernel other: tested, but not among the kernels" in refused(results)


def test_a_model_that_is_not_the_manifests_is_refused(results: Results) -> None:
    path = results.folder / "model" / "config.json"
    path.write_text(path.read_text() + " ")
    assert f"{path}: not the file of" in refused(results)


def test_a_kernel_that_was_never_launched_fails_the_build(results: Results) -> None:
    runs = [results.evaluation("nki", prompt) for prompt in (0, 1)]
    runs += [results.check(check.name) for check in path_checks(results.config)]
    for run in runs:
        for phase in ("prefill", "expected_prefill", "decode_step", "expected_decode_step"):
            results.change(run, f"launches>{phase}>rope", 0)
    with pytest.raises(RecordError, match=r"launches: every kernel is launched"):
        results.record()


def test_prompts_that_counted_different_launches_are_refused(results: Results) -> None:
    results.change(results.evaluation("nki", 1), "launches>prefill>rope", 3)
    assert "different launches" in refused(results)


def test_another_backend_is_refused(results: Results) -> None:
    results.config["backend"] = "neuron-simulator"
    with pytest.raises(ValueError, match="nothing here evaluates on it"):
        results.record()


@pytest.fixture
def measured(tmp_path: Path) -> Results:
    return result_files.make(tmp_path, "neuron")


def test_a_device_gives_latencies_and_scores(measured: Results) -> None:
    record = measured.record()
    assert validate(record) == []
    assert [entry["key"] for entry in record["absent"]] == ["statistics"], "three runs are too few"
    assert record["hardware"] == "trn2.3xlarge, 1 Neuron device(s), 4 rank(s)"
    assert record["neuron_sdk_version"] == "2.29"
    side = record["per_prompt_results"][0]["nki"]
    assert side["latency"] == {"basis": "measured", "samples_ms": [1000.0, 1500.0, 1250.0]}
    assert side["latency_ms"] == pytest.approx(1495.0)
    assert side["throughput_tok_s"] == pytest.approx(640 / 1.25)
    expected = (12498 / 1495) * (512 / 51.86) * 1.25
    assert side["score"] == pytest.approx(expected)
    assert record["summary"]["improvement_percent"] == pytest.approx(25)
    assert record["summary"]["nki_flops_ratio"] == 0.25
    assert side["mac_ratio"] == {
        "basis": "counted", "challenge_ratio": 0.25, "executed_ratio": 0.25,
        "useful_ratio_at_least": 0.25, "useful_ratio_at_most": 0.25, "uncounted_calls": 0,
    }  # fmt: skip
    assert "model/qwen_with_nki.py" in record["provenance"]["model_code"]


def change_both(measured: Results, keys: str, value: Any) -> None:
    for prompt in (0, 1):
        measured.change(measured.evaluation("nki", prompt), keys, value)


def test_a_kernel_that_did_not_run_on_the_device_needs_a_reason(measured: Results) -> None:
    change_both(measured, "launches>prefill>router_prefill", 0)
    with pytest.raises(RecordError, match=r"launches\.prefill"):
        measured.record()
    change_both(measured, "fallbacks", [{"kernel": "router_prefill", "reason": "CTE: routed"}])
    assert validate(measured.record()) == []


def test_a_device_that_took_the_small_kernels_is_held_to_them(measured: Results) -> None:
    """A reason against the layers excuses none of the kernels that stand in for them."""
    change_both(measured, "fallbacks", [{"kernel": "layered", "reason": "CTE: batch_size is 2"}])
    with pytest.raises(RecordError, match=r"launches\.prefill"):
        measured.record()
    phases: dict[str, Phase] = {"prefill": "prefill", "decode_step": "decode"}
    for step, phase in phases.items():
        counts = expected_launches(result_files.CONFIG, phase, "rows", final_norm_fused=False)
        change_both(measured, f"launches>{step}", counts)
    record = measured.record()
    assert validate(record) == []
    kernels = {kernel["kernel"]: kernel for kernel in record["nki_kernels_implemented"]}
    assert kernels["silu"]["launches"]["kernel_path"] == "rows"


@pytest.mark.parametrize("keys, value, named", [
    ("inputs>kernels>kernels/nki_kernels.py", "f" * 64, "kernels/nki_kernels.py is"),
    ("mac_ratio", None, "not a complete evaluation, without mac_ratio"),
    ("device", None, "not a complete evaluation, without device"),
])  # fmt: skip
def test_a_stale_measurement_is_named(measured: Results, keys: str, value: Any, named: str) -> None:
    measured.change(measured.evaluation("nki", 0), keys, value)
    assert named in refused(measured)


def test_a_model_compiled_for_another_length_is_stale(measured: Results) -> None:
    measured.config["evaluation"]["sequence_length"] = 512
    assert "seq_len is 640 there, 512 now; compile nki again" in refused(measured)


def test_prompts_without_a_published_baseline_have_no_score(measured: Results, monkeypatch) -> None:
    from evaluation import scoring

    published = scoring.load_baselines(aggregation.BASELINES_FILE, "trn2")
    fewer = scoring.Baselines(*list(vars(published).values())[:3], published.per_prompt[:1])
    monkeypatch.setattr(aggregation, "load_baselines", lambda path, platform: fewer)
    record = measured.record()
    assert "score" not in record["per_prompt_results"][0]["nki"]
    reasons = {entry["key"]: entry["reason"] for entry in record["absent"]}
    assert "no baseline for prompt 1:" in reasons["summary.nki_total_score"]
    assert "per_prompt_results[*].nki.score" in reasons and validate(record) == []


def test_a_downloaded_model_has_its_name(results: Results) -> None:
    source = {"kind": "hub", "repo_id": "Qwen/Qwen3-30B-A3B"}
    results.change(results.model_manifest, "source", source)
    assert results.record()["model"] == "Qwen/Qwen3-30B-A3B"
