"""The graphs of the model on a rank: a decode step and a prompt, as terms that follow each other.

On two paths (`model.plan`): "layered" is what NxD Inference's model launches, five kernels per
layer, the framework's sums between them; "fused" is one kernel for all layers, with the sums inside
it. A prompt takes the same kernels on both. Both end in the LM head and the choice of a token.

Within a graph, kernels are taken to follow each other without overlap: what one of them could load
while the one before still computes is not counted. Not modelled are the compiler's own instructions
between kernels (tables of RoPE, padding, the residual of the last layer), instruction fetch and the
variation of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kernels.specs.base import DTYPES
from model.plan import BUCKETS, PER_LAYER
from nki_sim.latency import Range
from nki_sim.latency.hardware import Values
from prediction.costs import Cost, Term, total
from prediction.launches import CORES, DTYPE, RANKS, Rank

PATHS = ("layered", "fused")
HOST_TERMS = ("host_launch", "host_loop")
ELEMENT_BYTES = DTYPES[DTYPE].itemsize


@dataclass(frozen=True)
class Step:
    """A graph's terms, at a bucket: of a prompt's tokens, or of a cache's positions."""

    bucket: int
    terms: list[Term]

    @property
    def total_us(self) -> Range:
        """Of all terms."""
        return total(self.terms)

    @property
    def device_us(self) -> Range:
        """Of the terms that are the device's."""
        return total([term for term in self.terms if term.name not in HOST_TERMS])

    def cost(self, name: str) -> Cost:
        """A term's cost."""
        return next(term.cost for term in self.terms if term.name == name)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bucket": self.bucket,
            "terms": [term.as_dict() for term in self.terms],
            "device_us": self.device_us.as_dict(),
            "total_us": self.total_us.as_dict(),
        }


def decode_steps(rank: Rank, path: str) -> list[Step]:
    """A decode step on a path, for each bucket of the cache."""
    around = _embedding(rank, 1), _ending(rank)
    if path == "layered":
        return [
            Step(capacity, [around[0], *_layered_decode(rank, capacity), *around[1]])
            for capacity in BUCKETS
        ]
    layers = _fused_decode(rank)
    return [Step(capacity, [around[0], *layers, *around[1]]) for capacity in BUCKETS]


def prefill(rank: Rank, bucket: int, tokens: int) -> Step:
    """A prompt of `tokens` tokens, padded to its bucket."""
    layers = rank.model.layers
    terms = [
        Term(name, WHAT[name], rank.kernel(f"{name}_prefill", bucket, bucket) * layers)
        for name in PER_LAYER
        if name != "experts"
    ]
    experts = Term("experts", WHAT["experts"], rank.experts_prefill(bucket, tokens) * layers)
    sums = _framework(rank, bucket, launches=len(PER_LAYER) * layers)
    return Step(bucket, [_embedding(rank, bucket), *terms, experts, *sums, *_ending(rank)])


def _layered_decode(rank: Rank, capacity: int) -> list[Term]:
    layers = rank.model.layers
    terms = [
        Term(name, WHAT[name], rank.kernel(f"{name}_decode", 1, capacity) * layers)
        for name in PER_LAYER
    ]
    return [*terms, *_framework(rank, 1, launches=len(PER_LAYER) * layers)]


def _fused_decode(rank: Rank) -> list[Term]:
    """The layers, and by how much their sums over the ranks prolong them."""
    alone = rank.stack(summed=False)
    sums = rank.stack(summed=True) - alone
    return [
        Term("layers", WHAT["layers"], alone),
        Term("all_reduce", WHAT["all_reduce_inside"], Cost(sums.time_us)),
        Term("boundaries", WHAT["boundaries"], rank.formula(lambda v: v["semaphore.barrier"])),
    ]


def _framework(rank: Rank, tokens: int, launches: int) -> list[Term]:
    """What NxD Inference's graph has between the kernels of all layers."""
    layers, payload = rank.model.layers, tokens * rank.model.hidden * ELEMENT_BYTES
    return [
        Term(
            "all_reduce",
            WHAT["all_reduce"],
            rank.formula(lambda v: collective_ns(v, payload)) * (2 * layers),
        ),
        Term(
            "cache_update", WHAT["cache_update"], _hidden_at_best(rank.formula(_load_ns)) * layers
        ),
        Term(
            "boundaries",
            WHAT["boundaries"],
            rank.formula(lambda v: v["semaphore.barrier"]) * launches,
        ),
    ]


def _embedding(rank: Rank, tokens: int) -> Term:
    payload = tokens * rank.model.hidden * ELEMENT_BYTES
    cost = rank.formula(lambda v: _gather_ns(v) + collective_ns(v, payload))
    return Term("embedding", WHAT["embedding"], cost)


def _ending(rank: Rank) -> list[Term]:
    """What every graph ends in, and what starts it."""
    one = RANKS * ELEMENT_BYTES
    sampling = rank.formula(lambda v: collective_ns(v, one) + 2 * _load_ns(v))
    host = rank.formula(lambda v: v["launch.host"] * v["host.exposed"])
    loop = rank.formula(lambda v: v["host.loop"] * v["host.exposed"])
    return [
        Term("lm_head", WHAT["lm_head"], rank.kernel("lm_head", 1, BUCKETS[-1])),
        Term("sampling", WHAT["sampling"], sampling),
        Term("device_launch", WHAT["device_launch"], rank.formula(lambda v: v["launch.device"])),
        Term("host_launch", WHAT["host_launch"], host),
        Term("host_loop", WHAT["host_loop"], loop),
    ]


def collective_ns(values: Values, payload: float) -> float:
    """A collective of `payload` bytes per rank."""
    return values["collective.latency"] + payload / values["collective.rate"]


def _load_ns(values: Values) -> float:
    """A DMA of few bytes, from its trigger to its consumer."""
    return max(values["dma.hardware_issue"], values["dma.start"]) + values["dma.finish"]


def _gather_ns(values: Values) -> float:
    """As `_load_ns`, by an index."""
    return values["dma.software_issue"] + values["dma.start"] + values["dma.finish"]


def _hidden_at_best(cost: Cost) -> Cost:
    """The cost, which at best lies behind other work."""
    return Cost(Range(0.0, cost.time_us.nominal, cost.time_us.high))


WHAT = {
    "embedding": "a gather of the tokens' rows, and the sum of the ranks' parts",
    "layers": f"one launch for all layers on {CORES} cores; without the sums over the ranks",
    "qkv": "norm, projections, heads' norms and RoPE: a launch per layer",
    "attention": "attention: a launch per layer",
    "output_projection": "output projection: a launch per layer",
    "router": "norm and choice of 8 experts: a launch per layer",
    "experts": "the chosen experts: a launch per layer",
    "all_reduce": "two sums over the ranks per layer, by the framework; nothing overlaps them",
    "all_reduce_inside": "two sums over the ranks per layer, inside the launch: what they prolong "
    "it by, their DMAs and what waits for them",
    "cache_update": "the framework writes new keys and values, once per layer; at best unnoticed",
    "boundaries": "both cores meet before a kernel reads what the one before it has written",
    "lm_head": "final norm and this rank's part of the logits",
    "sampling": "the largest logit of all ranks: a collective and two small DMAs",
    "device_launch": "what the device adds when a graph starts and ends",
    "host_launch": "what the runtime adds to each launch of a graph",
    "host_loop": "what Python adds per step: the framework and the generation loop",
}
"""What each term is."""
