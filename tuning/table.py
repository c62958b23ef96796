"""All variants together: which is fastest, whether that is the chosen one, and the ladders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kernels.variants import TUNED, Tuned, name_of, steps

from .workloads import PLATFORMS

Result = dict[str, Any]

TIE = 0.005
"""Times that differ by less are equal: the model does not tell them apart."""


class TuningError(Exception):
    """The results do not belong to the table of variants, or speak against the chosen ones."""


def collect(results: Sequence[Result]) -> Result:
    """The table of results, for JSON.

    Raises:
        TuningError: a variant is missing, a chosen one is wrong, or a right one is faster and
            nothing in `kernels.variants` says why it is not the chosen one.
    """
    by_name = {one["variant"]: one for one in results}
    kernels = {name: _kernel(tuned, by_name) for name, tuned in TUNED.items()}
    return {
        "basis": "modelled",
        "tie": TIE,
        "kernels": kernels,
        "broken": [
            {"variant": one["variant"], "problem": one["problem"]}
            for one in results
            if not one["passed"]
        ],
    }


def ladders(results: Sequence[Result]) -> Result:
    """The ladders alone, for JSON; `results` are of their steps.

    Raises:
        TuningError: a step is missing or wrong.
    """
    by_name = {one["variant"]: one for one in results}
    found = {}
    for kernel, tuned in TUNED.items():
        if tuned.ladder:
            chosen = _result(by_name, name_of(tuned, tuned.defaults))
            about = {name: chosen[name] for name in ("workload", "unit")}
            found[kernel] = {**about, "steps": _ladder(tuned, by_name)}
    return {"schema_version": 1, "basis": "modelled", "kernels": found}


def _kernel(tuned: Tuned, by_name: dict[str, Result]) -> Result:
    default = _result(by_name, name_of(tuned, tuned.defaults))
    if not default["passed"]:
        raise TuningError(f"{default['variant']} is the chosen one and wrong: {default['problem']}")
    mine = [one for one in by_name.values() if one["kernel"] == tuned.kernel]
    right = [one for one in mine if one["passed"]]
    fastest = {p: min(right, key=lambda one: _nominal(one, p)) for p in PLATFORMS}
    reasons = {p: _reason(tuned, default, fastest[p], p) for p in PLATFORMS}
    return {
        "workload": default["workload"],
        "unit": default["unit"],
        "parameters": [
            {"name": p.name, "default": p.default, "others": list(p.others), "idea": p.idea}
            for p in tuned.parameters
        ],
        "variants": sorted(mine, key=lambda one: (not one["passed"], one["variant"])),
        "chosen": default["variant"],
        "fastest": {p: one["variant"] for p, one in fastest.items()},
        "kept_although_slower": {p: reason for p, reason in reasons.items() if reason},
        "ladder": _ladder(tuned, by_name),
    }


def _reason(tuned: Tuned, default: Result, fastest: Result, platform: str) -> str:
    """Why the chosen variant is kept on a platform; empty if none is faster there."""
    chosen, best = _nominal(default, platform), _nominal(fastest, platform)
    if chosen <= best * (1 + TIE):
        return ""
    if platform not in tuned.slower:
        raise TuningError(
            f"{tuned.kernel} on {platform}: {fastest['variant']} takes {best:.2f} us, the chosen "
            f"one {chosen:.2f}; make it the default, or say in kernels/variants.py why not"
        )
    return tuned.slower[platform]


def _ladder(tuned: Tuned, by_name: dict[str, Result]) -> list[Result]:
    """The steps, each with its times and what it gained against the one before."""
    ladder: list[Result] = []
    for stage, settings in steps(tuned):
        result = _result(by_name, name_of(tuned, settings))
        if not result["passed"]:
            raise TuningError(f"{result['variant']} is a step and wrong: {result['problem']}")
        times = {p: result["times"][p]["time_us"] for p in PLATFORMS}
        gains = {
            p: ladder[-1]["time_us"][p]["nominal"] - times[p]["nominal"] if ladder else 0.0
            for p in PLATFORMS
        }
        ladder.append(
            {
                "step": stage.name,
                "idea": stage.idea,
                "change": dict(stage.change),
                "variant": result["variant"],
                "time_us": times,
                "gain_us": gains,
            }
        )
    return ladder


def _result(by_name: dict[str, Result], name: str) -> Result:
    if name not in by_name:
        raise TuningError(f"there is no result of {name}; run its job")
    return by_name[name]


def _nominal(result: Result, platform: str) -> float:
    nominal: float = result["times"][platform]["time_us"]["nominal"]
    return nominal


def markdown(table: Result) -> str:
    """The table for people."""
    lines = ["# Tuned variants (modelled)", ""]
    for kernel, found in table["kernels"].items():
        lines += [f"## {kernel}", "", f"{found['workload']}; {found['unit']}", ""]
        lines += ["| variant | trn2 | trn3 | limited by | max abs error | verdict |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [_row(one, found) for one in found["variants"]]
        for platform, reason in found["kept_although_slower"].items():
            lines += ["", f"The chosen one is not the fastest on {platform}: {reason}."]
        if found["ladder"]:
            lines += [
                "",
                "| step | trn2 | gain | trn3 | gain | idea |",
                "|---|---|---|---|---|---|",
            ]
            lines += [_step(one) for one in found["ladder"]]
        lines.append("")
    return "\n".join(lines)


def _row(result: Result, found: Result) -> str:
    if not result["passed"]:
        problem = " ".join(result["problem"].split())[:120]
        return f"| {result['variant']} | | | | | broken: {problem} |"
    times = result["times"]
    cells = [_range(times[p]["time_us"]) for p in PLATFORMS]
    kinds = ", ".join(times[p]["kind"] for p in PLATFORMS)
    error = max(one["max_abs_error"] for one in result["checks"])
    verdict = "chosen" if result["variant"] == found["chosen"] else ""
    return f"| {result['variant']} | {cells[0]} | {cells[1]} | {kinds} | {error:.2g} | {verdict} |"


def _step(step: Result) -> str:
    cells = [f"{step['time_us'][p]['nominal']:.1f} | {step['gain_us'][p]:+.1f}" for p in PLATFORMS]
    return f"| {step['step']} | {cells[0]} | {cells[1]} | {step['idea']} |"


def _range(time: Result) -> str:
    return f"{time['nominal']:.1f} ({time['low']:.1f} to {time['high']:.1f})"
