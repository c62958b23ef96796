"""The decode kernels together: ranks against one rank, memories, orders of execution, faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import nki_sim
from kernels import decoder_reference as reference
from kernels.layouts import pack_linear, unpack_linear
from kernels.nki_decode_attention_kernels import nki_attention_decode_kernel
from kernels.nki_decode_layer_kernels import (
    WEIGHT_ROOM,
    nki_decoder_stack_kernel,
    plan_loads,
)
from kernels.nki_decode_ranks_kernels import nki_decoder_stack_ranks_kernel
from kernels.specs import DTYPES, SPECS, Case
from kernels.specs.decode_layer import stack_shapes
from nki_sim import lint, ranks
from nki_sim.errors import IllegalProgram
from nki_sim.nki.collectives import ReplicaGroup
from nki_sim.schedule import shuffled

STACK = SPECS["decoder_stack"]
TINY = Case("ranks", "model", stack_shapes(2, 2, 64, 8, 4, 16, 48, 16, 48))
Arrays = dict[str, Any]


def split(array: Any, count: int, axis: int) -> list[Any]:
    return [np.ascontiguousarray(part) for part in np.split(array, count, axis=axis)]


def split_linear(packed: Any, parts: tuple[int, ...], count: int, axis: int) -> list[Any]:
    """A packed weight's outputs (-2) or inputs (-1), in groups of `parts`, for every rank."""
    weight = unpack_linear(packed)
    groups = np.split(weight, np.cumsum(parts)[:-1], axis=axis)
    pieces = [np.split(group, count, axis=axis) for group in groups]
    whole = [np.concatenate([group[rank] for group in pieces], axis) for rank in range(count)]
    return [np.ascontiguousarray(pack_linear(one)) for one in whole]


def shard(arguments: Mapping[str, Any], count: int) -> list[Arrays]:
    """What each of `count` ranks is given of a one-rank model's arguments."""
    heads, kv = arguments["w_o"].shape[2], arguments["k_cache"].shape[1]
    head_dim, width = arguments["q_norm"].shape[1], arguments["w_gate_up"].shape[-1] // 2
    qkv = (heads * head_dim, kv * head_dim, kv * head_dim)
    pieces = {
        "w_qkv": split_linear(arguments["w_qkv"], qkv, count, -2),
        "w_gate_up": split_linear(arguments["w_gate_up"], (width, width), count, -2),
        "w_down": split_linear(arguments["w_down"], (width,), count, -1),
        "w_o": split(arguments["w_o"], count, 2),
        "k_cache": split(arguments["k_cache"], count, 1),
        "v_cache": split(arguments["v_cache"], count, 1),
    }
    return [
        dict(arguments) | {name: parts[rank] for name, parts in pieces.items()}
        for rank in range(count)
    ]


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(("dtype", "rounding"), [("float32", "fused"), ("bfloat16", "fused"),
                                                 ("bfloat16", "stepwise")])  # fmt: skip
def test_ranks_give_what_one_rank_gives(count: int, cores: int, dtype: str, rounding: str) -> None:
    arguments = STACK.inputs(TINY, dtype) | {"rounding": rounding}
    group = ReplicaGroup([list(range(count))])
    shards = [one | {"group": group} for one in shard(arguments, count)]
    results = ranks.run(nki_decoder_stack_ranks_kernel[cores], ranks=count, arguments=shards)
    hidden, keys, values = reference.decoder_stack(**arguments)
    tolerance = STACK.tolerances[dtype]
    # Stepwise, every rank rounds its part of a sum to the dtype.
    more = 4.0 if rounding == "stepwise" else 1.0
    gathered = (
        (results[0][0], hidden),
        (np.concatenate([result[1] for result in results], axis=1), keys),
        (np.concatenate([result[2] for result in results], axis=1), values),
    )
    for actual, expected in gathered:
        error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
        allowed = tolerance.atol + tolerance.rtol * np.abs(expected.astype(np.float64))
        assert np.all(error <= more * allowed)
    for result in results[1:]:
        assert result[0].tobytes() == results[0][0].tobytes()


def test_a_rank_left_out_shows() -> None:
    arguments = STACK.inputs(TINY, "float32")
    alone = [one | {"group": ReplicaGroup([[0], [1]])} for one in shard(arguments, 2)]
    results = ranks.run(nki_decoder_stack_ranks_kernel, ranks=2, arguments=alone)
    hidden = reference.decoder_stack(**arguments)[0]
    assert np.max(np.abs(results[0][0] - hidden)) > 0.1


