"""The kernels' own sources with one fault each: the declared cases find every one of them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from kernels.specs import SPECS
from kernels.verification import verify

FOLDER = Path(__file__).resolve().parents[2] / "kernels"
# What is wrong: kernel, the text of its file (found once), what stands there instead.
MUTANTS = {
    "no eps": ("rmsnorm", "bias=eps_column[0:lines, :],", ""),
    "mean over a part of a cut row": ("rmsnorm", "1.0 / (width * split)", "1.0 / width"),
    "sum of a part of a cut row": ("rmsnorm", "total = sum_over_partitions(total)", "pass"),
    "sum not reset": ("rmsnorm", "reduce_cmd.reset_reduce", "reduce_cmd.reduce"),
    "mean of values": ("rmsnorm", "op=nl.square", "op=nl.copy"),
    "weight of the first rows only": ("rmsnorm", "step = width if split > 1 else 0", "step = 0"),
    "rows that share a partition, one scale": (
        "rmsnorm",
        "operand0=rstd[:, row : row + 1]",
        "operand0=rstd[:, 0:1]",
    ),
    "sigmoid": ("silu", "op=nl.silu", "op=nl.sigmoid"),
    "the last run forgotten": ("silu", "if rest > 0:", "if rest < 0:"),
    "the last run misplaced": ("silu", "start + lines * run, 1, rest", "start, 1, rest"),
    "no maximum": ("softmax", "bias=negative_max,", ""),
    "maximum not negated": ("softmax", "negate=True", "negate=False"),
    "minimum for maximum": ("softmax", "op=nl.maximum", "op=nl.minimum"),
    "not divided by the sum": ("softmax", "operand0=inverse", "operand0=1.0"),
    "statistics of the residual": (
        "add_rmsnorm",
        "reciprocal_rms(sum_tile,",
        "reciprocal_rms(work_tile,",
    ),
    "residual normalised": (
        "add_rmsnorm",
        "scale_rows(work_tile, sum_tile,",
        "scale_rows(work_tile, work_tile,",
    ),
    "residual subtracted": (
        "add_rmsnorm",
        "data2=work_tile, op=nl.add",
        "data2=work_tile, op=nl.subtract",
    ),
    "halves not exchanged": ("rope", "half - here", "here"),
    "sign of the rotation": ("rope", "operand0=-1.0", "operand0=1.0"),
    "table of the first tile": ("rope", "offset=first * width", "offset=0"),
    "table not repeated for the heads": (
        "rope",
        "[[width, tokens], [0, split], [1, width]]",
        "[[0, tokens], [0, split], [1, width]]",
    ),
    "probabilities rounded": (
        "router_softmax",
        "(tokens, experts), dtype=nl.float32, buffer=nl.shared_hbm",
        "(tokens, experts), dtype=logits.dtype, buffer=nl.shared_hbm",
    ),
    "weights not renormalised": (
        "top8",
        "data=largest, op0=nl.multiply, operand0=inverse",
        "data=largest, op0=nl.multiply, operand0=1.0",
    ),
    "indices of another tile": ("top8", "dst=indices[start:stop, :]", "dst=indices[0:lines, :]"),
    "second expert left out": ("expert_aggregation", "range(1, CHOSEN)", "range(2, CHOSEN)"),
    "weights of the first tile": ("expert_aggregation", "offset=first * CHOSEN)", "offset=0)"),
    "columns of the first block": (
        "expert_aggregation",
        "offset=first * CHOSEN * hidden + column",
        "offset=first * CHOSEN * hidden",
    ),
    "queries with the norm of keys": ("qkv_decode", "src=q_columns.ap(", "src=k_columns.ap("),
    "sign of the rotated half of columns": ("qkv_decode", "operand0=-1.0", "operand0=1.0"),
    "halves of columns not exchanged": ("qkv_decode", "(half, -half)", "(0, 0)"),
    "keys of one core's hidden states": ("qkv_decode", "if steps < columns", "if steps > columns"),
    "residual not added": (
        "qkv_decode",
        "columns = add_columns(columns, load_columns(residual, identity_tile), inner)",
        "pass",
    ),
    "a cached position too many": ("attention_decode", "op0=nl.greater_equal", "op0=nl.greater"),
    "a cached position too few": (
        "attention_decode",
        "pattern=[[1, blocks]], offset=0",
        "pattern=[[1, blocks]], offset=1",
    ),
    "new tokens see later ones": (
        "attention_decode",
        "channel_multiplier=-1",
        "channel_multiplier=0",
    ),
    "keys stored one position late": (
        "attention_decode",
        "offset=first_head * head + start * capacity,",
        "offset=first_head * head + start * capacity + 1,",
    ),
    "values stored over the first one": (
        "attention_decode",
        "indirect_dim=rank - 2,",
        "indirect_dim=rank - 1,",
    ),
    "scores not scaled": ("attention_decode", "scale = float(width) ** -0.5", "scale = 1.0"),
    "maximum of scores not negated": ("attention_decode", "negate=True", "negate=False"),
    "sum over part of the positions": (
        "attention_decode",
        "for block in range(weights.shape[1])",
        "for block in range(weights.shape[1] - 1)",
    ),
    "new values left out": (
        "attention_decode",
        "nisa.nc_matmul(dst=total, stationary=new_values,",
        "dict(dst=total, stationary=new_values,",
    ),
    "one core's heads projected": (
        "output_projection_decode",
        "exchange_and_add(project_output(",
        "(project_output(",
    ),
    "experts of the first layer": (
        "decoder_stack",
        "inner, layer * router_tile.shape[2])",
        "inner, 0)",
    ),
    "cache of the first layer": (
        "decoder_stack",
        "layer * kv_heads + first + head",
        "first + head",
    ),
    "norms of the layer exchanged": (
        "decoder_stack",
        "weights[0], weights[1]",
        "weights[3], weights[1]",
    ),
    "norms of the first layer's heads": (
        "decoder_stack",
        "norms, layer, heads",
        "norms, 0, heads",
    ),
    "every partial sum rounded": (
        "expert_aggregation",
        "partial = nl.ndarray((lines, columns), dtype=nl.float32",
        "partial = nl.ndarray((lines, columns), dtype=nl.bfloat16",
    ),
    "norms of queries and keys exchanged": (
        "qkv_prefill",
        "repeat_weight(tile[:, 0:middle], q_norm, queries)",
        "repeat_weight(tile[:, 0:middle], k_norm, queries)",
    ),
    "both cores store the first half of the keys": (
        "qkv_prefill",
        "held = columns[from_element:to_element,",
        "held = columns[0 : to_element - from_element,",
    ),
    "values of the first core on both": (
        "qkv_prefill",
        "first_value + begin, first_value + end",
        "first_value, first_value + end - begin",
    ),
    "values of a head at its beginning": ("qkv_prefill", "+ column - head * head_dim", ""),
    "positions from this core's first token": (
        "qkv_prefill",
        "eps_column, first, eye, inner\n",
        "eps_column, place, eye, inner\n",
    ),
    "queries for values": (
        "qkv_prefill",
        "sums, turned, stop - start - turned",
        "sums, 0, stop - start - turned",
    ),
    "residual forgotten": ("qkv_prefill", "data1=tile, data2=other", "data1=tile, data2=tile"),
    "sums of the first tile": (
        "qkv_prefill",
        "dst=total[first : first + count, start:stop]",
        "dst=total[0:count, start:stop]",
    ),
    "positions of the first tile": (
        "qkv_prefill",
        "cos_tile = load_table(cos, first,",
        "cos_tile = load_table(cos, 0,",
    ),
    "normed rows of the first tile": (
        "qkv_prefill",
        "normed[place // size], 0,",
        "normed[0], 0,",
    ),
    "the next key seen": ("attention_prefill", "offset=0,", "offset=1,"),
    "the token itself not seen": ("attention_prefill", "nl.greater_equal", "nl.greater"),
    "no causality": ("attention_prefill", "hide_future(tile, heads)", "pass"),
    "past left out": (
        "attention_prefill",
        "for start in range(0, first, BANK_COLUMNS):",
        "for start in range(first, first, BANK_COLUMNS):",
    ),
    "sums not corrected": (
        "attention_prefill",
        "add_scaled(totals[number], correction, total)",
        "add_scaled(totals[number], 1.0, total)",
    ),
    "values not corrected": (
        "attention_prefill",
        "add_scaled(rows[number], corrections[number], product)",
        "add_scaled(rows[number], 1.0, product)",
    ),
    "keys of the first group": (
        "attention_prefill",
        "keys = load_keys(k, kv_head)",
        "keys = load_keys(k, 0)",
    ),
    "scores of a prompt not scaled": ("attention_prefill", "scale = head_dim**-0.5", "scale = 1.0"),
    "outputs of the first part": (
        "output_projection_prefill",
        "load_outputs(w_o, [(start, stop)], loads)",
        "load_outputs(w_o, [(0, stop - start)], loads)",
    ),
    "attended tokens of the first tile": (
        "output_projection_prefill",
        "project_rows(columns, first, count, weights)",
        "project_rows(columns, 0, count, weights)",
    ),
}
# Faults that a model would survive with plausible text: a case sees each of them by far.
PLAUSIBLE = {
    "norms of queries and keys exchanged": "128 tokens",
    "positions of the first tile": "tiny, 300 tokens, stepwise",
    "the next key seen": "128 tokens",
    "the token itself not seen": "128 tokens",
    "values not corrected": "200 tokens, 2 ranks",
}


@pytest.fixture
def mutate(tmp_path: Path) -> Iterator[Callable[..., Callable[..., Any]]]:
    """A function that gives a kernel with one text of its file replaced."""
    name = "nki_mutant"

    def build(kernel: str, old: str, new: str) -> Callable[..., Any]:
        spec = SPECS[kernel]
        source = (FOLDER / spec.file).read_text()
        assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in {spec.file}"
        path = tmp_path / f"{name}.py"
        path.write_text(source.replace(old, new))
        description = importlib.util.spec_from_file_location(name, path)
        assert description and description.loader
        module = importlib.util.module_from_spec(description)
        sys.modules[name] = module
        description.loader.exec_module(module)
        mutant: Callable[..., Any] = getattr(module, spec.function)
        return mutant

    yield build
    sys.modules.pop(name, None)


def is_found(kernel: str, mutant: Any) -> bool:
    """Whether any declared case fails, or the simulator refuses the mutant."""
    spec = SPECS[kernel]
    for dtype in spec.dtypes:
        for case in spec.cases:
            for cores in case.cores:
                try:
                    launch = mutant if cores == 1 else mutant[cores]
                    if not verify(spec, case, dtype, launch).passed:
                        return True
                except RuntimeError as error:
                    assert type(error).__module__ == "nki_sim.errors", error
                    return True
    return False


@pytest.mark.parametrize("fault", MUTANTS)
def test_mutant_is_found(fault: str, mutate: Callable[..., Callable[..., Any]]) -> None:
    kernel, old, new = MUTANTS[fault]
    assert is_found(kernel, mutate(kernel, old, new)), f"{fault}: every case passes"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", PLAUSIBLE)
def test_plausible_faults_are_found_by_a_wide_gap(
    fault: str, dtype: str, mutate: Callable[..., Callable[..., Any]]
) -> None:
    kernel, old, new = MUTANTS[fault]
    spec = SPECS[kernel]
    (case,) = [case for case in spec.cases if case.label == PLAUSIBLE[fault]]
    healthy, faulty = (verify(spec, case, dtype, k) for k in (None, mutate(kernel, old, new)))
    assert healthy.max_abs_error is not None and faulty.max_abs_error is not None
    assert faulty.max_abs_error > 50 * healthy.max_abs_error


def test_a_kernel_unchanged_is_not_found(mutate: Callable[..., Callable[..., Any]]) -> None:
    assert not is_found(
        "rope",
        mutate("rope", "tokens_per_tile = PARTITIONS // split", "tokens_per_tile = 128 // split"),
    )


@pytest.mark.parametrize("kernel", ["rope", "expert_aggregation"])
def test_kernels_that_say_bit_exact_are(kernel: str) -> None:
    spec = SPECS[kernel]
    assert "bit-exact against the oracle" in str(spec.load().__doc__)
    for case in spec.cases:
        for dtype in spec.dtypes:
            assert verify(spec, case, dtype).max_ulp_error == 0, (case.label, dtype)


@pytest.mark.parametrize("kernel", SPECS)
def test_torch_tensors_give_the_same_bits(kernel: str) -> None:
    spec = SPECS[kernel]
    case = next(case for case in spec.cases if case.kind == "model")
    arguments = spec.inputs(case, spec.dtypes[-1])
    results = spec.load()(**arguments)
    tensors = {name: as_torch(value) for name, value in arguments.items()}
    again = spec.load()(**tensors)
    pairs = zip(results, again, strict=True) if isinstance(results, tuple) else [(results, again)]
    for array, tensor in pairs:
        assert isinstance(tensor, torch.Tensor)
        assert torch.equal(as_torch(array).to(torch.float64), tensor.to(torch.float64))


def as_torch(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(value)
