"""Rules for the record's modelled times: ranges are ordered, terms add up, figures follow."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from evaluation.problems import Problem, is_finite, is_number, lookup, members, shown, walk
from evaluation.problems import number as any_number
from evaluation.scoring import (
    BASELINES_FILE,
    Baselines,
    Measurement,
    PromptBaseline,
    ScoringError,
    load_baselines,
    score,
)

_ENDS = ("low", "nominal", "high")
_REVERSED = {"low": "high", "nominal": "nominal", "high": "low"}
_SECTION = "modelled"
_HOST_TERMS = ("host_launch", "host_loop")
_SEQUENCE_LENGTH = 640
_RELATIVE_ERROR = 1e-9


def modelled_figures(record: Any) -> Iterator[Problem]:
    """What is modelled says so, and each of its figures follows from those it is made of."""
    section = lookup(record, _SECTION)
    if not isinstance(section, dict):
        return
    yield from _says_so(record)
    yield from _ranges_are_ordered(section)
    predictions = lookup(record, f"{_SECTION}.predictions")
    for platform in predictions if isinstance(predictions, dict) else ():
        where = f"{_SECTION}.predictions.{platform}"
        named = lookup(record, f"{where}.platform")
        if named is not None and named != platform:
            rule = "a prediction stands under its platform"
            yield Problem(f"{where}.platform", rule, platform, shown(named))
        for step in _steps(record, where):
            yield from _terms_add_up(record, step)
        for path in ("layered", "fused"):
            yield from _path(record, where, path, platform)
        yield from _bound(record, where)
    yield from _gains(record)


def _gains(record: Any) -> Iterator[Problem]:
    """A step of tuning gains what the step before took longer."""
    kernels = lookup(record, f"{_SECTION}.ladders.kernels")
    for kernel in kernels if isinstance(kernels, dict) else ():
        steps = members(record, f"{_SECTION}.ladders.kernels.{kernel}.steps")
        for before, step in zip([None, *steps], steps, strict=False):
            for platform in ("trn2", "trn3"):
                time = number(record, f"{step}.time_us.{platform}.nominal")
                longer = number(record, f"{before}.time_us.{platform}.nominal") if before else time
                path = f"{step}.gain_us.{platform}"
                gain = lookup(record, path)
                if time is None or longer is None or not is_number(gain):
                    continue
                if abs(gain - (longer - time)) > _RELATIVE_ERROR * max(longer, time):
                    rule = "a step's gain is the time before less its own"
                    yield Problem(path, rule, shown(longer - time), shown(gain))


def _says_so(record: Any) -> Iterator[Problem]:
    for path, value in walk(lookup(record, _SECTION)):
        if path.rsplit(".", 1)[-1] == "basis" and value != "modelled":
            rule = "nothing measured stands among what is modelled"
            yield Problem(f"{_SECTION}.{path}", rule, "modelled", shown(value))


def _ranges_are_ordered(section: Any) -> Iterator[Problem]:
    low: dict[str, Any] = {}
    for path, value in walk(section):
        name, _, end = path.rpartition(".")
        if end in _ENDS and is_number(value):
            low.setdefault(name, {})[end] = value
    for name, ends in low.items():
        values = [ends[end] for end in _ENDS if end in ends]
        if len(values) == len(_ENDS) and values != sorted(values):
            path, rule = f"{_SECTION}.{name}", "low <= nominal <= high"
            yield Problem(path, rule, shown(sorted(values)), shown(values))


def _steps(record: Any, where: str) -> list[str]:
    """Whatever consists of terms."""
    lists = ("prefill", "padded_baseline.buckets", "paths.layered.decode", "paths.fused.decode")
    return [step for name in lists for step in members(record, f"{where}.{name}")]


def _terms_add_up(record: Any, step: str) -> Iterator[Problem]:
    terms = members(record, f"{step}.terms")
    device = [term for term in terms if lookup(record, f"{term}.name") not in _HOST_TERMS]
    for name, parts in (("total_us", terms), ("device_us", device)):
        for end in _ENDS:
            found = [number(record, f"{term}.time_us.{end}") for term in parts]
            known = [value for value in found if value is not None]
            if terms and len(known) == len(parts):
                rule = "the sum of the terms" + ("" if parts is terms else " that are the device's")
                yield from _is(record, f"{step}.{name}.{end}", rule, sum(known))
    for term in terms:
        hbm, whole = number(record, f"{term}.hbm_us"), number(record, f"{term}.time_us.nominal")
        if hbm is not None and whole is not None and hbm > whole * (1 + _RELATIVE_ERROR):
            rule = "HBM is busy for a part of the time"
            yield Problem(f"{term}.hbm_us", rule, f"at most {whole}", shown(hbm))


def _path(record: Any, where: str, path: str, platform: str) -> Iterator[Problem]:
    here = f"{where}.paths.{path}"
    steps = {
        shown(number(record, f"{step}.bucket")): f"{step}.total_us"
        for step in members(record, f"{here}.decode")
    }
    prompts = members(record, f"{here}.prompts")
    for prompt in prompts:
        yield from _prompt(record, prompt, steps)
        yield from _scores(record, prompt, platform)
    for end in _ENDS:
        scores = [number(record, f"{prompt}.score.{end}") for prompt in prompts]
        known = [value for value in scores if value is not None]
        if prompts and len(known) == len(scores):
            rule = "the sum of the prompts' scores"
            yield from _is(record, f"{here}.total_score.{end}", rule, sum(known))
    bound = number(record, f"{where}.bound.time_us")
    decode = members(record, f"{here}.decode")
    for name, ratio in (("total_us", "bound_ratio"), ("device_us", "device_bound_ratio")):
        step_us = number(record, f"{decode[-1]}.{name}.nominal") if decode else None
        if bound and step_us is not None:
            rule = f"{name} of a step with the largest bucket / bound.time_us"
            yield from _is(record, f"{here}.{ratio}", rule, step_us / bound)


def _prompt(record: Any, prompt: str, steps: dict[str, str]) -> Iterator[Problem]:
    """Latency = prefill + steps; throughput = sequence / latency; tokens fill the sequence."""
    counts = lookup(record, f"{prompt}.decode_steps")
    made, given = (number(record, f"{prompt}.{side}_tokens") for side in ("output", "input"))
    if isinstance(counts, dict) and made is not None and given is not None:
        taken = sum(count for count in counts.values() if _is_count(count))
        if taken != made - 1 or made + given != _SEQUENCE_LENGTH:
            rule = "prefill gives one token, a step each other one, and they fill the sequence"
            expected = f"{_SEQUENCE_LENGTH} tokens"
            found = f"{shown(given)} + {shown(taken)} + 1"
            yield Problem(f"{prompt}.decode_steps", rule, expected, found)
    for end in _ENDS:
        times = [number(record, f"{prompt}.{part}_ms.{end}") for part in ("prefill", "decode")]
        known = [value for value in times if value is not None]
        if len(known) == len(times):
            rule = "prefill_ms + decode_ms"
            yield from _is(record, f"{prompt}.latency_ms.{end}", rule, sum(known))
        latency = number(record, f"{prompt}.latency_ms.{end}")
        if latency:
            path = f"{prompt}.throughput_tok_s.{_REVERSED[end]}"
            rule = "sequence length / latency"
            yield from _is(record, path, rule, 1e3 * _SEQUENCE_LENGTH / latency)
        if isinstance(counts, dict):
            parts = [
                (number(record, f"{steps.get(bucket, '')}.{end}"), count)
                for bucket, count in counts.items()
            ]
            if all(step is not None and _is_count(count) for step, count in parts):
                spent = sum((step or 0.0) * count for step, count in parts) / 1e3
                rule = "the steps of each bucket times their total_us"
                yield from _is(record, f"{prompt}.decode_ms.{end}", rule, spent)


def _scores(record: Any, prompt: str, platform: str) -> Iterator[Problem]:
    base = _base(platform, number(record, f"{prompt}.prompt_id"))
    ratio = number(record, f"{prompt}.nki_flops_ratio")
    if base is None or ratio is None:
        return
    for end in _ENDS:
        latency = number(record, f"{prompt}.latency_ms.{_REVERSED[end]}")
        throughput = number(record, f"{prompt}.throughput_tok_s.{end}")
        path = f"{prompt}.score.{end}"
        if latency is None or throughput is None:
            continue
        try:
            value = score(Measurement(latency, throughput, 1.0, ratio), base)
        except ScoringError as error:
            yield Problem(path, "figures that enter a score", "within their range", str(error))
            continue
        yield from _is(record, path, "the challenge's formula, at accuracy 1", value)


def _base(platform: str, prompt_id: float | None) -> PromptBaseline | None:
    try:
        return _published(platform).for_prompt(-1 if prompt_id is None else int(prompt_id))
    except ScoringError:
        return None


@cache
def _published(platform: str) -> Baselines:
    """The file once per platform: every prompt of every path asks."""
    return load_baselines(BASELINES_FILE, platform)


def _bound(record: Any, where: str) -> Iterator[Problem]:
    moved, rate = (
        number(record, f"{where}.bound.{n}") for n in ("weight_bytes", "hbm_bytes_per_us")
    )
    if moved is not None and rate:
        rule = "weight_bytes / hbm_bytes_per_us"
        yield from _is(record, f"{where}.bound.time_us", rule, moved / rate)
    ours = members(record, f"{where}.prefill")
    for padded, own in zip(members(record, f"{where}.padded_baseline.buckets"), ours, strict=False):
        times = [number(record, f"{step}.total_us.nominal") for step in (padded, own)]
        if times[0] is not None and times[1]:
            rule = "the padded prompt's time / ours"
            yield from _is(record, f"{padded}.times_ours", rule, times[0] / times[1])


def number(record: Any, path: str) -> float | None:
    """Return the finite number at a path as a float, so that sums and products cannot overflow."""
    found = any_number(record, path)
    return None if found is None else float(found)


def _is_count(value: Any) -> bool:
    return is_number(value) and is_finite(value) and value == int(value)


def _is(record: Any, path: str, rule: str, expected: float) -> Iterator[Problem]:
    found = number(record, path)
    if found is not None and abs(found - expected) > _RELATIVE_ERROR * max(abs(expected), 1e-9):
        yield Problem(path, rule, shown(expected), shown(found))
