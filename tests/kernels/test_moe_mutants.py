"""Faults in the kernels of the MoE and the LM head, and in what they are given: each is found.

A fault stands in the source of a kernel or of a stage that it is made of, so all kernel files are
copied into a package of their own, one of them with another text. Each is tried on one small case
that must show it, and by a wide gap: the error is ten times what the tolerance allows, or another
expert or token is chosen.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels.specs import SPECS, Case, Inputs, KernelSpec
from kernels.verification import verify
from test_nki_kernels import setup_module as setup_module

FOLDER = Path(__file__).resolve().parents[2] / "kernels"
PACKAGE = "mutant_kernels"
GAP = 10.0
DECODE, PREFILL = "nki_decode_moe_kernels.py", "nki_prefill_moe_kernels.py"
SHARED, GROUPING, HEAD = "nki_moe_kernels.py", "nki_token_grouping.py", "nki_lm_head_kernels.py"
# What is wrong: kernel, case, cores, file, its text (found once), what stands there instead.
MUTANTS = {
    "shares not renormalised in decode": (
        "router_decode", "tiny, 1 token", 1, SHARED,
        "data=exponentials, op0=nl.multiply, operand0=inverse",
        "data=exponentials, op0=nl.multiply, operand0=1.0",
    ),
    "shares not renormalised in prefill": (
        "router_prefill", "tiny prefill", 1, SHARED,
        "data=exponentials, op0=nl.multiply, operand0=inverse",
        "data=exponentials, op0=nl.multiply, operand0=1.0",
    ),
    "one column of the router left out": (
        "router_decode", "3 tokens of 1020", 1, SHARED, "for step in range(count)",
        "for step in range(count - 1)",
    ),
    "norm of the residual's difference": (
        "router_prefill", "tiny prefill", 1, PREFILL,
        "data1=x_tile, data2=residual_tile, op=nl.add",
        "data1=x_tile, data2=residual_tile, op=nl.subtract",
    ),
    "tokens of the other core": (
        "router_prefill", "tiny prefill", 2, PREFILL,
        "tile = nl.program_id(0) * tiles + number", "tile = number",
    ),
    "silu of up": (
        "experts_decode", "tiny, 1 token", 1, DECODE,
        "op=nl.silu, data=projected[:, 0:count, :]",
        "op=nl.silu, data=projected[:, count : 2 * count, :]",
    ),
    "no shares": (
        "experts_decode", "tiny, 1 token", 1, DECODE, "operand0=factor,\n            op1", 
        "operand0=1.0,\n            op1",
    ),
    "every token's shares are the first's": (
        "experts_decode", "tiny, 4 ranks, 8 tokens", 1, DECODE,
        "shares[0 : down.shape[0], pair : pair + 1]",
        "shares[0 : down.shape[0], pair % 8 : pair % 8 + 1]",
    ),
    "both cores take the same ranks": (
        "experts_decode", "tiny, 1 token", 2, DECODE,
        "CHOSEN * token + first_rank + rank", "CHOSEN * token + rank",
    ),
    "cores not added up": (
        "experts_decode", "tiny, 1 token", 2, DECODE, "    total = exchange_and_add(total)\n", "",
    ),
    "an expert loaded in place of the next": (
        "experts_decode", "tiny, 4 ranks, 8 tokens", 1, DECODE,
        "load_turn(down, w_down, experts, pairs, turn + len(buffers))",
        "load_turn(down, w_down, experts, pairs, turn + len(buffers) - 1)",
    ),
    "padding put into the first slot": (
        "experts_prefill", "tiny, 4 ranks", 1, GROUPING,
        "data=pair, op0=nl.multiply, operand0=real", "data=pair, op0=nl.multiply, operand0=1.0",
    ),
    "places within an expert not counted": (
        "experts_prefill", "tiny prefill", 1, GROUPING,
        "order_matrix(lines, nl.greater, 1.0", "order_matrix(lines, nl.equal, 1.0",
    ),
    "earlier tiles of tokens not counted": (
        "experts_prefill", "131 of 200 tokens of 1000", 1, GROUPING,
        "for earlier in range(number)", "for earlier in range(0)",
    ),
    "blocks rounded down": (
        "experts_prefill", "tiny prefill", 1, GROUPING,
        "half = 0.5 - 0.5 / divisor", "half = 0.5 / divisor - 0.5",
    ),
    "every block one expert further": (
        "experts_prefill", "tiny prefill", 1, GROUPING,
        "op0=nl.greater_equal,\n        operand0=end_column", 
        "op0=nl.greater,\n        operand0=end_column",
    ),
    "both cores take the same blocks": (
        "experts_prefill", "tiny prefill", 2, PREFILL,
        "value=float(nl.program_id(0))", "value=0.0",
    ),
    "cores not ordered before the sum": (
        "experts_prefill", "tiny prefill", 2, PREFILL,
        "nisa.core_barrier(data=outputs, cores=(0, 1))", "pass",
    ),
    "shares of the first tile of tokens": (
        "experts_prefill", "131 of 200 tokens of 1000", 1, PREFILL,
        "src=weights[first : first + lines, :]", "src=weights[0:lines, :]",
    ),
    "rows of padding read": (
        "experts_prefill", "one of 20 tokens", 1, PREFILL, "operand0=real,", "operand0=1.0,",
    ),
    "the last among equals": (
        "lm_head", "tiny, 1 token", 1, HEAD, "op=nl.minimum, data=behind",
        "op=nl.maximum, data=behind",
    ),
    "the lowest partition among equals": (
        "lm_head", "tiny, 1 token", 1, HEAD, "operand0=float(PARTITIONS),", "operand0=0.0,",
    ),
    "indices within a core": (
        "lm_head", "20000 entries", 2, HEAD, "start = index_column(PARTITIONS, first)",
        "start = index_column(PARTITIONS, 0)",
    ),
    "one core's choice": (
        "lm_head", "tiny, 4 ranks", 2, HEAD, "if nl.num_programs(0) == 1:",
        "if nl.num_programs(0) > 0:",
    ),
    "the last tile forgotten": (
        "lm_head", "200 entries", 1, HEAD, "if size > whole:", "if size < whole:",
    ),
    "the first chunk of the vocabulary only": (
        "lm_head", "20000 entries", 1, HEAD, "first + begin : first + begin + size",
        "first : first + size",
    ),
}  # fmt: skip


def rolled(arguments: Inputs) -> Inputs:
    """Every expert has the weights of the one before it."""
    names = ("w_gate_up", "w_down")
    return arguments | {name: np.roll(arguments[name], 1, axis=0) for name in names}


def swapped(arguments: Inputs) -> Inputs:
    """Up stands before gate."""
    gate, up = np.split(arguments["w_gate_up"], 2, axis=-1)
    return arguments | {"w_gate_up": np.concatenate((up, gate), axis=-1)}


def case_of(spec: KernelSpec, label: str) -> Case:
    return next(case for case in spec.cases if case.label == label)


def is_found(kernel: str, case: Case, launch: Any) -> bool:
    """Whether the simulator refuses the fault, or its results are far beyond the tolerance."""
    spec = SPECS[kernel]
    try:
        result = verify(spec, case, "float32", launch)
    except RuntimeError as error:
        assert type(error).__module__ == "nki_sim.errors", error
        return True
    expected = spec.reference(**spec.inputs(case, "float32"))
    expected = expected if isinstance(expected, tuple) else (expected,)
    largest = max(float(np.max(np.abs(r))) for r in expected if r.dtype.kind == "f")
    tolerance = spec.tolerances["float32"]
    allowed = tolerance.atol + tolerance.rtol * largest
    return (
        not result.passed
        and result.max_abs_error is not None
        and result.max_abs_error > GAP * allowed
    )


@pytest.fixture
def mutate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A function that gives a kernel, made of files of which one has another text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def build(kernel: str, file: str, old: str, new: str) -> Any:
        folder = tmp_path / PACKAGE
        folder.mkdir()
        (folder / "__init__.py").touch()
        for path in FOLDER.glob("nki_*.py"):
            text = path.read_text()
            if path.name == file:
                assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
                text = text.replace(old, new)
            (folder / path.name).write_text(text.replace("from kernels.", f"from {PACKAGE}."))
        spec = SPECS[kernel]
        module = importlib.import_module(f"{PACKAGE}.{spec.file.removesuffix('.py')}")
        return getattr(module, spec.function)

    yield build
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.mark.parametrize("fault", MUTANTS)
def test_mutant_is_found(fault: str, mutate: Callable[..., Any]) -> None:
    kernel, label, cores, file, old, new = MUTANTS[fault]
    mutant = mutate(kernel, file, old, new)
    launch = mutant if cores == 1 else mutant[cores]
    assert is_found(kernel, case_of(SPECS[kernel], label), launch), f"{fault}: it passes"


@pytest.mark.parametrize("kernel", ["experts_decode", "experts_prefill", "router_decode"])
def test_a_kernel_unchanged_passes(kernel: str, mutate: Callable[..., Any]) -> None:
    spec = SPECS[kernel]
    unchanged = mutate(kernel, "", "", "")
    case = next(case for case in spec.cases if case.kind == "model")
    assert verify(spec, case, "float32", unchanged).passed


@pytest.mark.parametrize("fault", [rolled, swapped])
@pytest.mark.parametrize("kernel", ["experts_decode", "experts_prefill"])
def test_exchanged_weights_are_found(kernel: str, fault: Callable[[Inputs], Inputs]) -> None:
    spec = SPECS[kernel]
    case = next(case for case in spec.cases if case.kind == "model")
    assert is_found(kernel, case, lambda **arguments: spec.load()(**fault(arguments)))