@pytest.mark.parametrize("name", ["qkv_decode", "attention_decode", "output_projection_decode",
                                  "decoder_stack"])  # fmt: skip
@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_the_cores_matters(name: str, seed: int) -> None:
    spec = SPECS[name]
    case = [case for case in spec.cases if case.kind == "model"][-1]
    first = spec.load()[2](**spec.inputs(case, "bfloat16"))
    with shuffled(seed):
        again = spec.load()[2](**spec.inputs(case, "bfloat16"))
    for one, other in zip(first, again, strict=True):
        assert one.tobytes() == other.tobytes()


def test_without_the_barrier_the_caches_update_is_a_race(monkeypatch: pytest.MonkeyPatch) -> None:
    import nki.isa as nisa

    spec = SPECS["attention_decode"]
    arguments = spec.inputs(spec.cases[0], "bfloat16")
    monkeypatch.setattr(nisa, "core_barrier", lambda data, cores: None)
    with pytest.raises(IllegalProgram, match="ordered by a rendezvous"):
        nki_attention_decode_kernel[2](**arguments)


@pytest.mark.parametrize("cores", [1, 2])
def test_the_caller_may_update_the_cache(cores: int) -> None:
    spec = SPECS["attention_decode"]
    arguments = spec.inputs(spec.cases[0], "bfloat16") | {"update_cache": False}
    before = {name: arguments[name].copy() for name in spec.updates}
    attended = nki_attention_decode_kernel[cores](**arguments)
    for name, array in before.items():
        assert arguments[name].tobytes() == array.tobytes()
    both = nki_attention_decode_kernel[cores](**arguments | {"update_cache": True})
    assert both[0].tobytes() == attended.tobytes()


@pytest.mark.parametrize("platform", ["trn2", "trn3"])
@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [(8, 1, 192), (16, 2, 384)], ids=["TP 4", "TP 2"])
def test_layers_fit_on_chip(
    platform: str,
    cores: int,
    dtype: str,
    rank: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", platform)
    heads, kv_heads, width = rank
    arguments = hollow(stack_shapes(3, 8, 2048, heads, kv_heads, 128, 640, 128, width), dtype)
    with nki_sim.mode("shapes"), nki_sim.record() as recording:
        nki_decoder_stack_kernel[cores](**arguments)
    peak = recording.launches[0].sbuf_peak_bytes_per_partition
    assert peak > 100_000
    assert peak < 200_000 or heads > 8, "the rest is for what the compiler itself needs"


def hollow(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Arrays:
    """Arguments of these shapes that take no memory."""
    arrays = {
        name: np.broadcast_to(np.zeros((), DTYPES[dtype]), shape) for name, shape in shapes.items()
    }
    position = np.zeros((1, 1), np.int32)
    return arrays | {"position": position, "eps": 1e-6, "rounding": "fused"}


def test_weights_come_in_as_early_as_they_fit() -> None:
    assert plan_loads(80_000, 20_480) == (True, WEIGHT_ROOM - 80_000)
    assert not plan_loads(160_000, 40_960)[0]
    with pytest.raises(AssertionError, match="more ranks"):
        plan_loads(300_000, 147_456)


def test_only_the_ranks_kernel_needs_a_later_release() -> None:
    findings = lint.check(nki_decoder_stack_ranks_kernel, ["2.27"])
    assert any("collectives" in str(finding) for finding in findings)
    assert not lint.check(nki_decoder_stack_ranks_kernel, ["2.28", "2.29", "2.32"])
    assert not lint.check(nki_decoder_stack_kernel, lint.VERSIONS)


@pytest.mark.parametrize("fault", ["experts rotated", "gate and up swapped", "norms swapped"])
def test_weights_in_another_order_show(fault: str) -> None:
    """Faults of loading: the hidden states move by more than 10 times what is allowed."""
    case = replace(TINY, scalars={"rounding": "fused"})
    arguments = STACK.inputs(case, "float32")
    expected = reference.decoder_stack(**STACK.inputs(case, "float32"))[0]
    faulty = {
        "experts rotated": lambda a: a | {"w_down": np.roll(a["w_down"], 1, axis=1).copy()},
        "gate and up swapped": lambda a: (
            a
            | {"w_gate_up": np.roll(a["w_gate_up"], a["w_gate_up"].shape[-1] // 2, axis=-1).copy()}
        ),
        "norms swapped": lambda a: a | {"q_norm": a["k_norm"], "k_norm": a["q_norm"]},
    }[fault](arguments)
    actual = nki_decoder_stack_kernel(**faulty)[0]
    assert np.max(np.abs(actual - expected)) > 1e-3
