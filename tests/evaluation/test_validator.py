"""The validator on another submission's file: every inconsistency of it is listed, readably."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.files import write_json
from evaluation.plausibility import remarks
from evaluation.problems import Problem
from evaluation.records import is_about_form, validate
from evaluation.validator import main, report

from . import result_files
from .foreign_file import (
    KERNELS,
    SCORES_RECOMPUTED,
    SIDES,
    TOTALS_RECOMPUTED,
    published_elsewhere,
)

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT.parent / "shared" / "contest" / "seed_benchmark_results.json"
PROMPT = "per_prompt_results[{}]"


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return validate(published_elsewhere())


def by_rule(problems: list[Problem], words: str) -> dict[str, Problem]:
    return {problem.path: problem for problem in problems if words in problem.rule}


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published file is not here")
def test_the_figures_here_are_the_published_ones() -> None:
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    ours = published_elsewhere()
    for key in ("summary", "scoring_formula", "test_configuration", "hardware"):
        assert ours[key] == published[key]
    theirs = published["per_prompt_results"]
    for mine, their in zip(ours["per_prompt_results"], theirs, strict=True):
        assert {**mine, "name": their["name"]} == their
    kernels = published["nki_kernels_implemented"]
    assert [(k["name"], k["validation_max_diff"]) for k in kernels] == [
        (name, "<1e-3") for name in KERNELS
    ]
    assert validate(ours) == validate(published)


@pytest.mark.parametrize("side", SIDES)
def test_no_row_satisfies_the_formula(problems: list[Problem], side: str) -> None:
    found = by_rule(problems, "with the published baseline")
    rows = [found[f"{PROMPT.format(index)}.{side}.score"] for index in range(5)]
    recomputed = [float(problem.expected) for problem in rows]
    assert recomputed == pytest.approx(SCORES_RECOMPUTED[side], rel=5e-3)
    assert sum(recomputed) == pytest.approx(TOTALS_RECOMPUTED[side], abs=0.01)
    assert [float(problem.found) for problem in rows] == [row[2] for row in SIDES[side]]


def test_latency_times_throughput_is_no_constant(problems: list[Problem]) -> None:
    found = by_rule(problems, "throughput x p99")
    tokens = {path: int(problem.found.split(" = ")[1]) for path, problem in found.items()}
    assert min(tokens.values()) == 512 and max(tokens.values()) == 1215
    assert len(tokens) == 8, "prompt 1 alone lies where its mean may be"


def test_token_counts_are_not_those_of_the_prompts(problems: list[Problem]) -> None:
    found = by_rule(problems, "fill the sequence")
    assert list(found) == [f"{PROMPT.format(index)}.output_tokens" for index in (1, 2, 3, 4)]
    found = by_rule(problems, "tokens of the organisers' prompt")
    pairs = [(int(problem.found), int(problem.expected)) for problem in found.values()]
    assert pairs == [(128, 20), (256, 192), (512, 54), (384, 14), (1024, 512)]
    (fits,) = by_rule(problems, "leaves room for output")
    assert fits == "per_prompt_results[4].input_tokens"


def test_the_longest_prompt_cannot_be_the_slowest(problems: list[Problem]) -> None:
    found = by_rule(problems, "fewest decode steps")
    assert list(found) == [f"per_prompt_results[4].{side}.latency_ms" for side in SIDES]
    record = published_elsewhere()
    record["test_configuration"]["max_new_tokens"] = 8
    assert not by_rule(validate(record), "fewest decode steps")


def test_what_was_never_measured_is_named(problems: list[Problem]) -> None:
    assert len(by_rule(problems, "a figure has a basis")) == 10
    assert list(by_rule(problems, "accuracy is measured")) == ["summary.accuracy"]
    launches = by_rule(problems, "launches were counted")
    assert [problem.found for problem in launches.values()] == [f"none for '{k}'" for k in KERNELS]
    form = by_rule(problems, "form required")
    differences = [p.found for path, p in form.items() if path.endswith("validation_max_diff")]
    assert differences == ["'<1e-3'"] * 6
    assert "timestamp" in form and "provenance" in by_rule(problems, "required by the schema")


def test_one_share_of_macs_for_both_variants_has_no_source(problems: list[Problem]) -> None:
    assert list(by_rule(problems, "own share of MACs")) == ["summary.nki_flops_ratio"]
    assert list(by_rule(problems, "hold matrix products")) == ["summary.nki_flops_ratio"]


def test_totals_and_roundings(problems: list[Problem]) -> None:
    (total,) = by_rule(problems, "sum of the prompts' scores").values()
    assert (total.path, total.expected, total.found) == (
        "summary.baseline_total_score", "8.23", "8.24",
    )  # fmt: skip
    rounded = ("summary.nki_total_score", "summary.improvement_percent")
    assert not [p for p in problems if p.path in rounded or "improvement_percent" in p.path]


def test_a_slow_host_is_remarked() -> None:
    (remark,) = remarks(published_elsewhere())
    assert "8.24, -17 % from the 9.985" in remark
    at_parity = published_elsewhere()
    at_parity["summary"]["baseline_total_score"] = 9.98
    assert list(remarks(at_parity)) == []


def test_the_report_groups_by_rule(problems: list[Problem]) -> None:
    text = report("their.json", problems, ["one remark"])
    head, figures, form, notes = text.split("\n\n")
    assert head == f"their.json: {len(problems)} problem(s) by 14 rule(s)"
    count = sum(is_about_form(problem) for problem in problems)
    assert figures.startswith(f"figures: {len(problems) - count}\n")
    assert form.startswith(f"form: {count}\n  required by the schema (")
    assert "per_prompt_results[0].nki.score: expected 4.887" in figures
    assert figures.count("a figure has a basis (10)") == 1
    assert notes == "remarks\n  one remark"
    assert max(map(len, text.splitlines())) <= 110
    assert report("ours.json", []) == "ours.json: valid"


def test_the_program_judges_each_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours: dict[str, Any] = result_files.make(tmp_path).record()
    for name, content in (("ours", ours), ("theirs", published_elsewhere()), ("list", [])):
        write_json(tmp_path / f"{name}.json", content)
    (tmp_path / "cut.json").write_text('{"summary": {"accu')
    assert main([str(tmp_path / "ours.json")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'ours.json'}: valid\n"
    files = [str(tmp_path / f"{name}.json") for name in ("ours", "theirs", "list", "cut", "none")]
    assert main(files) == 1
    output = capsys.readouterr().out
    assert all(f"{file}: " in output for file in files)
    output = " ".join(output.split())
    assert "perhaps truncated" in output and "cannot be read" in output
    with pytest.raises(SystemExit) as refused:
        main([])
    assert refused.value.code == 2


def test_a_reader_may_stop_early(tmp_path: Path) -> None:
    write_json(tmp_path / "theirs.json", published_elsewhere())
    words = [sys.executable, "-m", "evaluation.validator", *3 * [str(tmp_path / "theirs.json")]]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout and run.stderr
        run.stdout.readline()
        run.stdout.close()
        assert run.stderr.read() == b""
