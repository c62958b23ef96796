"""Artefacts: every kernel traced at the model's and the true shapes, and foreign ones refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model.launches import expected_launches

from evaluation import artefact
from evaluation.artefact import (
    ArtefactMismatch,
    CompileSettings,
    check_artefact,
    compile_artefact,
    differing,
    run_traced,
)
from evaluation.files import write_json
from evaluation.shapes import QWEN3_30B_A3B, Architecture, Trace, traces_of
from kernels.specs import SPECS

MANIFEST = {"sha256": "1" * 64}
SETTINGS = CompileSettings()
CONFIG: dict[str, Any] = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "num_experts": 16, "num_experts_per_tok": 8, "moe_intermediate_size": 32,
    "num_hidden_layers": 2, "norm_topk_prob": True,
}  # fmt: skip


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    write_json(tmp_path / "model" / "config.json", CONFIG)
    return tmp_path / "model"


@pytest.fixture
def few_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace one token only: what is tested is the artefact, not the kernels."""

    def decode_only(architecture: Architecture) -> list[Trace]:
        return [trace for trace in traces_of(architecture) if trace.phase == "decode"]

    monkeypatch.setattr(artefact, "traces_of", decode_only)


def test_every_kernel_is_traced_in_prefill_and_decode() -> None:
    for architecture in (QWEN3_30B_A3B, Architecture.from_config(CONFIG)):
        traces = list(traces_of(architecture))
        for tokens in (128, 256, 640, 1):
            assert {trace.kernel for trace in traces if trace.tokens == tokens} == set(SPECS)
    assert set(expected_launches(CONFIG, "decode")) == set(SPECS)


def test_the_true_shapes() -> None:
    decode = {t.kernel: t.shapes for t in reversed(list(traces_of(QWEN3_30B_A3B))) if t.tokens == 1}
    assert decode["rmsnorm"] == {"x": (1, 2048), "weight": (2048,)}
    assert decode["rope"]["x"] == (1, 36, 128)
    assert decode["softmax"] == {"x": (32, 640)}
    assert decode["silu"] == {"x": (8, 768)}
    assert decode["expert_aggregation"]["expert_outputs"] == (1, 8, 2048)


def test_a_trace_counts_bytes() -> None:
    summary = run_traced(Trace("silu", "decode", 1, {"x": (8, 768)}), "float32")
    assert summary["hbm_read_bytes"] == summary["hbm_write_bytes"] == 8 * 768 * 4
    half = run_traced(Trace("silu", "decode", 1, {"x": (8, 768)}), "bfloat16")
    assert half["hbm_read_bytes"] == 8 * 768 * 2


def test_a_kernel_for_float32_alone_is_traced_in_it() -> None:
    assert run_traced(Trace("top8", "decode", 1, {"probabilities": (1, 16)}), "bfloat16")


@pytest.mark.usefixtures("few_traces")
def test_compile_and_check(tmp_path: Path, model_path: Path) -> None:
    lines: list[str] = []
    compiled = compile_artefact("nki", model_path, MANIFEST, SETTINGS, tmp_path / "a", lines.append)
    assert check_artefact(tmp_path / "a", "nki", MANIFEST, SETTINGS) == compiled
    assert {trace["model"] for trace in compiled["kernels"]} == {"own", "Qwen3-30B-A3B"}
    assert len(lines) == len(compiled["kernels"])
    assert "kernels/nki_kernels.py" in compiled["inputs"]["kernels"]


@pytest.mark.usefixtures("few_traces")
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, model_path: Path) -> None:
    for name in ("a", "b"):
        compile_artefact("nki", model_path, MANIFEST, SETTINGS, tmp_path / name)
    first, second = ((tmp_path / name / "manifest.json").read_bytes() for name in ("a", "b"))
    assert first == second


def test_the_baseline_has_no_kernels(tmp_path: Path, model_path: Path) -> None:
    compiled = compile_artefact("baseline", model_path, MANIFEST, SETTINGS, tmp_path / "a")
    assert compiled["kernels"] == [] and "nki_sim" not in compiled["inputs"]


@pytest.mark.parametrize(
    ("variant", "manifest", "settings", "named"),
    [
        ("nki", MANIFEST, SETTINGS, "variant is baseline there, nki now"),
        ("baseline", {"sha256": "2" * 64}, SETTINGS, "model_manifest_sha256 is 111111111111"),
        ("baseline", MANIFEST, replace(SETTINGS, dtype="bfloat16"), "dtype is float32 there"),
        ("baseline", MANIFEST, replace(SETTINGS, platform_target="trn3"), "platform_target"),
    ],
)
def test_a_foreign_artefact_is_refused_and_the_difference_named(
    tmp_path: Path,
    model_path: Path,
    variant: str,
    manifest: dict[str, str],
    settings: CompileSettings,
    named: str,
) -> None:
    compile_artefact("baseline", model_path, MANIFEST, SETTINGS, tmp_path / "a")
    with pytest.raises(ArtefactMismatch, match=named):
        check_artefact(tmp_path / "a", variant, manifest, settings)


def test_an_edited_source_is_named(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_artefact("baseline", model_path, MANIFEST, SETTINGS, tmp_path / "a")
    edited = {"kernels": {}, "model_code": {"model/baseline.py": "f" * 64}}
    monkeypatch.setattr(artefact, "variant_sources", lambda variant, backend: edited)
    with pytest.raises(ArtefactMismatch, match=r"model_code: model/baseline\.py is .* there, ffff"):
        check_artefact(tmp_path / "a", "baseline", MANIFEST, SETTINGS)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "compile first"),
        ("{", "truncated"),
        ("[]", "not an artefact"),
        ('{"schema_version": 1, "key": "x", "inputs": {}}', "not the hash"),
    ],
)
def test_a_missing_or_damaged_artefact_is_refused(
    tmp_path: Path, content: str | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ArtefactMismatch, match=problem):
        check_artefact(tmp_path, "baseline", MANIFEST, SETTINGS)


def test_an_edited_key_is_refused(tmp_path: Path, model_path: Path) -> None:
    compile_artefact("baseline", model_path, MANIFEST, SETTINGS, tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    content["inputs"]["dtype"] = "bfloat16"
    write_json(tmp_path / "manifest.json", content)
    with pytest.raises(ArtefactMismatch, match="not the hash"):
        check_artefact(tmp_path, "baseline", MANIFEST, SETTINGS)


def test_a_failing_kernel_leaves_no_artefact(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible = [Trace("softmax", "decode", 1, {"x": (4, 7000)})]
    monkeypatch.setattr(artefact, "traces_of", lambda architecture: impossible)
    with pytest.raises(AssertionError, match="at most 6144"):
        compile_artefact("nki", model_path, MANIFEST, SETTINGS, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("variant", "backend", "problem"),
    [("other", "simulator", "variant"), ("nki", "neuron", "neuron")],
)
def test_what_it_cannot_compile_is_refused(
    tmp_path: Path, model_path: Path, variant: str, backend: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        compile_artefact(variant, model_path, MANIFEST, CompileSettings(backend), tmp_path)


def test_differences_are_named_by_their_path() -> None:
    old = {"a": 1, "b": {"c": "x", "d": 1}}
    new = {"a": 1, "b": {"c": "y", "e": 2}}
    assert list(differing(old, new)) == [
        "b: c is x there, y now", "b: d is 1 there, absent now", "b: e is absent there, 2 now",
    ]  # fmt: skip
