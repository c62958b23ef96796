"""Rules that recompute every derived figure of a record from the figures it derives from.

A rule is a function from a record of any shape to problems. What is missing or of a wrong type is
the schema's business: a rule passes over it, so that it also serves on files of other people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from decimal import Decimal
from typing import Any

from evaluation.benchmark import summarise_ms, throughput_tok_s
from evaluation.coverage import coverage, covered_by, useful_macs
from evaluation.files import FileError, sha256_json
from evaluation.modelled_checks import modelled_figures
from evaluation.problems import (
    Problem,
    expand,
    is_finite,
    is_number,
    lookup,
    members,
    number,
    numbers,
    shown,
    walk,
)
from evaluation.scoring import (
    BASELINES_FILE,
    CURRENT_FORMULA,
    Measurement,
    PromptBaseline,
    ScoringError,
    formula_of,
    improvement_percent,
    load_baselines,
    score,
    total_score,
)
from evaluation.shapes import Architecture

Rule = Callable[[Any], Iterator[Problem]]

CHALLENGE_SEQUENCE_LENGTH = 640
"""Tokens of prompt and output that the challenge's driver always fills."""

SUBMISSION_KEYS = (
    "neuron_sdk_version",
    "summary.baseline_total_score",
    "summary.nki_total_score",
    "summary.improvement_percent",
    "summary.nki_flops_ratio",
    "summary.accuracy",
    *(
        f"per_prompt_results[*].{side}.{figure}"
        for side in ("baseline", "nki")
        for figure in ("latency_ms", "throughput_tok_s", "score")
    ),
    "per_prompt_results[*].improvement_percent",
)
"""Figures of a submission's results file that a build may be unable to give."""

OWN_KEYS = ("modelled", "provenance.results")
"""What our own records hold beyond that, unless they are older than it."""

_DEVICE_FIGURES = ("latency", "latency_ms", "throughput_tok_s", "score", "nki_flops_ratio")
_SIDES = ("baseline", "nki")
_QUANTITY_ENDINGS = ("_s", "_ms", "_us", "_bytes", "_tok_s")


def recompute(record: Any) -> list[Problem]:
    """Return every disagreement between a record's figures, in the order of the rules."""
    return [problem for rule in RULES for problem in rule(record)]


def finite_and_not_negative(record: Any) -> Iterator[Problem]:
    """NaN and infinity are no figures; times, sizes and rates are not negative."""
    for path, value in walk(record):
        if not is_number(value):
            continue
        name = path.rsplit(".", 1)[-1].split("[")[0]
        if not is_finite(value):
            yield Problem(path, "figures are finite", "a finite number", shown(value))
        elif value < 0 and name.endswith(_QUANTITY_ENDINGS):
            yield Problem(path, "quantities are not negative", "a number >= 0", shown(value))


def each_prompt_once(record: Any) -> Iterator[Problem]:
    """Prompts are numbered from 0 without gaps, each once, and the summary counts them."""
    found_ids = [number(record, f"{prompt}.prompt_id") for prompt in _prompts(record)]
    ids = [prompt_id for prompt_id in found_ids if prompt_id is not None]
    for prompt_id, count in Counter(ids).items():
        if count > 1:
            found = f"prompt {shown(prompt_id)} {count} times"
            yield Problem("per_prompt_results", "each prompt occurs once", "one entry", found)
    for missing in sorted(set(range(len(set(ids)))) - set(ids)):
        found = ", ".join(shown(prompt_id) for prompt_id in ids)
        yield Problem("per_prompt_results", "no prompt is missing", f"prompt {missing}", found)
    if ids:
        yield from _equals(record, "summary.prompts_total", "prompts are counted", len(ids))
        per_prompt = members(record, "score_baselines.per_prompt")
        known = {number(record, f"{entry}.prompt_id") for entry in per_prompt}
        if known and _has_scores(record) and not set(ids) <= known:
            rule = "a score needs a published baseline"
            yield Problem("score_baselines.per_prompt", rule, f"prompts {ids}", shown(list(known)))


