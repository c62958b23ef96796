"""Evaluating one prompt, with models that the tests make up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evaluation import evaluate
from evaluation.evaluate import EvaluationError, Rule, Settings, Subject, evaluate_prompt
from evaluation.files import sha256_file, write_json
from evaluation.prompts import Prompt
from model import dispatch
from model.generation import Generation
from model.plan import Plan
from model.tiny import CONFIG

VOCABULARY, LAYERS = 50, 3
LAUNCHES = {"silu": 2, "rmsnorm": 5}
PROMPT = Prompt(1, "Programming task", "some words to read")
SETTINGS = Settings(sequence_length=64, max_new_tokens=6, warmup_runs=1, timed_runs=2)


class Tokenizer:
    """One token per word."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": list(range(len(text.split())))}

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, tokens))


class Model:
    """Logits depend on the position and the token fed; the variant "nki" adds `error` to them."""

    def __init__(self, error: float = 0.0, launches: dict[str, int] | None = None) -> None:
        self.error = error
        self.launches = launches or {}
        self.calls: list[tuple[int, bool]] = []
        self.on_step: Callable[[int], None] = lambda position: None

    def generate(
        self, input_ids: torch.Tensor, new_tokens: int, forced_tokens: torch.Tensor | None = None
    ) -> Generation:
        self.calls.append((new_tokens, forced_tokens is not None))
        logits, token = [], int(input_ids[-1])
        for position in range(new_tokens):
            self._launch()
            self.on_step(position)
            logits.append(self._logits(position, token))
            own = int(logits[-1].argmax())
            token = own if forced_tokens is None else int(forced_tokens[position])
        stacked = np.array(logits)
        return Generation(stacked.argmax(axis=1), stacked, 0.5, [0.25] * (new_tokens - 1))

    def prefill(self, input_ids: torch.Tensor, capacity: int) -> torch.Tensor:
        self._launch()
        return torch.zeros(VOCABULARY)

    def decode(self, token: int) -> torch.Tensor:
        self._launch()
        return torch.zeros(VOCABULARY)

    def hidden_states(self, input_ids: torch.Tensor, token: int) -> torch.Tensor:
        return torch.full((2, LAYERS, 4), 4.0 + 2.0**-10 * self.error)

    def _logits(self, position: int, token: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        base = np.random.default_rng([position, token]).normal(0, 5, VOCABULARY)
        noise = np.random.default_rng([position, token, 1]).normal(0, 1, VOCABULARY)
        return (base + self.error * noise).astype(np.float32)

    def _launch(self) -> None:
        for counter in dispatch._counters:
            counter.update(self.launches)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tokenizer and an architecture for which LAUNCHES are the right ones."""
    monkeypatch.setattr(evaluate, "_tokenizer", lambda path: Tokenizer())
    plan = Plan("fused", "fused")
    monkeypatch.setattr("model.plan.choose", lambda path, config, dtype: plan)
    monkeypatch.setattr("model.plan.expected_launches", lambda config, phase, path: dict(LAUNCHES))
    write_json(tmp_path / "model" / "config.json", CONFIG)
    dispatch.forget_fallbacks()


def subject(tmp_path: Path, variant: str) -> Subject:
    return Subject(variant, "simulator", "trn2", tmp_path / "model", "a" * 64, "b" * 64)


def run(
    tmp_path: Path, variant: str, model: Model, prompt: Prompt = PROMPT, **changes: Any
) -> dict[str, Any]:
    arguments: dict[str, Any] = {"settings": SETTINGS, "rule": None, **changes}
    return evaluate_prompt(
        model,
        prompt,
        arguments.get("subject") or subject(tmp_path, variant),
        arguments["settings"],
        tmp_path / variant / f"prompt_{prompt.id}.json",
        tmp_path / "baseline" if variant == "nki" else None,
        arguments["rule"],
    )


def test_a_baseline_keeps_every_sample_and_its_logits(tmp_path: Path) -> None:
    model = Model()
    result = run(tmp_path, "baseline", model)
    assert model.calls == [(6, False)] * 3
    assert len(result["host_time"]["end_to_end_s"]) == 2
    assert result["host_time"]["context_encoding_s"] == [0.5, 0.5]
    assert result["host_time"]["token_generation_s"] == [[0.25] * 5] * 2
    assert result["prompt"]["input_tokens"] == 4 and result["prompt"]["output_tokens"] == 6
    assert result == json.loads((tmp_path / "baseline" / "prompt_1.json").read_text())
    logits = tmp_path / "baseline" / "prompt_1.npz"
    assert result["logits"] == {"file": "prompt_1.npz", "sha256": sha256_file(logits)}
    with np.load(logits) as arrays:
        assert arrays["tokens"].tolist() == result["tokens"]
        assert arrays["logits"].shape == (6, VOCABULARY)
    assert "accuracy" not in result and "launches" not in result


def test_an_equal_candidate_needs_no_second_run(tmp_path: Path) -> None:
    run(tmp_path, "baseline", Model())
    model = Model(error=1e-6, launches=LAUNCHES)
    result = run(tmp_path, "nki", model)
    assert result["accuracy"]["passed"] and result["accuracy"]["tokens_equal"] == 6
    assert model.calls == [(6, False)] * 3
    assert result["launches"] == {
        "prefill": LAUNCHES, "decode_step": LAUNCHES,
        "expected_prefill": LAUNCHES, "expected_decode_step": LAUNCHES,
    }  # fmt: skip
    assert result["fallbacks"] == []
    baseline = json.loads((tmp_path / "baseline" / "prompt_1.json").read_text())
    assert result["inputs"]["baseline_logits_sha256"] == baseline["logits"]["sha256"]


def test_a_diverging_candidate_is_forced_onto_the_baselines_tokens(tmp_path: Path) -> None:
    run(tmp_path, "baseline", Model())
    model = Model(error=2.0, launches=LAUNCHES)
    result = run(tmp_path, "nki", model)
    assert (6, True) in model.calls
    report = result["accuracy"]
    assert not report["passed"] and report["divergences"]
    assert report["tokens_equal"] == 6 - len(report["divergences"])


def test_the_rule_is_the_one_given(tmp_path: Path) -> None:
    run(tmp_path, "baseline", Model())
    rule = Rule({"5": (0.0, 1e-9)}, 0.1, tokens_to_check=4)
    report = run(tmp_path, "nki", Model(1e-6, LAUNCHES), rule=rule)["accuracy"]
    assert report["tokens_checked"] == 4 and not report["passed"]
    assert [entry["top_k"] for entry in report["top_k"]] == ["5"]


def test_fallbacks_of_this_run_are_recorded(tmp_path: Path) -> None:
    run(tmp_path, "baseline", Model())
    dispatch.record_fallback("rope", "of an earlier run")
    model = Model(launches=LAUNCHES)
    model.on_step = lambda position: dispatch.record_fallback("top8", "7 experts")
    result = run(tmp_path, "nki", model)
    assert result["fallbacks"] == [{"kernel": "top8", "reason": "7 experts"}]


@pytest.mark.parametrize(
    ("launches", "problem"),
    [
        ({"silu": 2}, "rmsnorm: 0 in the prefill, expected 5"),
        ({"silu": 2, "rmsnorm": 4}, "rmsnorm: 4 in the decode_step, expected 5"),
        ({**LAUNCHES, "rope": 1}, "rope: launched in the prefill"),
    ],
)
def test_other_launches_than_the_architectures_fail(
    tmp_path: Path, launches: dict[str, int], problem: str
) -> None:
    run(tmp_path, "baseline", Model())
    with pytest.raises(EvaluationError, match=problem):
        run(tmp_path, "nki", Model(launches=launches))
    assert not (tmp_path / "nki" / "prompt_1.json").exists()


def test_unequal_decode_steps_fail(tmp_path: Path) -> None:
    run(tmp_path, "baseline", Model())
    model = Model(launches=LAUNCHES)

    def once_more(position: int) -> None:
        if position == 3:
            for counter in dispatch._counters:
                counter["silu"] += 1

    model.on_step = once_more
    with pytest.raises(EvaluationError, match="13 launches in timed run 1 do not make"):
        run(tmp_path, "nki", model)


def test_runs_that_choose_other_tokens_fail(tmp_path: Path) -> None:
    model = Model()
    steps: list[int] = []

    def drift(position: int) -> None:
        steps.append(position)
        model.error = 5.0 if len(steps) > 12 else 0.0

    model.on_step = drift
    with pytest.raises(EvaluationError, match="timed run 2 chose other tokens"):
        run(tmp_path, "baseline", model)
    assert not (tmp_path / "baseline").exists()


@pytest.mark.parametrize(("text", "fits"), [("w " * 58, True), ("w " * 59, False), ("   ", False)])
def test_prompts_must_leave_room(tmp_path: Path, text: str, fits: bool) -> None:
    prompt = replace(PROMPT, text=text)
    if fits:
        assert run(tmp_path, "baseline", Model(), prompt)
        return
    with pytest.raises(EvaluationError, match=r"prompt 1 .*1 to 58"):
        run(tmp_path, "baseline", Model(), prompt)


def test_one_new_token_has_no_decode_step(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="at least 2"):
        run(tmp_path, "baseline", Model(), settings=replace(SETTINGS, max_new_tokens=1))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": replace(SETTINGS, max_new_tokens=5)}, "max_new_tokens"),
        ({"settings": replace(SETTINGS, dtype="bfloat16")}, "dtype"),
        ({"settings": replace(SETTINGS, seed=3)}, "seed"),
        ({"prompt": replace(PROMPT, text="other words to read")}, "prompt"),
    ],
)
def test_a_baseline_of_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    run(tmp_path, "baseline", Model())
    with pytest.raises(EvaluationError, match=f"a baseline of another {named}"):
        run(tmp_path, "nki", Model(launches=LAUNCHES), **changes)


def test_a_baseline_of_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "baseline", Model())
    other = replace(subject(tmp_path, "nki"), model_manifest_sha256="c" * 64)
    with pytest.raises(EvaluationError, match="a baseline of another model"):
        run(tmp_path, "nki", Model(launches=LAUNCHES), subject=other)


def test_an_nki_evaluation_is_no_baseline(tmp_path: Path) -> None:
    run(tmp_path, "baseline", Model())
    run(tmp_path, "nki", Model(launches=LAUNCHES))
    (tmp_path / "baseline" / "prompt_1.json").write_bytes(
        (tmp_path / "nki" / "prompt_1.json").read_bytes()
    )
    with pytest.raises(EvaluationError, match=r"not an evaluation|another variant"):
        run(tmp_path, "nki", Model(launches=LAUNCHES))


@pytest.mark.parametrize("damage", ["json", "npz", "missing", "other"])
def test_a_damaged_baseline_is_refused(tmp_path: Path, damage: str) -> None:
    run(tmp_path, "baseline", Model())
    json_file, npz_file = (tmp_path / "baseline" / f"prompt_1.{kind}" for kind in ("json", "npz"))
    if damage == "json":
        json_file.write_text(json_file.read_text()[:100])
    elif damage == "npz":
        npz_file.write_bytes(npz_file.read_bytes()[:-20])
    elif damage == "missing":
        npz_file.unlink()
    else:
        write_json(json_file, {"variant": "baseline"})
    with pytest.raises(EvaluationError, match="evaluate the baseline of prompt 1 again"):
        run(tmp_path, "nki", Model(launches=LAUNCHES))


def test_no_baseline_is_refused_before_any_run(tmp_path: Path) -> None:
    model = Model(launches=LAUNCHES)
    with pytest.raises(EvaluationError, match="no usable baseline"):
        run(tmp_path, "nki", model)
    with pytest.raises(EvaluationError, match="none was given"):
        evaluate_prompt(model, PROMPT, subject(tmp_path, "nki"), SETTINGS, tmp_path / "x.json")
    assert model.calls == []


def test_models_are_loaded_by_variant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from model import baseline, qwen_cpu

    monkeypatch.setattr(baseline, "load", lambda path, dtype: SimpleNamespace(kind="baseline"))
    monkeypatch.setattr(qwen_cpu, "load", lambda path, dtype, kernels: SimpleNamespace(kind="nki"))
    for variant in ("baseline", "nki"):
        assert evaluate.load_model(variant, tmp_path, "float32").kind == variant  # type: ignore[attr-defined]
