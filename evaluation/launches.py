"""Which kernels a model launched, how often, and how many multiply-accumulates they issued.

Counted in the run, and compared with what the architecture and the kernel path demand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from evaluation.coverage import coverage, useful_macs
from evaluation.errors import EvaluationError
from evaluation.shapes import Architecture

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
Launches = Counter[str]
PHASES = ("prefill", "decode_step")


class Stepping(Protocol):
    """A model that takes single steps."""

    def prefill(self, input_ids: torch.Tensor, capacity: int) -> torch.Tensor:
        """Read the prompt."""

    def decode(self, token: int) -> torch.Tensor:
        """Read one more token."""


@dataclass(frozen=True)
class Account:
    """What one prefill and one decode step launched, should have launched, and multiplied."""

    config: Mapping[str, Any]
    padded_tokens: int
    counted: Mapping[str, Launches]
    expected: Mapping[str, Mapping[str, int]]
    macs: Mapping[str, Mapping[str, int]]

    def launches(self) -> dict[str, dict[str, int]]:
        """Launches by kernel: of each phase, counted and expected."""
        return {
            **{phase: dict(self.counted[phase]) for phase in PHASES},
            **{f"expected_{phase}": dict(self.expected[phase]) for phase in PHASES},
        }

    def coverage(self, prompt_tokens: int) -> dict[str, Any]:
        """See `evaluation.coverage`: of a prompt of so many tokens and of the step behind it."""
        architecture = Architecture.from_config(self.config)
        steps = {"prefill": (prompt_tokens, 0), "decode_step": (1, prompt_tokens)}
        padded = {"prefill": self.padded_tokens, "decode_step": 1}
        return {
            phase: coverage(
                useful_macs(architecture, *step), self.macs[phase], step[0], padded[phase]
            )
            for phase, step in steps.items()
        }


def counted(function: Callable[[], Result]) -> tuple[Result, Launches]:
    """Call `function`; its result and how often it launched each kernel."""
    from model import dispatch

    with dispatch.counting() as launched:
        result = function()
    return result, Counter(launched)


def step_account(
    model: Stepping,
    input_ids: torch.Tensor,
    token: int,
    config: Mapping[str, Any],
    kernel_path: str,
    dtype: str,
) -> Account:
    """Count one prefill of a prompt [S] and one decode step of `token` behind it.

    EvaluationError when launches differ from what the architecture demands on `kernel_path`, or on
    the path that the model falls back to.
    """
    from model.plan import bucket_of, choose, expected_launches

    plan = choose(kernel_path, SimpleNamespace(**config), dtype)
    tokens = len(input_ids)
    steps = {
        "prefill": _accounted(lambda: model.prefill(input_ids, tokens + 1)),
        "decode_step": _accounted(lambda: model.decode(token)),
    }
    account = Account(
        config,
        padded_tokens=tokens if plan.prefill == "rows" else bucket_of(tokens),
        counted={phase: launches for phase, (launches, _) in steps.items()},
        expected={
            "prefill": expected_launches(config, "prefill", plan.prefill),
            "decode_step": expected_launches(config, "decode", plan.decode),
        },
        macs={phase: macs for phase, (_, macs) in steps.items()},
    )
    _check(account.launches())
    return account


def check_runs(runs: Sequence[Launches], decode_steps: int, account: Account) -> None:
    """EvaluationError unless each timed run launched as a prefill and its decode steps do."""
    for number, run in enumerate(runs, start=1):
        for kernel in {*run, *account.counted["prefill"], *account.counted["decode_step"]}:
            prefill, step = (account.counted[phase][kernel] for phase in PHASES)
            if run[kernel] != prefill + decode_steps * step:
                raise EvaluationError(
                    f"{kernel}: {run[kernel]} launches in timed run {number} do not make a prefill "
                    f"of {prefill} and {decode_steps} decode steps of {step}"
                )


def _accounted(step: Callable[[], Any]) -> tuple[Launches, dict[str, int]]:
    """Launches of a step, and the MACs of those kernels that multiply."""
    import torch

    import nki_sim
    from kernels.specs import SPECS

    names = {spec.function: name for name, spec in SPECS.items()}
    with torch.inference_mode(), nki_sim.record() as recording:
        _, launches = counted(step)
    macs: Counter[str] = Counter()
    for launch in recording.launches:
        macs[names[launch.kernel]] += launch.macs
    return launches, {kernel: count for kernel, count in macs.items() if count}


def _check(launches: Mapping[str, Mapping[str, int]]) -> None:
    problems = [problem for phase in PHASES for problem in _differences(launches, phase)]
    if problems:
        raise EvaluationError(
            f"kernel launches differ from what the model's layers demand: {'; '.join(problems)}"
        )


def _differences(launches: Mapping[str, Mapping[str, int]], phase: str) -> Iterator[str]:
    counted, expected = launches[phase], launches[f"expected_{phase}"]
    for kernel, number in expected.items():
        if counted.get(kernel, 0) != number:
            yield f"{kernel}: {counted.get(kernel, 0)} in the {phase}, expected {number}"
    for kernel, number in counted.items():
        if number and kernel not in expected:
            yield f"{kernel}: launched in the {phase}, but the architecture has no place for it"