def host_time_statistics(record: Any) -> Iterator[Problem]:
    """Mean and percentiles of host times follow from their samples, one per timed run."""
    runs = number(record, "test_configuration.test_iterations")
    for side in _all_sides(record):
        for name in ("samples_ms", "context_encoding_samples_ms", "token_generation_samples_ms"):
            samples = numbers(record, f"{side}.host_time.{name}")
            if samples is None:
                continue
            path = f"{side}.host_time.{name.replace('samples_ms', 'mean_ms')}"
            yield from _equals(record, path, f"mean of {name}", summarise_ms(samples).mean_ms)
            if runs is not None and len(samples) != runs:
                rule = "one sample per timed run"
                yield Problem(f"{side}.host_time.{name}", rule, shown(runs), shown(len(samples)))
        samples = numbers(record, f"{side}.host_time.samples_ms")
        if samples is not None:
            statistics = summarise_ms(samples)
            for name in ("p50_ms", "p99_ms"):
                path, value = f"{side}.host_time.{name}", getattr(statistics, name)
                yield from _equals(record, path, "percentile of samples_ms", value)
        p50, p99 = (number(record, f"{side}.host_time.{name}") for name in ("p50_ms", "p99_ms"))
        if p50 is not None and p99 is not None and p50 > p99:
            yield Problem(f"{side}.host_time.p99_ms", "p50 <= p99", f">= {p50}", shown(p99))


def device_figures_have_a_basis(record: Any) -> Iterator[Problem]:
    """A latency says whether it was measured or modelled and keeps its samples; no device, none."""
    for side in _all_sides(record):
        basis = lookup(record, f"{side}.latency.basis")
        has_latency = number(record, f"{side}.latency_ms") is not None
        if has_latency and basis not in ("measured", "modelled"):
            expected = "latency.basis, measured or modelled, and latency.samples_ms"
            found = shown(lookup(record, f"{side}.latency"))
            yield Problem(f"{side}.latency_ms", "a figure has a basis", expected, found)
        if lookup(record, "backend") != "simulator":
            continue
        for figure in _DEVICE_FIGURES:
            value = lookup(record, f"{side}.{figure}")
            if value is not None:
                rule = "a simulator's host time is no device figure"
                yield Problem(f"{side}.{figure}", rule, "no such key", shown(value))


def latency_and_throughput_agree(record: Any) -> Iterator[Problem]:
    """Latency is the p99 of its samples; throughput x mean latency = sequence length x batch."""
    length = number(record, "test_configuration.sequence_length") or CHALLENGE_SEQUENCE_LENGTH
    batch = number(record, "test_configuration.batch_size") or 1
    runs = number(record, "test_configuration.test_iterations")
    for side in _all_sides(record):
        samples = numbers(record, f"{side}.latency.samples_ms")
        latency = number(record, f"{side}.latency_ms")
        throughput = number(record, f"{side}.throughput_tok_s")
        if samples is not None and runs is not None and len(samples) != runs:
            rule, found = "one sample per timed run", shown(len(samples))
            yield Problem(f"{side}.latency.samples_ms", rule, shown(runs), found)
        if samples is not None and min(samples) > 0:
            p99 = summarise_ms(samples).p99_ms
            yield from _equals(record, f"{side}.latency_ms", "p99 of latency.samples_ms", p99)
            rate = throughput_tok_s([ms / 1e3 for ms in samples], int(length), int(batch))
            rule = "throughput x mean latency = sequence length x batch size"
            yield from _equals(record, f"{side}.throughput_tok_s", rule, rate)
        elif latency is not None and throughput is not None:
            # Without samples the mean is unknown, but in steady runs p99 lies just above it.
            tokens, product = length * batch, latency / 1e3 * throughput
            if not tokens * 0.999 <= product <= tokens * 1.1:
                rule = "throughput x p99 latency = sequence length x batch size, or up to 10 % more"
                found = f"{throughput} x {latency} ms = {product:.0f}"
                yield Problem(
                    f"{side}.throughput_tok_s", rule, f"{tokens:.0f} to {1.1 * tokens:.0f}", found
                )


