"""Scores of a device's evaluations, and the challenge's table of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.benchmark import summarise_ms, throughput_tok_s
from evaluation.files import write_atomically
from evaluation.scoring import (
    SCORE_COLUMNS,
    Measurement,
    PromptBaseline,
    ScoringError,
    score_row,
    score_table,
)

Row = dict[str, Any]


def measurement(evaluation: Mapping[str, Any]) -> Measurement:
    """Return what the formula needs of an evaluation that ran on a device.

    The accuracy is the verdict of the rule, 1 or 0; the baseline is its own reference.
    """
    samples_s = evaluation["host_time"]["end_to_end_s"]
    settings = evaluation["settings"]
    accuracy = evaluation.get("accuracy")
    return Measurement(
        latency_ms=summarise_ms([1e3 * second for second in samples_s]).p99_ms,
        throughput_tok_s=throughput_tok_s(samples_s, settings["sequence_length"]),
        accuracy=1.0 if accuracy is None else float(accuracy["passed"]),
        nki_flops_ratio=evaluation["mac_ratio"]["challenge_ratio"],
    )


def rows(
    evaluations: Sequence[Mapping[str, Any]],
    bases: Sequence[PromptBaseline],
    team_id: str | None,
    member_id: str | None,
) -> list[Row]:
    """Return one row of the challenge's table per evaluation, dated by it."""
    return [
        score_row(
            measurement(evaluation),
            base,
            evaluation["evaluated_at"].replace("T", " ").rstrip("Z"),
            team_id,
            member_id,
        )
        for evaluation, base in zip(evaluations, bases, strict=True)
    ]


def append(path: Path, new_rows: Sequence[Row]) -> None:
    """Add rows to the challenge's CSV at `path`, which may not exist yet.

    ScoringError, with the file untouched, if it holds other columns.
    """
    before: list[Row] = []
    if path.exists():
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        if tuple(reader.fieldnames or ()) != SCORE_COLUMNS:
            raise ScoringError(
                f"{path} is not the challenge's score table: its columns are "
                f"{', '.join(reader.fieldnames or ('none',))}; move it away"
            )
        before = list(reader)
    write_atomically(path, score_table([*before, *new_rows]))
