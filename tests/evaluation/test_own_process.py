"""The command line of the baseline's own process says what the options say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evaluation import own_process
from evaluation.backends import DriverError
from evaluation.commandline import parse
from evaluation.own_process import evaluate_baseline, words
from evaluation.prompts import Prompt

PATHS = ["--model-path", "m", "--compiled-model-path", "c", "--backend", "neuron"]


@pytest.mark.parametrize("written", [
    ["--compile-only", "--enable-nki"],
    ["--mode", "generate", "--prompt", "--odd", "--prompt", "a 'b' \"c\""],
    ["--mode", "validate", "--tol-map", "{None: (1e-5, 0.05), 5: (1e-5, 0.03)}"],
    ["--mode", "evaluate_all", "--output", "o", "--resume", "--timed-runs", "7", "--seed", "3"],
    ["--mode", "evaluate_single", "--prompt-id", "1", "--context-encoding-buckets", "128", "640",
     "--no-enable-bucketing", "--tp-degree", "8", "--time-limit-s", "90", "--quiet"],
])  # fmt: skip
def test_words_are_read_as_the_options(written: list[str]) -> None:
    written = [f"--prompt={word}" if word == "--odd" else word for word in written]
    written = [w for w, after in zip(written, [*written[1:], ""], strict=True)
               if not (w == "--prompt" and after.startswith("--prompt="))]  # fmt: skip
    options = parse([*written, *PATHS])
    assert parse(words(options)) == options


def started(monkeypatch: pytest.MonkeyPatch, *written: str) -> list[list[str]]:
    """The command lines that are started for the baseline of a run."""
    lines: list[list[str]] = []
    monkeypatch.setattr(own_process, "_run", lambda words, what: lines.append(list(words)))
    options = parse([*written, *PATHS])
    texts = options.prompts or ["x", "y"]
    prompts = [Prompt(number, "a prompt", text) for number, text in enumerate(texts)]
    evaluate_baseline(options, prompts, Path("folder/baseline"))
    return lines


def test_all_prompts_are_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = started(
        monkeypatch, "--mode", "evaluate_all", "--enable-nki", "--tol-map", "{5: (0, 1)}"
    )
    options = parse(line)
    assert (options.mode, options.variant) == ("evaluate_all", "baseline")
    assert options.output == Path("folder") and options.timed_runs == 20


def test_a_validation_times_one_run_of_each_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = started(monkeypatch, "--mode", "validate", "--prompt", "a", "--prompt", "b")
    options = [parse(line) for line in lines]
    assert [o.prompts for o in options] == [["a"], ["b"]]
    assert [o.output for o in options] == [
        Path(f"folder/baseline/prompt_{number}.json") for number in (0, 1)
    ]
    assert {(o.mode, o.timed_runs, o.warmup_runs) for o in options} == {("evaluate_single", 1, 0)}


def test_a_failure_is_an_error(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    options = parse(["--mode", "evaluate_all", "--enable-nki", *PATHS])
    missing = replace(options, model_path=Path("nowhere"), backend="simulator", device={})
    with pytest.raises(DriverError, match="ended with status 1"):
        evaluate_baseline(missing, [Prompt(0, "a prompt", "x")], Path("folder/baseline"))
    assert "no Hugging Face checkpoint" in capfd.readouterr().err