def figures_told_twice_agree(record: Any) -> Iterator[Problem]:
    """A device's latency is the host's time of its runs; the ratio is the counted one."""
    for side in _all_sides(record):
        timed = numbers(record, f"{side}.host_time.samples_ms")
        samples = numbers(record, f"{side}.latency.samples_ms")
        if timed is not None and samples is not None and timed != samples:
            path, rule = f"{side}.latency.samples_ms", "host_time.samples_ms of the same runs"
            yield Problem(path, rule, shown(timed), shown(samples))
        counted = number(record, f"{side}.mac_ratio.challenge_ratio")
        if counted is not None:
            path, rule = f"{side}.nki_flops_ratio", "mac_ratio.challenge_ratio"
            yield from _equals(record, path, rule, counted)
    ratios = {number(record, f"{prompt}.nki.nki_flops_ratio") for prompt in _prompts(record)}
    if len(ratios) == 1 and None not in ratios:
        rule = "nki_flops_ratio of every prompt"
        yield from _equals(record, "summary.nki_flops_ratio", rule, float(ratios.pop() or 0.0))


def token_counts(record: Any) -> Iterator[Problem]:
    """Prompt and output fit the sequence; as many tokens are generated and checked as asked."""
    length = number(record, "test_configuration.sequence_length")
    for prompt in _prompts(record):
        given = number(record, f"{prompt}.input_tokens")
        made = number(record, f"{prompt}.output_tokens")
        if given is not None and made is not None:
            if length is None and given + made != CHALLENGE_SEQUENCE_LENGTH:
                rule = "the challenge's driver generates until prompt and output fill the sequence"
                expected, found = f"{CHALLENGE_SEQUENCE_LENGTH} tokens", f"{given} + {made}"
                yield Problem(f"{prompt}.output_tokens", rule, expected, found)
            if length is not None and given + made > length:
                rule, found = "prompt and output fit the sequence", f"{given} + {made}"
                yield Problem(f"{prompt}.output_tokens", rule, f"at most {length}", found)
        asked = number(record, "test_configuration.max_new_tokens")
        if asked is None and length is not None and given is not None:
            asked = length - given  # the output fills the sequence
        if asked is not None:
            path = f"{prompt}.output_tokens"
            yield from _equals(record, path, "as many tokens as asked", asked)
        if made is not None:
            path = f"{prompt}.nki.accuracy.tokens_checked"
            yield from _equals(record, path, "every generated token is checked", made)


def accuracy_adds_up(record: Any) -> Iterator[Problem]:
    """A prompt passes when every set and every divergence does, and its margins are quotients."""
    for prompt in _prompts(record):
        accuracy = f"{prompt}.nki.accuracy"
        verdicts = []
        for entry in members(record, f"{accuracy}.top_k"):
            worst = number(record, f"{entry}.worst_relative_error")
            allowed = number(record, f"{entry}.allowed_relative_error")
            least = number(record, f"{entry}.relative_tolerance")
            if allowed is not None and least is not None and allowed < least:
                path, rule = f"{entry}.allowed_relative_error", "it contains relative_tolerance"
                yield Problem(path, rule, f">= {least}", shown(allowed))
            if worst is not None and allowed:
                path = f"{entry}.fraction_of_tolerance"
                yield from _equals(record, path, "worst error / allowed error", worst / allowed)
                yield from _states(
                    record, f"{entry}.passed", "worst <= tolerance", worst <= allowed
                )
                verdicts.append(worst <= allowed)
        allowed = number(record, f"{accuracy}.divergence_tolerance")
        divergences = members(record, f"{accuracy}.divergences")
        for entry in divergences:
            gap = number(record, f"{entry}.gap")
            if gap is not None and allowed is not None:
                path = f"{entry}.within_tolerance"
                yield from _states(record, path, "gap < tolerance", gap < allowed)
                verdicts.append(gap < allowed)
        if verdicts:
            yield from _states(record, f"{accuracy}.passed", "all parts pass", all(verdicts))
        checked = number(record, f"{accuracy}.tokens_checked")
        if checked is not None and isinstance(lookup(record, f"{accuracy}.divergences"), list):
            rule, equal = "tokens checked - divergences", checked - len(divergences)
            yield from _equals(record, f"{accuracy}.tokens_equal", rule, equal)


