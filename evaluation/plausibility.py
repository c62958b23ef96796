"""What a results file of other origin states that its figures cannot mean.

`evaluation.recomputation` compares figures with what they derive from. A file that keeps no samples
leaves little to derive from; these rules hold it against what is known of the challenge: its
prompts, which of them is long, and what a share of multiply-accumulates can come from. Our own
records (those with a schema_version) keep samples, and only the rules that they can break by
mistake apply to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from evaluation.problems import Problem, lookup, members, number, shown
from evaluation.recomputation import CHALLENGE_SEQUENCE_LENGTH, published_baselines
from evaluation.scoring import BASELINES_FILE, formula_of

_SIDES = ("baseline", "nki")


def implausible(record: Any) -> list[Problem]:
    """Return every statement of a record that cannot be, whatever its figures derive from."""
    return [problem for rule in RULES for problem in rule(record)]


def prompt_fits_the_sequence(record: Any) -> Iterator[Problem]:
    """A prompt leaves room for output in the sequence that the challenge's driver fills."""
    length = number(record, "test_configuration.sequence_length") or CHALLENGE_SEQUENCE_LENGTH
    for prompt in members(record, "per_prompt_results"):
        given = number(record, f"{prompt}.input_tokens")
        if given is not None and given >= length:
            rule = "a prompt leaves room for output in the sequence"
            yield Problem(
                f"{prompt}.input_tokens", rule, f"less than {shown(length)}", shown(given)
            )


def prompts_have_their_length(record: Any) -> Iterator[Problem]:
    """The organisers' prompts have as many tokens as the model's tokenizer counts."""
    if not _foreign(record):
        return
    lengths = _prompt_tokens()
    for prompt in members(record, "per_prompt_results"):
        prompt_id = number(record, f"{prompt}.prompt_id")
        given = number(record, f"{prompt}.input_tokens")
        if given is None or prompt_id is None or prompt_id not in range(len(lengths)):
            continue
        expected = lengths[int(prompt_id)]
        if given != expected:
            rule = "tokens of the organisers' prompt, by the model's tokenizer"
            yield Problem(f"{prompt}.input_tokens", rule, shown(expected), shown(given))


def fewest_steps_are_not_slowest(record: Any) -> Iterator[Problem]:
    """The slowest prompt is not the one with the fewest decode steps.

    The driver fills the sequence, so a longer prompt means fewer decode steps, which take most of
    the time: the published baselines show by a factor of four which prompt is quickest.
    """
    if number(record, "test_configuration.max_new_tokens") is not None:
        return  # as many steps for every prompt: the longest prompt may well take longest
    bases = published_baselines(record)
    for side in _SIDES:
        known: dict[int, tuple[float, str]] = {}
        for prompt in members(record, "per_prompt_results"):
            prompt_id = number(record, f"{prompt}.prompt_id")
            latency = number(record, f"{prompt}.{side}.latency_ms")
            if latency is not None and prompt_id in bases:
                known[int(prompt_id)] = (latency, prompt)
        if len(known) < 2:
            continue
        slowest = max(known, key=lambda prompt_id: known[prompt_id])
        quickest = min(known, key=lambda prompt_id: bases[prompt_id].latency_ms)
        if slowest == quickest:
            latency, prompt = known[slowest]
            rule = "the prompt with the fewest decode steps is not the slowest"
            published = bases[quickest].latency_ms
            expected = f"the quickest, as published ({shown(published)} ms)"
            yield Problem(f"{prompt}.{side}.latency_ms", rule, expected, f"slowest, {latency} ms")


def ratio_has_a_source(record: Any) -> Iterator[Problem]:
    """A share of MACs in NKI is that of one variant, and comes from matrix products."""
    ratio = number(record, "summary.nki_flops_ratio")
    if ratio is None or not _foreign(record):
        return
    path = "summary.nki_flops_ratio"
    prompts = members(record, "per_prompt_results")
    if prompts and all(lookup(record, f"{p}.baseline.nki_flops_ratio") is None for p in prompts):
        rule = "each variant has its own share of MACs in NKI"
        yield Problem(path, rule, "nki_flops_ratio of baseline and nki", f"{ratio} for both")
    kernels = members(record, "nki_kernels_implemented")
    if ratio > 0 and kernels and not any(number(record, f"{k}.cost.macs") for k in kernels):
        rule = "a share of MACs in NKI comes from kernels that hold matrix products"
        found = f"{ratio}, and no MACs stated for any of {len(kernels)} kernels"
        yield Problem(path, rule, "MACs counted by kernel", found)


RULES = (
    prompt_fits_the_sequence,
    prompts_have_their_length,
    fewest_steps_are_not_slowest,
    ratio_has_a_source,
)


def remarks(record: Any) -> Iterator[str]:
    """Yield what a reader of valid or invalid figures should know beside the problems."""
    total = number(record, "summary.baseline_total_score")
    ratio = number(record, "summary.nki_flops_ratio")
    formula = formula_of(lookup(record, "scoring_formula"))
    sides = [f"{p}.baseline.nki_flops_ratio" for p in members(record, "per_prompt_results")]
    if total is None or formula is None or not sides:
        return
    own = [number(record, side) for side in sides]
    parity = sum(formula.constant + ((ratio or 0.0) if r is None else r) for r in own)
    if parity > 0 and abs(total / parity - 1) > 0.02:
        percent = 100 * (total / parity - 1)
        yield (
            f"the baseline scores {total:.4g}, {percent:+.0f} % from the {parity:.4g} of a host as "
            "fast as the organisers': an improvement is to be read against the own baseline"
        )


def _foreign(record: Any) -> bool:
    return lookup(record, "schema_version") is None


@cache
def _prompt_tokens() -> tuple[int, ...]:
    content = yaml.safe_load(BASELINES_FILE.read_text(encoding="utf-8"))
    return tuple(int(count) for count in content["prompt_tokens"])
