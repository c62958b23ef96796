"""Artefacts: every kernel traced at the model's and the true shapes, and foreign ones refused."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest

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
from model.tiny import CONFIG

MANIFEST = {"sha256": "1" * 64}
SETTINGS = CompileSettings()


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    write_json(tmp_path / "model" / "config.json", CONFIG)
    return tmp_path / "model"


@pytest.fixture
def few_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace one token only: what is tested is the artefact, not the kernels."""

    def decode_only(architecture: Architecture) -> list[Trace]:
        return [t for t in traces_of(architecture) if t.kernel in ("silu", "lm_head")][-2:]

    monkeypatch.setattr(artefact, "traces_of", decode_only)


def test_every_kernel_is_traced_in_prefill_and_decode() -> None:
    for architecture in (QWEN3_30B_A3B, Architecture.from_config(CONFIG)):
        traces = list(traces_of(architecture))
        decode = {trace.kernel for trace in traces if trace.phase == "decode"}
        assert decode == {name for name in SPECS if not name.endswith("prefill")}
        for tokens in (128, 256, 640):
            prefill = {trace.kernel for trace in traces if trace.tokens == tokens}
            one_phase = {name for name in SPECS if name.endswith("decode")} | {"decoder_stack"}
            assert prefill == set(SPECS) - one_phase


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_kernel_is_legal_at_the_true_shapes(dtype: str) -> None:
    """The decode step: the stack at its whole depth, what a rank of four has."""
    traces = [t for t in traces_of(QWEN3_30B_A3B.of_rank(4)) if t.phase == "decode"]
    summaries = {t.kernel: run_traced(t, dtype, numbers=False) for t in traces}
    weights = 2 * 151936 // 4 * 2048 if dtype == "bfloat16" else 4 * 151936 // 4 * 2048
    assert summaries["lm_head"]["hbm_read_bytes"] >= weights
    assert summaries["decoder_stack"]["assumed"]  # which experts, which position


def test_shapes_are_the_oracles() -> None:
    """Every decoder kernel takes the arguments that its shapes name."""
    for trace in traces_of(Architecture.from_config(CONFIG)):
        names = [*inspect.signature(SPECS[trace.kernel].reference).parameters]
        assert [n for n in names if n in trace.shapes] == [*trace.shapes]


def test_the_true_shapes() -> None:
    traces = list(traces_of(QWEN3_30B_A3B))
    decode = {t.kernel: t.shapes for t in reversed(traces) if t.phase == "decode"}
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
    assert {trace["model"] for trace in compiled["kernels"]} == {"own", "Qwen3-30B-A3B, rank of 4"}
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