def accuracy_totals(record: Any) -> Iterator[Problem]:
    """The summary's accuracy figures are sums over the prompts, which were all checked."""
    prompts = _prompts(record)
    verdicts = [lookup(record, f"{prompt}.nki.accuracy.passed") for prompt in prompts]
    if number(record, "summary.accuracy") is not None and None in verdicts:
        rule, expected = "accuracy is measured", "nki.accuracy with its basis for each prompt"
        found = f"{verdicts.count(None)} of {len(verdicts)} prompts without"
        yield Problem("summary.accuracy", rule, expected, found)
    if verdicts and all(isinstance(verdict, bool) for verdict in verdicts):
        passed = verdicts.count(True)
        yield from _equals(record, "summary.prompts_passed", "prompts that pass", passed)
        share = passed / len(verdicts)
        yield from _equals(record, "summary.accuracy", "share of prompts that pass", share)
    for name in ("tokens_checked", "tokens_equal"):
        counts = [number(record, f"{prompt}.nki.accuracy.{name}") for prompt in prompts]
        known = [count for count in counts if count is not None]
        if counts and len(known) == len(counts):
            yield from _equals(record, f"summary.{name}", "sum over the prompts", sum(known))


def scores_follow_the_formula(record: Any) -> Iterator[Problem]:
    """Score = accuracy x base/latency x throughput/base x f(NKI ratio), per prompt and variant."""
    formula = formula_of(lookup(record, "scoring_formula"))
    if formula is None:
        found = shown(lookup(record, "scoring_formula"))
        if lookup(record, "scoring_formula") is not None:
            expected = f"as in {CURRENT_FORMULA.text!r}"
            yield Problem("scoring_formula", "one of the challenge's formulas", expected, found)
        return
    bases = _bases(record)
    for prompt in _prompts(record):
        base = bases.get(number(record, f"{prompt}.prompt_id"))
        for side in _SIDES:
            measured = _measurement(record, prompt, side)
            if base is None or measured is None:
                continue
            path = f"{prompt}.{side}.score"
            try:
                value = score(measured, base, formula)
            except ScoringError as error:
                yield Problem(path, "figures that enter a score", "within their range", str(error))
                continue
            rule = f"{formula.text} with the published baseline"
            yield from _equals(record, path, rule, value)


def score_totals(record: Any) -> Iterator[Problem]:
    """Totals are sums of the prompts' scores; improvements are quotients of scores."""
    improvements = [(f"{p}.improvement_percent", f"{p}.{{}}.score") for p in _prompts(record)]
    improvements.append(("summary.improvement_percent", "summary.{}_total_score"))
    for side in _SIDES:
        scores = [number(record, f"{prompt}.{side}.score") for prompt in _prompts(record)]
        known = [value for value in scores if value is not None]
        if scores and len(known) == len(scores):
            path = f"summary.{side}_total_score"
            yield from _equals(record, path, "sum of the prompts' scores", total_score(known))
    for path, source in improvements:
        base, nki = (number(record, source.format(side)) for side in _SIDES)
        if base and nki is not None and base > 0:
            rule = "100 x (nki score / baseline score - 1)"
            yield from _equals(record, path, rule, improvement_percent(base, nki))


def kernels_were_launched(record: Any) -> Iterator[Problem]:
    """A kernel counts as used when it was launched as often as the architecture demands.

    On a device one of the kernel paths is compiled; a simulator runs them all.
    """
    names = [lookup(record, f"{k}.kernel") for k in members(record, "nki_kernels_implemented")]
    on_device = lookup(record, "backend") == "neuron"
    for name, count in Counter(map(shown, names)).items():
        if count > 1 and name != shown(None):
            rule = "each kernel occurs once"
            yield Problem("nki_kernels_implemented", rule, "one entry", f"{name} {count} times")
    for kernel in members(record, "nki_kernels_implemented"):
        if lookup(record, f"{kernel}.launches") is None:
            rule = "a kernel counts as used when its launches were counted"
            found = shown(lookup(record, f"{kernel}.name"))
            yield Problem(f"{kernel}.launches", rule, "launches", f"none for {found}")
        for phase in ("prefill", "decode_step"):
            path = f"{kernel}.launches.{phase}"
            expected = number(record, f"{path}_expected")
            if expected is not None:
                yield from _equals(record, path, "as the architecture demands", expected)
        counts = [
            number(record, f"{kernel}.launches.{phase}") for phase in ("prefill", "decode_step")
        ]
        if None not in counts and not any(counts) and not on_device:
            rule, found = "every kernel is launched", "0 in both phases"
            yield Problem(f"{kernel}.launches", rule, "at least 1", found)
        error = number(record, f"{kernel}.validation.float32.max_abs_error")
        if error is not None:
            path = f"{kernel}.validation_max_diff"
            yield from _equals(record, path, "validation.float32.max_abs_error", error)


