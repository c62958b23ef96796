"""The challenge's score, on rows that were published."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from evaluation.scoring import (
    CURRENT_FORMULA,
    FORMULAS,
    SCORE_COLUMNS,
    Measurement,
    PromptBaseline,
    ScoringError,
    formula_on,
    improvement_percent,
    load_baselines,
    score,
    score_file_name,
    score_row,
    score_table,
    total_score,
)

ROOT = Path(__file__).resolve().parents[2]
BASELINES = ROOT / "config" / "baselines.yaml"
CONTEST = ROOT.parent / "shared" / "contest"

# (p99 latency in ms, throughput in tok/s, published score) on trn3 by the first-placed submission.
WINNER = [
    (4078.7, 160.4, 35.48), (3057.0, 215.7, 33.38), (3821.1, 168.9, 35.48),
    (4095.8, 157.6, 34.74), (1012.9, 640.3, 28.97),
]  # fmt: skip
WINNER_RATIO = 0.9929

# What the log of another submission shows on trn2: (p99, throughput, score), without and with NKI.
SEED_LOG = {
    "baseline": [
        (14505.6, 46.09, 1.53), (10155.5, 64.07, 1.69), (13267.9, 48.51, 1.62),
        (14156.5, 45.71, 1.63), (3222.1, 203.83, 1.76),
    ],
    "nki": [
        (11535.3, 55.77, 2.326), (8505.7, 76.11, 2.399), (10956.2, 59.66, 2.416),
        (11668.5, 55.80, 2.415), (2811.8, 230.11, 2.283),
    ],
}  # fmt: skip
SEED_RATIO = 0.9966846147845622


@pytest.mark.parametrize("prompt_id", range(5))
def test_the_winners_rows_are_reproduced(prompt_id: int) -> None:
    latency, throughput, published = WINNER[prompt_id]
    base = load_baselines(BASELINES, "trn3").for_prompt(prompt_id)
    computed = score(Measurement(latency, throughput, 1.0, WINNER_RATIO), base)
    assert computed == pytest.approx(published, rel=1e-3)


def test_the_winners_total_is_the_sum() -> None:
    assert total_score([published for *_, published in WINNER]) == pytest.approx(168.05)


@pytest.mark.parametrize("variant", ["baseline", "nki"])
def test_the_rows_of_a_log_are_reproduced(variant: str) -> None:
    baselines = load_baselines(BASELINES, "trn2")
    scores = []
    for prompt_id, (latency, throughput, published) in enumerate(SEED_LOG[variant]):
        measured = Measurement(latency, throughput, 1.0, SEED_RATIO)
        scores.append(score(measured, baselines.for_prompt(prompt_id)))
        assert scores[-1] == pytest.approx(published, abs=0.006)
    assert total_score(scores) == pytest.approx(
        {"baseline": 8.237, "nki": 11.839}[variant], abs=2e-3
    )


def test_the_formula_has_changed_twice() -> None:
    assert [formula_on(day).constant for day in ("2026-01-08", "2026-03-04")] == [1.0, 1.0]
    assert [formula_on(day).constant for day in ("2026-03-05", "2026-04-19")] == [0.0, 0.0]
    assert formula_on("2026-04-20") is CURRENT_FORMULA
    with pytest.raises(ScoringError, match="no formula"):
        formula_on("2025-12-31")


def test_each_version_counts_the_ratio_its_own_way() -> None:
    measured, base = Measurement(50.0, 20.0, 1.0, 0.25), PromptBaseline(0, 100.0, 10.0)
    assert [score(measured, base, formula) for formula in FORMULAS] == [5.0, 1.0, 5.0]


def test_failed_accuracy_scores_nothing() -> None:
    assert score(Measurement(50.0, 20.0, 0.0, 0.5), PromptBaseline(0, 100.0, 10.0)) == 0.0


@pytest.mark.parametrize(
    "measured",
    [
        Measurement(0.0, 20.0, 1.0, 0.5),
        Measurement(50.0, -1.0, 1.0, 0.5),
        Measurement(float("nan"), 20.0, 1.0, 0.5),
        Measurement(50.0, 20.0, 1.1, 0.5),
        Measurement(50.0, 20.0, 1.0, -0.1),
    ],
)
def test_impossible_figures_are_refused(measured: Measurement) -> None:
    with pytest.raises(ScoringError, match="expected a"):
        score(measured, PromptBaseline(0, 100.0, 10.0))


def test_improvement_is_relative_to_the_own_baseline() -> None:
    assert improvement_percent(8.0, 10.0) == pytest.approx(25.0)
    with pytest.raises(ScoringError):
        improvement_percent(0.0, 1.0)


@pytest.mark.parametrize("platform", ["trn2", "trn3"])
@pytest.mark.skipif(not CONTEST.exists(), reason="the organisers' files are not here")
def test_baselines_are_the_organisers(platform: str) -> None:
    text = (CONTEST / f"prompt_data_{platform}.csv").read_text()
    published = [
        (int(row[0]), float(row[3]), float(row[4]))
        for row in list(csv.reader(io.StringIO(text)))[1:]
    ]
    ours = load_baselines(BASELINES, platform).per_prompt
    assert [(b.prompt_id, b.latency_ms, b.throughput_tok_s) for b in ours] == published


@pytest.mark.parametrize("platform", ["trn2", "trn3"])
def test_published_latency_times_throughput_is_the_sequence_length(platform: str) -> None:
    for base in load_baselines(BASELINES, platform).per_prompt:
        assert 640 <= base.latency_ms / 1e3 * base.throughput_tok_s <= 664


def test_unknown_platforms_prompts_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="known: trn2, trn3"):
        load_baselines(BASELINES, "trn9")
    with pytest.raises(ScoringError, match="prompt 5"):
        load_baselines(BASELINES, "trn2").for_prompt(5)
    broken = tmp_path / "b.yaml"
    broken.write_text("trn2: {source: x, date: y, per_prompt: [{prompt_id: 0}]}")
    with pytest.raises(ScoringError, match="malformed"):
        load_baselines(broken, "trn2")
    broken.write_text("trn2: [")
    with pytest.raises(ScoringError, match="cannot be read"):
        load_baselines(broken, "trn2")


def test_the_score_table_is_the_challenges() -> None:
    base = PromptBaseline(0, 100.0, 10.0)
    row = score_row(Measurement(50.0, 20.0, 1.0, 0.5), base, "2026-05-01 10:00:00", "team", "me")
    assert tuple(row) == SCORE_COLUMNS
    header, line = score_table([row]).splitlines()
    assert header == (
        "team_id,member_id,base_latency,base_throughput,accuracy,latency,throughput,"
        "nki_flop_ratio,increased_throughput,reduced_latency,final_score,timestamp"
    )
    assert line == "team,me,100.0,10.0,1.0,50.0,20.0,0.5,2.0,2.0,6.0,2026-05-01 10:00:00"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("trn2",), "qwen3-30b-a3b-trn2_score_records.csv"),
        (("trn3", "team7"), "team7_qwen3-30b-a3b-trn3_score_records.csv"),
        (("trn2", None, "mine"), "qwen3-30b-a3b-trn2_mine_score_records.csv"),
    ],
)
def test_the_score_tables_name_is_the_challenges(arguments: tuple[str, ...], name: str) -> None:
    assert score_file_name(*arguments) == name
