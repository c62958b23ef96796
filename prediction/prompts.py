"""The challenge's figures for its five prompts, from modelled steps.

A run encodes the prompt in its bucket, which gives the first token, and takes a step for each other
one until prompt and output fill the sequence. Latency is that of the whole run; of 20 modelled runs
the 99th percentile is the mean, so that throughput is the sequence's length over it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from evaluation.coverage import PHASES, covered_by, useful_macs
from evaluation.scoring import Baselines, Measurement, PromptBaseline, score
from evaluation.shapes import Architecture
from model.plan import BUCKETS, Phase, bucket_of, kernels_of
from nki_sim.latency import Range
from prediction.costs import ZERO
from prediction.steps import Step

PROMPT_TOKENS = (20, 192, 54, 14, 512)
"""Tokens of the organisers' prompts by Qwen3's tokenizer, in the order of their file."""

SEQUENCE_LENGTH = BUCKETS[-1]
"""Tokens of prompt and output, which the challenge's driver always fills."""

ACCURACY = 1.0
"""What a score takes for accuracy; whether it is so is measured elsewhere."""


def prompt_figures(
    prompt_id: int, encoding: Step, steps: Sequence[Step], base: PromptBaseline, ratio: float
) -> dict[str, Any]:
    """One prompt's latency, throughput and score, for JSON."""
    tokens = PROMPT_TOKENS[prompt_id]
    counts = steps_by_bucket(tokens)
    generation = ZERO
    for step in steps:
        generation = generation + step.total_us * counts[step.bucket]
    latency_ms = (encoding.total_us + generation) * 1e-3
    throughput = _reversed(latency_ms, lambda ms: 1e3 * SEQUENCE_LENGTH / ms)
    scores = _reversed(
        latency_ms,
        lambda ms: score(Measurement(ms, 1e3 * SEQUENCE_LENGTH / ms, ACCURACY, ratio), base),
    )
    return {
        "prompt_id": prompt_id,
        "input_tokens": tokens,
        "output_tokens": SEQUENCE_LENGTH - tokens,
        "prefill_bucket": encoding.bucket,
        "decode_steps": {str(bucket): counts[bucket] for bucket in BUCKETS},
        "prefill_ms": (encoding.total_us * 1e-3).as_dict(),
        "decode_ms": (generation * 1e-3).as_dict(),
        "latency_ms": latency_ms.as_dict(),
        "throughput_tok_s": throughput.as_dict(),
        "nki_flops_ratio": ratio,
        "score": scores.as_dict(),
    }


def steps_by_bucket(tokens: int) -> Counter[int]:
    """How many decode steps behind a prompt see a cache of each bucket.

    The step that takes in position n needs a cache of n + 1 positions.
    """
    return Counter(bucket_of(n + 1) for n in range(tokens, SEQUENCE_LENGTH - 1))


def nki_flops_ratio(path: str, model: Architecture) -> float:
    """The share of multiply-accumulates in kernels, of a prompt's and a step's smallest graphs."""
    inside = outside = 0
    for phase, name in zip(_PHASES, PHASES, strict=True):
        covered = {product for kernel in kernels_of(path, phase) for product in covered_by(kernel)}
        tokens = BUCKETS[0] if name == "prefill" else 1
        for product, macs in useful_macs(model, tokens).items():
            inside += macs if product in covered else 0
            outside += 0 if product in covered else macs
    return inside / (inside + outside)


def baseline_intercept_ms(baselines: Baselines) -> float:
    """Of the published baseline, what a run takes beside its steps.

    The mean latency of its prompts grows with the number of steps; the line of least squares meets
    zero steps there. It holds the prompt, of whatever bucket, and what the host does once.
    """
    import numpy as np

    steps = [SEQUENCE_LENGTH - tokens - 1 for tokens in PROMPT_TOKENS]
    means = [
        1e3 * SEQUENCE_LENGTH / baselines.for_prompt(prompt).throughput_tok_s
        for prompt in range(len(PROMPT_TOKENS))
    ]
    return float(np.polyfit(steps, means, 1)[1])


_PHASES: tuple[Phase, ...] = ("prefill", "decode")


def _reversed(time: Range, figure: Any) -> Range:
    """A figure that falls as time grows."""
    return Range(figure(time.high), figure(time.nominal), figure(time.low))
