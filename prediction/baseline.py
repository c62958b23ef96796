"""The stock model's prompt: experts in padded blocks, by the least time that the chip allows.

Its blocks hold 512 rows of one expert each, and as many of them are computed as any routing may
need. Nothing is known of how well the compiler's program for a block does, so that this is a bound
from counts alone: products at the tensor engines' peak, or the blocks' weights at HBM's full rate,
whichever is longer, the other hidden behind it and all other traffic free. Whatever is not the
experts is taken from our own prompt. The real baseline is slower.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from prediction.costs import Cost, Term
from prediction.launches import CORES, DTYPE, Rank
from prediction.steps import ELEMENT_BYTES, Step

BLOCK_ROWS = 512
"""Rows of a block in NxD Inference's default configuration."""
ARRAY = 128 * 128
"""Multipliers of a tensor engine, of which each makes a product per cycle in bfloat16."""


@dataclass(frozen=True)
class PaddedExperts:
    """The experts of one layer on one rank: counts, and the two bounds."""

    blocks: int
    macs: int
    weight_bytes: int
    tensor_us: float
    hbm_us: float


def padded_experts(rank: Rank, bucket: int) -> PaddedExperts:
    """Blocks of `BLOCK_ROWS` rows for all tokens of a bucket."""
    part = rank.part
    pairs = bucket * part.experts_per_token
    blocks = -(-(pairs - (part.experts - 1)) // BLOCK_ROWS) + part.experts - 1
    weights = 3 * part.hidden * part.expert_hidden
    macs, moved = blocks * BLOCK_ROWS * weights, blocks * weights * ELEMENT_BYTES
    values = rank.hardware.values()
    return PaddedExperts(
        blocks,
        macs,
        moved,
        macs / (CORES * ARRAY * values["tensor.clock"]) / 1e3,
        moved / values["memory.hbm_rate"] / 1e3,
    )


def padded_prefill(rank: Rank, ours: Step) -> Step:
    """Our prompt with padded experts in the place of its own."""
    experts = padded_experts(rank, ours.bucket)
    layers = rank.model.layers
    least = Cost(
        rank.formula(lambda _: 1e3 * layers * max(experts.tensor_us, experts.hbm_us)).time_us,
        layers * min(experts.hbm_us, max(experts.tensor_us, experts.hbm_us)),
        layers * experts.weight_bytes,
        layers * experts.macs,
    )
    what = f"{experts.blocks} padded blocks of {BLOCK_ROWS} rows per layer, at the least, {DTYPE}"
    terms = [
        Term(term.name, what, least) if term.name == "experts" else term for term in ours.terms
    ]
    return replace(ours, terms=terms)
