"""What is told after an evaluation: what its figures are, scores, and where they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import scores
from evaluation.commandline import Options
from evaluation.console import table
from evaluation.flags import EVALUATE_SINGLE
from evaluation.prompts import Prompt
from evaluation.scoring import (
    BASELINES_FILE,
    PromptBaseline,
    ScoringError,
    load_baselines,
    score_file_name,
    total_score,
)

Evaluation = Mapping[str, Any]


def simulator_notes(
    options: Options, prompts: Sequence[Prompt], evaluations: Sequence[Evaluation]
) -> Iterator[str]:
    """Say what the figures are, what they are not, and where they were written."""
    yield f"Times are means of {options.timed_runs} runs: {evaluations[0]['host_time']['what']}."
    yield (
        "No score: it is made of latencies of a device, and this backend has none. "
        + _score_baseline(options, prompts)
    )
    yield from _fallback_notes(evaluations)
    yield from _where(options)


def device_notes(
    options: Options, prompts: Sequence[Prompt], evaluations: Sequence[Evaluation]
) -> Iterator[str]:
    """Tell the scores and both NKI ratios of a device run, and write the challenge's table."""
    yield f"Times are of {options.timed_runs} runs: {evaluations[0]['host_time']['what']}."
    yield _ratios(evaluations)
    if uncounted := sum(evaluation["mac_ratio"]["uncounted_calls"] for evaluation in evaluations):
        yield (
            f"{uncounted} launches were of kernels that state no mac_count: they count as 0 above, "
            "as in the challenge's driver, so that the shares are too small"
        )
    yield from _fallback_notes(evaluations)
    try:
        scored = scores.rows(
            evaluations, _bases(options, prompts), options.team_id, options.member_id
        )
    except ScoringError as error:
        yield f"No score: {error}."
    else:
        yield _scores(evaluations, scored)
        table_file = score_file(options)
        scores.append(table_file, scored)
        yield f"The challenge's score table is {table_file}"
    yield from _where(options)


def score_file(options: Options) -> Path:
    """Return where the challenge's table goes: beside the evaluations, else into this folder."""
    module = "qwen_with_nki" if options.enable_nki else "qwen"
    name = score_file_name(options.platform_target, options.team_id, module)
    if options.output is None:
        return Path(name)
    single = options.mode == EVALUATE_SINGLE
    return (options.output.parent if single else options.output / options.variant) / name


def _bases(options: Options, prompts: Sequence[Prompt]) -> list[PromptBaseline]:
    """Return what each prompt's score divides by; ScoringError where nothing is published."""
    if options.base_latency is not None and options.base_throughput is not None:
        given = (options.base_latency, options.base_throughput)
        return [PromptBaseline(prompt.id, *given) for prompt in prompts]
    if options.prompts:
        raise ScoringError(
            "no baseline is published for this prompt (--base-latency, --base-throughput)"
        )
    published = load_baselines(BASELINES_FILE, options.platform_target)
    return [published.for_prompt(prompt.id) for prompt in prompts]


def _ratios(evaluations: Sequence[Evaluation]) -> str:
    header = ["NKI share of MACs", "challenge", "executed", "useful, at least", "at most"]
    names = (
        "challenge_ratio", "executed_ratio", "useful_ratio_at_least", "useful_ratio_at_most",
    )  # fmt: skip
    shares = [[_named(e), *(f"{e['mac_ratio'][name]:.4f}" for name in names)] for e in evaluations]
    return (
        table(header, shares)
        + "\nchallenge: shortest bucket of both graphs, each once; executed: every execution of "
        + "the run;\nuseful: of what the architecture demands, without padding"
    )


def _scores(evaluations: Sequence[Evaluation], scored: Sequence[scores.Row]) -> str:
    header = ["score", "latency p99", "throughput", "accuracy", "score"]
    rows = [
        [
            _named(evaluation),
            f"{row['latency']:.1f} ms",
            f"{row['throughput']:.2f} tok/s",
            f"{row['accuracy']:g}",
            f"{row['final_score']:.3f}",
        ]
        for evaluation, row in zip(evaluations, scored, strict=True)
    ]
    total = total_score([row["final_score"] for row in scored])
    return f"{table(header, rows)}\ntotal score: {total:.3f}"


def _named(evaluation: Evaluation) -> str:
    return f"{evaluation['prompt']['id']} {evaluation['prompt']['name']}"


def _fallback_notes(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """Yield each fallback of the evaluations once."""
    found = [entry for evaluation in evaluations for entry in evaluation.get("fallbacks", [])]
    yield from dict.fromkeys(fallback_note(entry["kernel"], entry["reason"]) for entry in found)


def fallback_note(kernel: str, reason: str) -> str:
    """Return what is told of a kernel that did not run."""
    return f"No kernel ran for {kernel}, but plain torch: {reason}"


def _where(options: Options) -> Iterator[str]:
    if options.team_id or options.member_id:
        who = [f"team {options.team_id}"] if options.team_id else []
        who += [f"member {options.member_id}"] if options.member_id else []
        yield f"Run for {', '.join(who)}."
    if options.output is not None:
        yield f"Written to {options.output}"


def _score_baseline(options: Options, prompts: Sequence[Prompt]) -> str:
    """Say which latency and throughput a score would divide by."""
    if options.base_latency is not None:
        return (
            f"It would divide by {options.base_latency:g} ms and {options.base_throughput:g} tok/s "
            "(from the command line)."
        )
    if options.prompts:
        return "No baseline is published for this prompt (--base-latency, --base-throughput)."
    try:
        published = load_baselines(BASELINES_FILE, options.platform_target)
        figures = [published.for_prompt(prompt.id) for prompt in prompts]
    except ScoringError as error:
        return f"{error}."
    first = figures[0]
    what = (
        f"{first.latency_ms:g} ms and {first.throughput_tok_s:g} tok/s"
        if len(figures) == 1
        else f"figures of prompts {first.prompt_id} to {figures[-1].prompt_id}"
    )
    return f"It would divide by the published {what} ({published.source}, {published.date})."
