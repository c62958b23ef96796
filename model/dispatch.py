"""The one place through which layers reach kernels: eligibility, launches, counts, fallbacks.

`run` launches a kernel, or carries out the same operation in plain torch where `why_not` gives a
reason; the reason is logged once and kept for the result. Counts are of launches alone. An error of
a kernel is an error: nothing here catches one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from kernels.specs import SPECS
from model import plain

LONGEST_ROW = 6144  # elements that the row kernels keep on one partition
CHOSEN_EXPERTS = 8  # experts per token that the kernels of the router choose and sum

logger = logging.getLogger(__name__)
_counters: list[Counter[str]] = []
_fallbacks: dict[Fallback, None] = {}


class Fallback(NamedTuple):
    """A kernel that was not launched where it could have been, and why."""

    kernel: str
    reason: str


def run(name: str, *tensors: Tensor, **scalars: float) -> Any:
    """Launch the kernel `name` if it is eligible, else do the same in plain torch and say why."""
    reason = why_not(name, *tensors)
    if reason is None:
        return launch(name, *tensors, **scalars)
    record_fallback(name, reason)
    return plain.OPERATIONS[name](*tensors, **scalars)


def launch(name: str, *tensors: Tensor, **scalars: float) -> Any:
    """Launch the kernel `name` of `kernels.specs.SPECS` and count it; returns its tensor or tuple.

    Tensors are passed contiguous, without gradients and as plain tensors (while a model is traced
    for a device, weights are of a subclass that kernels cannot take). KeyError for an unknown name;
    whatever the kernel raises for inputs that it refuses.
    """
    kernel = _kernel(name)
    result = kernel(*(_plain_tensor(tensor) for tensor in tensors), **scalars)
    for counter in _counters:
        counter[name] += 1
    return result


def why_not(name: str, *tensors: Tensor) -> str | None:
    """Why the kernel `name` cannot take these tensors, or None if it can.

    Covers what a legal model may bring: dtypes, long rows, other numbers of experts. Arguments
    that do not fit each other are mistakes, for which the kernel itself raises.
    """
    first = tensors[0]
    dtype = str(first.dtype).removeprefix("torch.")
    if dtype not in SPECS[name].dtypes:
        return f"{dtype} is not among the kernel's dtypes ({', '.join(SPECS[name].dtypes)})"
    if name == "expert_aggregation":
        return why_not_routed(CHOSEN_EXPERTS, first.shape[1])
    if name == "top8" and (reason := why_not_routed(first.shape[1], CHOSEN_EXPERTS)):
        return reason
    row = first.shape[1] * first.shape[2] if name == "rope" else first.shape[-1]
    if name != "silu" and row > LONGEST_ROW:
        return f"rows of {row} elements are longer than the kernel's {LONGEST_ROW}"
    return None


def why_not_routed(experts: int, chosen: int, renormalise: bool = True) -> str | None:
    """Why the top-8 kernel cannot choose `chosen` of `experts` experts, or None if it can."""
    if chosen != CHOSEN_EXPERTS:
        return f"{chosen} experts per token, the kernel has {CHOSEN_EXPERTS}"
    if experts < CHOSEN_EXPERTS:
        return f"{experts} experts, the kernel needs at least {CHOSEN_EXPERTS}"
    if not renormalise:
        return "the model does not renormalise the chosen probabilities, the kernel does"
    return None


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the launches of each kernel inside the `with` block; may be nested."""
    counter: Counter[str] = Counter()
    _counters.append(counter)
    try:
        yield counter
    finally:
        # By identity: two counters with equal counts are equal.
        _counters[:] = [other for other in _counters if other is not counter]


def record_fallback(kernel: str, reason: str) -> None:
    """Remember that `kernel` was replaced by plain torch, and log it the first time."""
    fallback = Fallback(kernel, reason)
    if fallback not in _fallbacks:
        logger.warning("%s runs in plain torch: %s", kernel, reason)
        _fallbacks[fallback] = None


def fallbacks() -> list[Fallback]:
    """Every fallback since the start or the last `forget_fallbacks`, each once, in order."""
    return list(_fallbacks)


def forget_fallbacks() -> None:
    """Start a new record of fallbacks."""
    _fallbacks.clear()


def _plain_tensor(tensor: Tensor) -> Tensor:
    return tensor.detach().as_subclass(Tensor).contiguous()


@cache
def _kernel(name: str) -> Callable[..., Any]:
    return SPECS[name].load()
