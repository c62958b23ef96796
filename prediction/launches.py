"""One tensor-parallel rank of a chip, and what its launches would take.

Kernels are traced on shapes, at the sizes of one rank of Qwen3-30B-A3B. What repeats is not traced
to the end: a stack of 48 layers is 4 layers and 11 times the difference between 8 and 4; the loop
over blocks of a prompt's experts likewise. Layers differ, because what is loaded ahead meets each
of them at another moment: `layers.extrapolation` is the error that was found. Ranks do the same at
the same time, so that one is traced, and a collective costs it what it costs each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

import nki_sim
from evaluation.shapes import QWEN3_30B_A3B, Architecture, Trace, decoder_shapes
from evaluation.tracing import hollow
from kernels.nki_token_grouping import block_slots
from kernels.specs import SPECS
from kernels.variants import TUNED
from model.plan import BUCKETS
from nki_sim import ranks
from nki_sim.latency import Prediction, Range, load, predict
from nki_sim.latency.hardware import SCENARIOS, Values, read
from prediction.costs import Cost, extrapolated

MODEL = "Qwen/Qwen3-30B-A3B"
DTYPE = "bfloat16"
RANKS = 4
CORES = 2
"""Physical cores of a rank (LNC 2)."""

LAYERS = 4, 8
"""Layers of the traced stacks."""
PASSES = 4, 8
"""Of the loop over experts' blocks, which are traced."""
ROUTING_SEED = 0
ELEMENTWISE = ("vector", "scalar", "gpsimd")

SCALARS: dict[str, dict[str, int]] = {"attention_decode": {"update_cache": False}}
"""What NxD Inference's model passes besides tensors: its KV manager writes the caches."""

ASSUMPTIONS = read(Path(__file__).with_name("assumptions.yaml"))


class Rank:
    """A rank on a platform, ``trn2`` or ``trn3``, which NEURON_PLATFORM_TARGET_OVERRIDE names, too.

    Attributes:
        model: the whole model's dimensions.
        part: those of the rank's part.
    """

    def __init__(self, platform: str, model: Architecture = QWEN3_30B_A3B) -> None:
        self.hardware = load(platform)
        self.platform = platform
        self.model, self.part = model, model.of_rank(RANKS)
        self.scenarios = {
            name: {**self.hardware.values(name), **ASSUMPTIONS.values(name)} for name in SCENARIOS
        }
        self.prediction = cache(self._prediction)

    def formula(self, time_ns: Callable[[Values], float]) -> Cost:
        """A cost by a formula over the constants."""
        ends = (time_ns(self.scenarios[name]) / 1e3 for name in SCENARIOS)
        return Cost(Range.of(*ends))

    def kernel(self, name: str, tokens: int, capacity: int) -> Cost:
        """A kernel of the packed paths for `tokens` tokens over a cache of `capacity`."""
        return cost(self.prediction(name, tokens, capacity))

    def _prediction(
        self,
        name: str,
        tokens: int,
        capacity: int,
        layers: int = 1,
        passes: int = 1,
        summed: bool = False,
    ) -> Prediction:
        """What a launch would take; a stack of `layers` sums over the ranks if it is `summed`."""
        part = replace(self.part, layers=layers)
        scalars = {"kv_heads": part.kv_heads} if name.startswith("qkv") else SCALARS.get(name, {})
        shapes = decoder_shapes(part, name, tokens, capacity)
        arguments = hollow(SPECS[name], Trace(name, "", tokens, shapes, scalars), DTYPE)
        kernel = SPECS[name].load()
        with nki_sim.mode("shapes", passes=passes), nki_sim.record() as recording:
            if summed:
                _launch_as_a_rank(arguments)
            else:
                kernel[CORES](**arguments)
        return predict(recording.launches[0], self.hardware)

    def stack(self, summed: bool) -> Cost:
        """All layers of a decode step in one launch, with the sums over the ranks or without.

        The cache is that of the largest bucket, which is less than a hundredth of what is read.
        """
        few, many = LAYERS
        short, long = (
            cost(self.prediction("decoder_stack", 1, BUCKETS[-1], layers, summed=summed))
            for layers in LAYERS
        )
        whole = extrapolated(short, long, few, many, self.model.layers)
        error = ASSUMPTIONS.constants["layers.extrapolation"]
        time = whole.time_us
        time = Range(time.low * error.fastest, time.nominal, time.high * error.slowest)
        return replace(whole, time_us=time, launches=1)

    def experts_prefill(self, bucket: int, tokens: int) -> Cost:
        """The experts of one layer for a prompt of `tokens` in a bucket, routed uniformly."""
        few, many = PASSES
        short, long = (
            cost(self.prediction("experts_prefill", bucket, bucket, passes=passes))
            for passes in PASSES
        )
        count = rounds(blocks(bucket, tokens, self.model))
        return replace(extrapolated(short, long, few, many, count), launches=1)


def _launch_as_a_rank(arguments: dict[str, object]) -> None:
    """The stack that sums over ranks, on a rank that is its own group."""
    import nki.collectives as ncc

    from kernels.nki_decode_ranks_kernels import nki_decoder_stack_ranks_kernel

    group = ncc.ReplicaGroup([[0]])
    ranks.run(
        nki_decoder_stack_ranks_kernel[CORES], ranks=1, arguments=[{**arguments, "group": group}]
    )


def cost(prediction: Prediction) -> Cost:
    """A prediction as a cost."""
    events = prediction.plan.events
    hbm_us = prediction.timing.busy.get("HBM", 0.0) / 1e3
    macs = sum(event.macs for event in events)
    elements = sum(event.elements for event in events if event.engine in ELEMENTWISE)
    return Cost(prediction.time_us, hbm_us, _hbm_bytes(prediction), macs, elements, 1)


def _hbm_bytes(prediction: Prediction) -> int:
    plan = prediction.plan
    return sum(getattr(plan.task(number), "hbm_bytes", 0) for number in range(len(plan.events)))


def blocks(bucket: int, tokens: int, model: Architecture) -> int:
    """Blocks of one expert each that `tokens` tokens fill, routed uniformly at random.

    That is nearly the most experts that a prompt can choose, and so nearly the slowest routing.
    """
    rng = np.random.default_rng(ROUTING_SEED)
    order = np.argsort(rng.random((tokens, model.experts)), axis=1)
    loads = np.bincount(order[:, : model.experts_per_token].ravel(), minlength=model.experts)
    slots = block_slots(bucket, model.experts)
    return int(np.sum(-(-loads // slots)))


def rounds(count: int) -> int:
    """Passes of the loop over blocks, of which each has one per buffer on every core."""
    buffers = TUNED["experts_prefill"].defaults["buffers"]
    assert isinstance(buffers, int)
    return -(-count // (buffers * CORES))
