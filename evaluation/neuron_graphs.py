"""What the compiled graphs of a device tell of a run: kernels launched, the NKI ratio, fallbacks.

Every execution of a graph runs the custom calls in it, and lengths alone decide which graph runs.
So the launches of a run follow from the graphs, exactly, though nothing on the device counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation import mac_ratio, sdk
from evaluation.mac_ratio import DECODE, PREFILL, Bucket

SOURCE = "custom calls of the compiled graphs"


@dataclass(frozen=True)
class CompiledGraphs:
    """The counted graphs of an artefact, the checkpoint's config.json, the ranks, the fallbacks."""

    buckets: Sequence[Bucket]
    config: Mapping[str, Any]
    tp_degree: int
    fallbacks: Sequence[Mapping[str, str]]

    def describe(self, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
        """Return what an evaluation of a prompt records of its graphs and its device."""
        rank = mac_ratio.Model.of_rank(self.config, self.tp_degree)
        versions = sdk.installed()
        return {
            "launches": self._launches(prompt_tokens),
            "fallbacks": [dict(entry) for entry in self.fallbacks],
            "mac_ratio": mac_ratio.measure(self.buckets, rank, prompt_tokens, new_tokens),
            "device": {
                "instance_type": sdk.instance_type(),
                "neuron_devices": sdk.devices(),
                "tp_degree": self.tp_degree,
                "sdk_release": sdk.release_of(versions),
                "sdk": versions,
            },
        }

    def _launches(self, prompt_tokens: int) -> dict[str, Any]:
        """Return the launches of one prefill and of the first decode step, by kernel."""
        phases = {"prefill": PREFILL, "decode_step": DECODE}
        return {"source": SOURCE} | {
            phase: self._kernels_of(graph, prompt_tokens) for phase, graph in phases.items()
        }

    def _kernels_of(self, graph: str, tokens: int) -> dict[str, int]:
        lengths = [bucket.tokens for bucket in self.buckets if bucket.graph == graph]
        length = mac_ratio.fitting_bucket(tokens, lengths)
        calls = [
            call.kernel
            for bucket in self.buckets
            if bucket.graph == graph and bucket.tokens == length
            for call in bucket.macs.calls
        ]
        return dict(sorted(Counter(_own_name(name) for name in calls).items()))


def _own_name(function: str) -> str:
    """Return the name of the kernel whose function this is; a foreign function keeps its name."""
    from kernels.specs import SPECS

    bare = function.rpartition(".")[2]
    own = {spec.function: spec.name for spec in SPECS.values()}
    return own.get(bare, function)
