"""The share of NKI kernels in the multiply-accumulates: the challenge's figure, and an honest one.

The challenge reads the first bucket of both graphs and adds them up once each. That counts padding
(blocks of experts filled with rows of nothing) as work, and a prefill as much as a decode step,
which runs hundreds of times. Beside it stand: the same quotient over every execution of a run, in
whatever bucket it fell, and bounds for the share of the model's own multiply-accumulates, those
that its architecture demands, that kernels carry out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.hlo import GraphMacs, HloError

PREFILL, DECODE = GRAPHS = ("context_encoding_model", "token_generation_model")
"""The two graphs by the names that NxD Inference gives them."""


@dataclass(frozen=True)
class Bucket:
    """One compiled graph: which of the two, its length in tokens, and what it computes."""

    graph: str
    tokens: int
    macs: GraphMacs


@dataclass(frozen=True)
class Model:
    """What of a checkpoint's config.json decides the multiply-accumulates of one rank.

    Heads, experts' widths and the vocabulary are the rank's; every rank has the whole router.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    experts_per_token: int
    expert_hidden: int
    vocabulary: int

    @classmethod
    def of_rank(cls, config: Mapping[str, Any], tp_degree: int) -> Model:
        """Read config.json, for one of `tp_degree` ranks; what does not divide is rounded up."""

        def share(size: int) -> int:
            return -(-size // tp_degree)

        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=share(config["num_attention_heads"]),
            kv_heads=share(config["num_key_value_heads"]),  # replicated where there are fewer
            head_dim=config["head_dim"],
            experts=config["num_experts"],
            experts_per_token=config["num_experts_per_tok"],
            expert_hidden=share(config["moe_intermediate_size"]),
            vocabulary=share(config["vocab_size"]),
        )

    def useful_macs(self, tokens: int, context: int) -> int:
        """Return what `tokens` new tokens that attend to `context` keys each demand.

        That is the projections, both products of the attention, the router, the chosen experts and
        the last token's logits. A causal mask saves nothing here: masked scores are counted.
        """
        width = self.heads * self.head_dim
        projections = self.hidden * (2 * width + 2 * self.kv_heads * self.head_dim)
        attention = 2 * width * context
        router = self.hidden * self.experts
        experts = self.experts_per_token * 3 * self.hidden * self.expert_hidden
        layer = projections + attention + router + experts
        return tokens * self.layers * layer + self.hidden * self.vocabulary


def challenge_ratio(buckets: Sequence[Bucket]) -> float:
    """Return the challenge's NKI ratio: the shortest bucket of both graphs, each once.

    HloError where a graph is missing, or where nothing is multiplied (the challenge says 0 then)
    although every kernel states its count.
    """
    first = [_shortest(buckets, graph).macs for graph in GRAPHS]
    total = sum(macs.total_macs for macs in first)
    if total == 0 and any(macs.uncounted_calls for macs in first):
        return 0.0
    if total == 0:
        raise HloError("neither graph holds a dot or a kernel with multiply-accumulates")
    return sum(macs.nki_macs for macs in first) / total


def executions(
    prompt_tokens: int, new_tokens: int, buckets: Mapping[str, Sequence[int]]
) -> Counter[tuple[str, int]]:
    """Return how often each (graph, bucket) runs while `new_tokens` follow a prompt.

    NxD Inference takes the first bucket that is longer than what is there, or else the longest. A
    decode step finds the prompt and the tokens decoded before it.
    """
    runs: Counter[tuple[str, int]] = Counter()
    runs[PREFILL, fitting_bucket(prompt_tokens, buckets[PREFILL])] += 1
    for step in range(new_tokens - 1):
        runs[DECODE, fitting_bucket(prompt_tokens + step, buckets[DECODE])] += 1
    return runs


def fitting_bucket(tokens: int, buckets: Sequence[int]) -> int:
    """Return the bucket that NxD Inference runs `tokens` in; ValueError if none is long enough."""
    for bucket in sorted(buckets):
        if tokens < bucket:
            return bucket
    if tokens == max(buckets):
        return tokens
    raise ValueError(f"{tokens} tokens fit none of the buckets {sorted(buckets)}")


