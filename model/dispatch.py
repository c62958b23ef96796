"""The one place through which layers reach kernels: eligibility, launches, counts, fallbacks.

`run` launches a kernel, or carries out the same operation in plain torch where `why_not` gives a
reason; the reason is logged once and kept for the result. Counts are of launches alone. An error of
a kernel is an error: nothing here catches one.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from torch import Tensor

from kernels.specs import SPECS
from model import plain
from model.plan import CHOSEN_EXPERTS, Fallback, why_not_routed

LONGEST_ROW = 6144  # elements that the row kernels keep on one partition

logger = logging.getLogger(__name__)
_counters: list[Counter[str]] = []
_fallbacks: dict[Fallback, None] = {}


def run(name: str, *tensors: Tensor, **scalars: Any) -> Any:
    """Launch the kernel `name` if it is eligible, else do the same in plain torch and say why."""
    reason = why_not(name, *tensors)
    if reason is None:
        return launch(name, *tensors, **scalars)
    record_fallback(name, reason)
    return plain.OPERATIONS[name](*tensors, **scalars)


def launch(name: str, *tensors: Tensor | None, cores: int | None = None, **scalars: Any) -> Any:
    """Launch a kernel by name and count it; returns its tensor or tuple.

    Names are those of `kernels.specs.SPECS`, and "all_reduce" and "decoder_stack_ranks", which have
    no spec: they take several ranks, and an SDK with collectives.

    `cores` is the launch grid, the physical cores of a rank; None launches without one. Tensors are
    passed contiguous, without gradients and as plain tensors (while a model is traced for a device,
    weights are of a subclass that kernels cannot take). KeyError for an unknown name; whatever the
    kernel raises for inputs that it refuses.
    """
    kernel = _kernel(name) if cores is None else _kernel(name)[cores]
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


def why_not_on_cpu() -> str | None:
    """Why no kernel can be launched in a process without a device, or None if a simulator is there.

    It is `import nki` that decides: nki_sim, or the SDK's own with NKI_SIMULATOR=1.
    """
    try:
        import nki
    except ImportError:
        return "there is no `nki` that could simulate a kernel on this CPU"
    if nki.__name__.startswith("nki_sim") or os.environ.get("NKI_SIMULATOR") == "1":
        return None
    return "this `nki` compiles for a device, and there is none; NKI_SIMULATOR=1 simulates kernels"


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
    """Remember that `kernel` was not launched, and log it the first time."""
    fallback = Fallback(kernel, reason)
    if fallback not in _fallbacks:
        logger.warning("%s is not launched: %s", kernel, reason)
        _fallbacks[fallback] = None


def fallbacks() -> list[Fallback]:
    """Every fallback since the start or the last `forget_fallbacks`, each once, in order."""
    return list(_fallbacks)


def forget_fallbacks() -> None:
    """Start a new record of fallbacks."""
    _fallbacks.clear()


def _plain_tensor(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().as_subclass(Tensor).contiguous()


@cache
def _kernel(name: str) -> Any:
    if name == "all_reduce":
        return import_module("kernels.nki_collective_kernels").nki_all_reduce_kernel
    if name == "decoder_stack_ranks":
        return import_module("kernels.nki_decode_ranks_kernels").nki_decoder_stack_ranks_kernel
    return SPECS[name].load()
