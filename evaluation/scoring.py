"""The challenge's score: formula versions, published baselines, rows of its score table.

score = accuracy x (base latency / latency) x (throughput / base throughput) x f(r), where latency
is the 99th percentile of the timed runs in milliseconds and r the share of multiply-accumulates in
NKI kernels. Since throughput is the sequence length over the mean latency, the score counts one
measurement twice.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SCORE_COLUMNS = (
    "team_id",
    "member_id",
    "base_latency",
    "base_throughput",
    "accuracy",
    "latency",
    "throughput",
    "nki_flop_ratio",
    "increased_throughput",
    "reduced_latency",
    "final_score",
    "timestamp",
)
"""Columns of the challenge's score table, in its order and with its names."""

BASELINES_FILE = Path(__file__).resolve().parent.parent / "config" / "baselines.yaml"
"""The organisers' figures, with their sources."""

_MODEL_NAME = "qwen3-30b-a3b"


class ScoringError(ValueError):
    """Figures from which no score can be computed, or baselines that cannot be read."""


@dataclass(frozen=True)
class Formula:
    """One version of the challenge's formula: f(r) = constant + r, in force from `since`."""

    since: str
    commit: str
    constant: float

    @property
    def text(self) -> str:
        """The equation as the submission's results file writes it."""
        factor = "(1 + NKI_FLOPS_Ratio)" if self.constant else "NKI_FLOPS_Ratio"
        return (
            "Score = Accuracy x (Base_Latency/Your_Latency) x "
            f"(Your_Throughput/Base_Throughput) x {factor}"
        )


FORMULAS = (
    Formula("2026-01-08", "2264dfd", 1.0),
    Formula("2026-03-05", "c92219f", 0.0),
    Formula("2026-04-20", "669c355", 1.0),
)
"""All versions, oldest first, with the commit of aws-neuron/nki-moe that brought each in."""

CURRENT_FORMULA = FORMULAS[-1]


@dataclass(frozen=True)
class PromptBaseline:
    """The organisers' figures for one prompt."""

    prompt_id: int
    latency_ms: float
    throughput_tok_s: float


@dataclass(frozen=True)
class Baselines:
    """The organisers' published figures for one platform."""

    platform: str
    source: str
    date: str
    per_prompt: tuple[PromptBaseline, ...]

    def for_prompt(self, prompt_id: int) -> PromptBaseline:
        """Return the figures for a prompt; ScoringError if none are published for it."""
        for baseline in self.per_prompt:
            if baseline.prompt_id == prompt_id:
                return baseline
        raise ScoringError(f"no baseline is published for prompt {prompt_id} on {self.platform}")

    def to_record(self) -> dict[str, Any]:
        """Return what the results record says of them."""
        return {
            "basis": "published",
            "source": f"{self.source}, {self.date}",
            "platform": self.platform,
            "per_prompt": [vars(baseline).copy() for baseline in self.per_prompt],
        }


@dataclass(frozen=True)
class Measurement:
    """What the formula needs of one prompt; accuracy and the NKI ratio lie in [0, 1]."""

    latency_ms: float
    throughput_tok_s: float
    accuracy: float
    nki_flops_ratio: float


def formula_on(date: str) -> Formula:
    """Return the formula in force on a date (YYYY-MM-DD); ScoringError before the first one."""
    for formula in reversed(FORMULAS):
        if formula.since <= date:
            return formula
    raise ScoringError(f"no formula was published by {date}; the first is of {FORMULAS[0].since}")


def formula_of(text: Any) -> Formula | None:
    """Return the version that a text spells, whichever multiplication sign it uses, if any does."""
    if not isinstance(text, str):
        return None
    plain = text.replace("\N{MULTIPLICATION SIGN}", "x").replace("*", "x").replace(" ", "")
    return next((f for f in reversed(FORMULAS) if f.text.replace(" ", "") == plain), None)


def score(measured: Measurement, base: PromptBaseline, formula: Formula = CURRENT_FORMULA) -> float:
    """Return the score of one prompt; ScoringError for figures outside their range."""
    positive = {
        "latency_ms": measured.latency_ms,
        "throughput_tok_s": measured.throughput_tok_s,
        "base latency_ms": base.latency_ms,
        "base throughput_tok_s": base.throughput_tok_s,
    }
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise ScoringError(f"{name}: expected a positive number, received {value}")
    for name, value in (
        ("accuracy", measured.accuracy),
        ("nki_flops_ratio", measured.nki_flops_ratio),
    ):
        if not 0 <= value <= 1:
            raise ScoringError(f"{name}: expected a number from 0 to 1, received {value}")
    speed = (base.latency_ms / measured.latency_ms) * (
        measured.throughput_tok_s / base.throughput_tok_s
    )
    return measured.accuracy * speed * (formula.constant + measured.nki_flops_ratio)


def total_score(scores: Sequence[float]) -> float:
    """Return the challenge's total: the sum over the prompts."""
    return sum(scores)


def improvement_percent(baseline: float, candidate: float) -> float:
    """Return by how many percent `candidate` exceeds `baseline` (both scores, baseline > 0)."""
    if not baseline > 0:
        raise ScoringError(f"improvement over a baseline score of {baseline} is undefined")
    return 100.0 * (candidate / baseline - 1.0)


def load_baselines(path: Path | str, platform: str) -> Baselines:
    """Return the published baselines of a platform; ScoringError names what is wrong."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ScoringError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict) or platform not in content:
        known = ", ".join(content) if isinstance(content, dict) else "none"
        raise ScoringError(f"{path}: no baselines for the platform {platform!r}; known: {known}")
    try:
        entry = content[platform]
        per_prompt = tuple(
            PromptBaseline(
                prompt_id=int(row["prompt_id"]),
                latency_ms=float(row["latency_ms"]),
                throughput_tok_s=float(row["throughput_tok_s"]),
            )
            for row in entry["per_prompt"]
        )
        return Baselines(platform, str(entry["source"]), str(entry["date"]), per_prompt)
    except (KeyError, TypeError, ValueError) as error:
        raise ScoringError(f"{path}: {platform}: malformed entry: {error!r}") from error


def score_row(
    measured: Measurement,
    base: PromptBaseline,
    timestamp: str,
    team_id: str | None = None,
    member_id: str | None = None,
    formula: Formula = CURRENT_FORMULA,
) -> dict[str, Any]:
    """Return a row of the challenge's score table; `timestamp` as "YYYY-MM-DD HH:MM:SS"."""
    return {
        "team_id": team_id,
        "member_id": member_id,
        "base_latency": base.latency_ms,
        "base_throughput": base.throughput_tok_s,
        "accuracy": measured.accuracy,
        "latency": measured.latency_ms,
        "throughput": measured.throughput_tok_s,
        "nki_flop_ratio": measured.nki_flops_ratio,
        "increased_throughput": measured.throughput_tok_s / base.throughput_tok_s,
        "reduced_latency": base.latency_ms / measured.latency_ms,
        "final_score": score(measured, base, formula),
        "timestamp": timestamp,
    }


def score_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the challenge's CSV: header and rows with its columns in its order."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=SCORE_COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def score_file_name(platform: str, team_id: str | None = None, qwen_module: str = "qwen") -> str:
    """Return the challenge's name for the score table of a team, platform and model module."""
    team = f"{team_id}_" if team_id else ""
    module = f"_{qwen_module}" if qwen_module != "qwen" else ""
    return f"{team}{_MODEL_NAME}-{platform}{module}_score_records.csv"