def measure(
    buckets: Sequence[Bucket], model: Model, prompt_tokens: int, new_tokens: int
) -> dict[str, Any]:
    """Return both ratios for a run of one prompt, with what they are made of.

    `useful_ratio_at_least` and `_at_most` bound the share of the demanded multiply-accumulates that
    kernels carry out: no more than they state, no less than what the dots beside them leave over.
    They differ where the graph pads. What neither accounts for is `uncounted_macs` and no kernel's,
    unless kernels of the graph state no count: `uncounted_calls` of the run, which the other ratios
    take for 0, and of which nothing bounds the share from above.
    """
    by_length = {(bucket.graph, bucket.tokens): bucket for bucket in buckets}
    lengths = {g: [b.tokens for b in buckets if b.graph == g] for g in GRAPHS}
    for graph in GRAPHS:
        _shortest(buckets, graph)
    runs = executions(prompt_tokens, new_tokens, lengths)
    useful = _useful_by_bucket(model, prompt_tokens, new_tokens, lengths)
    rows = [_row(by_length[key], model, count, useful[key]) for key, count in sorted(runs.items())]
    executed = sum(row["executions"] * (row["dot_macs"] + row["nki_macs"]) for row in rows)
    in_kernels = sum(row["executions"] * row["nki_macs"] for row in rows)
    demanded = sum(useful.values())
    return {
        "basis": "counted",
        "challenge_ratio": challenge_ratio(buckets),
        "executed_ratio": in_kernels / executed if executed else 0.0,
        "useful_ratio_at_least": _mean(rows, "at_least", demanded),
        "useful_ratio_at_most": _mean(rows, "at_most", demanded),
        "executed_macs": executed,
        "useful_macs": demanded,
        "uncounted_calls": sum(row["executions"] * row["uncounted_calls"] for row in rows),
        "graphs": rows,
    }


def _row(bucket: Bucket, model: Model, count: int, useful: int) -> dict[str, Any]:
    """Describe one graph: its executions, its counts, and the bounds of the kernels' useful share.

    The bounds compare with what the architecture demands at the bucket's own length, so that rows
    which only fill the bucket weigh dots and kernels alike.
    """
    new_tokens = bucket.tokens if bucket.graph == PREFILL else 1
    demanded = model.useful_macs(new_tokens, bucket.tokens)
    dots, kernels = bucket.macs.dot_macs, bucket.macs.nki_macs
    uncounted = bucket.macs.uncounted_calls
    at_most = demanded if uncounted else min(kernels, demanded)
    at_least = min(kernels, at_most, max(0, demanded - dots))
    return {
        "graph": bucket.graph,
        "bucket_tokens": bucket.tokens,
        "executions": count,
        "dot_macs": dots,
        "nki_macs": kernels,
        "nki_calls": len(bucket.macs.calls),
        "uncounted_calls": uncounted,
        "loops_counted_once": bucket.macs.loops,
        "demanded_macs": demanded,
        "uncounted_macs": max(0, demanded - dots - kernels),
        "useful_macs": useful,
        "at_least": at_least / demanded,
        "at_most": at_most / demanded,
    }


def _mean(rows: Sequence[Mapping[str, Any]], bound: str, demanded: int) -> float:
    """Return the mean of a bound over all executions, weighted by their useful work."""
    return float(sum(row[bound] * row["useful_macs"] for row in rows) / demanded)


def _useful_by_bucket(
    model: Model, prompt_tokens: int, new_tokens: int, lengths: Mapping[str, Sequence[int]]
) -> Counter[tuple[str, int]]:
    """Return the demanded multiply-accumulates of a run, without any padding, by bucket."""
    useful: Counter[tuple[str, int]] = Counter()
    prefill = (PREFILL, fitting_bucket(prompt_tokens, lengths[PREFILL]))
    useful[prefill] += model.useful_macs(prompt_tokens, prompt_tokens)
    for step in range(new_tokens - 1):
        there = prompt_tokens + step
        decode = (DECODE, fitting_bucket(there, lengths[DECODE]))
        useful[decode] += model.useful_macs(1, there + 1)
    return useful


def _shortest(buckets: Sequence[Bucket], graph: str) -> Bucket:
    found = [bucket for bucket in buckets if bucket.graph == graph]
    if not found:
        raise HloError(f"there is no compiled graph {graph}")
    return min(found, key=lambda bucket: bucket.tokens)
