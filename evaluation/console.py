"""What main.py shows: progress on stderr while something long runs, tables on stdout."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any, TextIO

from evaluation.accuracy import AccuracyReport
from evaluation.prompts import Prompt

LOG_INTERVAL_S = 0.5
STEP_INTERVAL_S = 2.0
"""Least times between two lines in a log, and before a line that only counts steps."""


class Progress:
    """Tells on `stream` what is running: the parts it is in, and the steps done of how many.

    On a terminal one line is rewritten in place. Elsewhere (a log) each message is a line of its
    own, and is left out when the one before is younger than half a second. Steps are told when
    nothing was told for two seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._clock = clock
        self._parts: list[str] = []
        self._now = ""
        self._shown_at_s = -math.inf
        self._line_open = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Put a name, for instance "prompt 2 of 5", before whatever is told inside."""
        self._parts.append(name)
        self._now = ""
        try:
            yield
        finally:
            self._parts.pop()
            self._now = ""

    def __call__(self, line: str) -> None:
        """Tell what starts now."""
        self._now = line
        if self._stream.isatty() or self._idle_s() >= LOG_INTERVAL_S:
            self._show([line])

    def step(self, what: str, done: int, total: int) -> None:
        """Tell that `done` of `total` steps of what started last are done."""
        if self._idle_s() >= STEP_INTERVAL_S:
            self._show([self._now, f"{what} {done}/{total}"])

    def clear(self) -> None:
        """Take the line off the terminal, so that something else can be printed there."""
        if self._line_open:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._line_open = False

    def _idle_s(self) -> float:
        return self._clock() - self._shown_at_s

    def _show(self, told: Sequence[str]) -> None:
        self._shown_at_s = self._clock()
        if self._quiet:
            return
        text = ", ".join(word for word in (*self._parts, *told) if word)
        self._line_open = self._stream.isatty()
        self._stream.write(f"\r\x1b[K{text}" if self._line_open else f"{text}\n")
        self._stream.flush()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text: the first column to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    shown = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([shown[0], "  ".join("-" * width for width in widths), *shown[1:]])


def accuracy_table(prompts: Sequence[Prompt], reports: Sequence[AccuracyReport]) -> str:
    """Return the accuracy of each prompt: worst errors as shares of their tolerances, and gaps.

    A share above 100 % fails; gaps and errors are in logits.
    """
    keys = [result.top_k for result in reports[0].top_k]
    header = [
        "prompt", "tokens equal", *(f"top-{key}" for key in keys), "largest gap",
        "logit error", "own margin", "result",
    ]  # fmt: skip
    rows = [_accuracy_row(*pair) for pair in zip(prompts, reports, strict=True)]
    tolerance = reports[0].divergence_tolerance
    return (
        table(header, rows)
        + "\ntop-k: worst error among the k likeliest tokens, as a share of its tolerance; "
        + f"largest gap: between\ndiffering choices, may reach {tolerance:g}; own margin: the "
        + "baseline's smallest gap between its two likeliest tokens"
    )


def _accuracy_row(prompt: Prompt, report: AccuracyReport) -> list[str]:
    gaps = [divergence.gap for divergence in report.divergences]
    return [
        f"{prompt.id} {prompt.name}",
        f"{report.tokens_equal}/{report.tokens_checked}",
        *(_share(result.fraction_of_tolerance) for result in report.top_k),
        f"{max(gaps):.2g}" if gaps else "none",
        f"{report.max_abs_logit_error:.2g}",
        f"{report.smallest_baseline_gap:.2g}",
        "PASS" if report.passed else "FAIL",
    ]


def evaluation_table(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Return tokens, accuracy margin and host times of each evaluated prompt."""
    header = [
        "prompt", "variant", "tokens in", "out", "host time", "prefill", "decode step",
        "tolerance used", "accuracy",
    ]  # fmt: skip
    return table(header, [_evaluation_row(evaluation) for evaluation in evaluations])


def _evaluation_row(evaluation: Mapping[str, Any]) -> list[str]:
    prompt, times = evaluation["prompt"], evaluation["host_time"]
    steps_s = [step_s for run in times["token_generation_s"] for step_s in run]
    accuracy = evaluation.get("accuracy")
    used = max(e["fraction_of_tolerance"] for e in accuracy["top_k"]) if accuracy else None
    return [
        f"{prompt['id']} {prompt['name']}",
        evaluation["variant"],
        str(prompt["input_tokens"]),
        str(prompt["output_tokens"]),
        _milliseconds(times["end_to_end_s"]),
        _milliseconds(times["context_encoding_s"]),
        _milliseconds(steps_s),
        "-" if used is None else _share(used),
        "reference" if accuracy is None else "PASS" if accuracy["passed"] else "FAIL",
    ]


def _milliseconds(samples_s: Sequence[float]) -> str:
    """Return the mean of times."""
    return f"{1000 * fmean(samples_s):.1f} ms"


def _share(fraction: float) -> str:
    return f"{100 * fraction:.2g} %"