def coverage_follows_from_counts(record: Any) -> Iterator[Problem]:
    """Useful MACs follow from the architecture, shares from them and from what was counted."""
    place = "test_configuration.architecture"
    dimensions = {f.name: _positive(record, f"{place}.{f.name}") for f in fields(Architecture)}
    if not all(dimensions.values()):
        return
    architecture = Architecture(**dimensions)
    runs = [*(f"{prompt}.nki" for prompt in _prompts(record)), *members(record, "path_checks")]
    for run in runs:
        prompt_tokens = _positive(record, f"{run}.coverage.prefill.tokens")
        for phase in ("prefill", "decode_step"):
            path = f"{run}.coverage.{phase}"
            tokens, padded = (_positive(record, f"{path}.{n}") for n in ("tokens", "padded_tokens"))
            kernels = lookup(record, f"{path}.counted_macs")
            names = list(kernels) if isinstance(kernels, dict) else []
            counted = {name: _positive(record, f"{path}.counted_macs.{name}") for name in names}
            if not (tokens and padded and prompt_tokens and all(counted.values())):
                continue
            seen = 0 if phase == "prefill" else prompt_tokens
            useful = useful_macs(architecture, tokens, seen)
            for operation, macs in useful.items():
                rule = "MACs that the architecture demands"
                yield from _equals(record, f"{path}.useful_macs.{operation}", rule, macs)
            for kernel, macs in counted.items():
                least = sum(useful[operation] for operation in covered_by(kernel))
                if macs < least:
                    rule = "a kernel issues what it stands for"
                    where = f"{path}.counted_macs.{kernel}"
                    yield Problem(where, rule, f"at least {least}", shown(macs))
            derived = coverage(useful, counted, tokens, padded)
            for name in ("useful_share", "useful_share_of_layers", "issued_share", "overhead"):
                if derived[name] is not None:
                    rule = "follows from the MACs"
                    yield from _equals(record, f"{path}.{name}", rule, derived[name])


def absent_is_absent(record: Any) -> Iterator[Problem]:
    """What is listed as absent has no value, and what has none is listed."""
    listed = []
    for entry in members(record, "absent"):
        key = lookup(record, f"{entry}.key")
        if not isinstance(key, str):
            continue
        if key in listed:
            yield Problem(f"{entry}.key", "each absent key is listed once", "one entry", key)
        listed.append(key)
        for path in expand(record, key):
            value = lookup(record, path)
            if value is not None:
                yield Problem(path, "listed as absent", "no value", shown(value))
    ours = lookup(record, "schema_version") is not None
    for pattern in (*SUBMISSION_KEYS, *(OWN_KEYS if ours else ())):
        for path in expand(record, pattern):
            if lookup(record, path) is None and not {pattern, path} & set(listed):
                rule, expected = "absent figures are listed", f"a value, or {pattern} in absent"
                yield Problem(path, rule, expected, "neither")


def configuration_agrees(record: Any) -> Iterator[Problem]:
    """The configuration has the hash stated, and what was run is what it asks for."""
    config = lookup(record, "provenance.config")
    stated = lookup(record, "provenance.config_sha256")
    if isinstance(config, dict) and isinstance(stated, str):
        try:
            sha256 = sha256_json(config)
        except FileError as error:
            sha256 = str(error)
        if sha256 != stated:
            path, rule = "provenance.config_sha256", "hash of provenance.config"
            yield Problem(path, rule, sha256, stated)
    for name, source in (
        ("backend", "backend"),
        ("platform_target", "platform_target"),
        ("team", "team"),
        ("test_configuration.sequence_length", "evaluation.sequence_length"),
        ("test_configuration.max_new_tokens", "evaluation.max_new_tokens"),
        ("test_configuration.warmup_iterations", "evaluation.warmup_runs"),
        ("test_configuration.test_iterations", "evaluation.timed_runs"),
        ("test_configuration.dtype", "model.dtype"),
        ("test_configuration.kernel_path", "model.kernel_path"),
        ("score_baselines.platform", "platform_target"),
    ):
        asked, ran = lookup(config, source), lookup(record, name)
        if asked is not None and ran is not None and asked != ran:
            rule = f"as provenance.config.{source} asks"
            yield Problem(name, rule, shown(asked), shown(ran))


RULES: tuple[Rule, ...] = (
    finite_and_not_negative,
    each_prompt_once,
    token_counts,
    host_time_statistics,
    device_figures_have_a_basis,
    latency_and_throughput_agree,
    figures_told_twice_agree,
    accuracy_adds_up,
    accuracy_totals,
    scores_follow_the_formula,
    score_totals,
    kernels_were_launched,
    coverage_follows_from_counts,
    absent_is_absent,
    configuration_agrees,
    modelled_figures,
)


def _prompts(record: Any) -> list[str]:
    return members(record, "per_prompt_results")


def _all_sides(record: Any) -> list[str]:
    return [f"{prompt}.{side}" for prompt in _prompts(record) for side in _SIDES]


def _has_scores(record: Any) -> bool:
    return any(number(record, f"{side}.score") is not None for side in _all_sides(record))


def _positive(record: Any, path: str) -> int:
    """Return the positive whole number at `path`, or 0 for whatever else is there."""
    value = number(record, path)
    return int(value) if value is not None and value >= 1 and value == int(value) else 0


def _equals(record: Any, path: str, rule: str, computed: float) -> Iterator[Problem]:
    """Yield a problem unless the number at `path`, if there is one, is the computed one."""
    stated = number(record, path)
    if stated is not None and abs(stated - computed) > _slack(record, stated, computed):
        yield Problem(path, rule, shown(computed), shown(stated))


def _slack(record: Any, stated: float, computed: float) -> float:
    """Return how far a stated figure may lie from the computed one.

    Our own records hold full precision. Files without a schema_version round their figures, so
    there half a unit of the last digit shown is granted as well.
    """
    slack = 1e-9 * max(abs(stated), abs(computed))
    if lookup(record, "schema_version") is None:
        exponent = Decimal(repr(stated)).as_tuple().exponent
        slack += 0.5 * 10.0 ** int(exponent)
    return slack


def _states(record: Any, path: str, rule: str, computed: bool) -> Iterator[Problem]:
    stated = lookup(record, path)
    if isinstance(stated, bool) and stated != computed:
        yield Problem(path, rule, shown(computed), shown(stated))


def _bases(record: Any) -> dict[float | None, PromptBaseline]:
    """Return the baselines by prompt: the record's own, else those published for its platform."""
    found: dict[float | None, PromptBaseline] = {}
    for entry in members(record, "score_baselines.per_prompt"):
        prompt = number(record, f"{entry}.prompt_id")
        latency = number(record, f"{entry}.latency_ms")
        throughput = number(record, f"{entry}.throughput_tok_s")
        if prompt is not None and latency and throughput:
            found[prompt] = PromptBaseline(int(prompt), latency, throughput)
    if found or lookup(record, "score_baselines") is not None:
        return found
    return {base.prompt_id: base for base in published_baselines(record).values()}


def published_baselines(record: Any) -> dict[int, PromptBaseline]:
    """Return the organisers' baselines, by prompt, for the platform that `hardware` names."""
    hardware = shown(lookup(record, "hardware")).lower()
    platform = "trn3" if "trn3" in hardware or "trainium3" in hardware else "trn2"
    published = load_baselines(BASELINES_FILE, platform)
    return {baseline.prompt_id: baseline for baseline in published.per_prompt}


def _measurement(record: Any, prompt: str, side: str) -> Measurement | None:
    """Return what enters a score; the baseline is accurate by definition."""
    latency = number(record, f"{prompt}.{side}.latency_ms")
    throughput = number(record, f"{prompt}.{side}.throughput_tok_s")
    ratio = number(record, f"{prompt}.{side}.nki_flops_ratio")
    if ratio is None:
        ratio = number(record, "summary.nki_flops_ratio")
    accuracy: float | None = 1.0
    if side == "nki":
        passed = lookup(record, f"{prompt}.nki.accuracy.passed")
        accuracy = float(passed) if isinstance(passed, bool) else number(record, "summary.accuracy")
    if latency is None or throughput is None or ratio is None or accuracy is None:
        return None
    return Measurement(latency, throughput, accuracy, ratio)
