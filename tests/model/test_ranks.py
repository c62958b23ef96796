"""Tensor parallelism: 2 and 4 simulated ranks choose the tokens of one."""

from __future__ import annotations

from pathlib import Path

import nki.collectives as ncc
import numpy as np
import pytest
import torch

import nki_sim
from model import dispatch, tiny
from model.generation import Generation, generate_greedily
from model.layers import Launching
from model.packing import Shard
from model.plan import expected_launches
from model.qwen_cpu import load_rank

PROMPT = torch.arange(100, 120)
STEPS = 4


class Ranks:
    """A model on several ranks, which take every step together."""

    def __init__(self, checkpoint: Path, dtype: str, path: str, ranks: int) -> None:
        launching = Launching(group=ncc.ReplicaGroup([list(range(ranks))]))
        self.models = [
            load_rank(checkpoint, dtype, path, Shard(rank, ranks), launching)
            for rank in range(ranks)
        ]

    def prefill(self, input_ids: torch.Tensor, capacity: int) -> torch.Tensor:
        return self._together(lambda rank: self.models[rank].prefill(input_ids, capacity))

    def decode(self, token: int) -> torch.Tensor:
        return self._together(lambda rank: self.models[rank].decode(token))

    def _together(self, step) -> torch.Tensor:
        return torch.cat(nki_sim.ranks.run(step, ranks=len(self.models)))


@pytest.fixture(scope="module")
def single(checkpoint: Path, models) -> dict[str, Generation]:
    return {"float32": models["fused"].generate(PROMPT, STEPS)}


@pytest.mark.parametrize("path", ["fused", "layered"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_choose_the_tokens_of_one(checkpoint, single, path, ranks):
    actual = generate_greedily(Ranks(checkpoint, "float32", path, ranks), PROMPT, STEPS)
    assert actual.tokens.tolist() == single["float32"].tokens.tolist()
    assert np.abs(actual.logits - single["float32"].logits).max() < 5e-5


def test_ranks_in_bfloat16(checkpoint, reference):
    expected = reference.generate(PROMPT, STEPS)
    model = Ranks(checkpoint, "bfloat16", "layered", 4)
    actual = generate_greedily(model, PROMPT, STEPS, torch.from_numpy(expected.tokens))
    assert actual.tokens.tolist() == expected.tokens.tolist()
    assert np.abs(actual.logits - expected.logits).max() < 1.0


@pytest.mark.parametrize("path", ["fused", "layered"])
def test_launches_on_every_rank(checkpoint, path):
    model = Ranks(checkpoint, "float32", path, 2)
    with dispatch.counting() as prefill:
        model.prefill(PROMPT, 32)
    with dispatch.counting() as step:
        model.decode(3)
    for phase, counted in (("prefill", prefill), ("decode", step)):
        expected = expected_launches(tiny.CONFIG, phase, path, ranks=2)
        assert dict(counted) == {kernel: 2 * count for kernel, count in expected.items()}


def test_a_rank_that_does_not_sum_is_far_off(checkpoint, single):
    """The test has teeth: without the sums over ranks nothing is right."""
    lonely = load_rank(checkpoint, "float32", "layered", Shard(0, 2), Launching())
    logits = lonely.generate(PROMPT, 1).logits[0]
    assert np.abs(logits - single["float32"].logits[0, : len(logits)]).max() > 1.0


@pytest.mark.parametrize(
    ("path", "ranks", "message"),
    [("layered", 3, "num_attention_heads 8 is no multiple of 3"), ("rows", 2, "runs on one rank")],
)
def test_what_cannot_be_split_is_refused(checkpoint, path, ranks, message):
    with pytest.raises(ValueError, match=message):
        load_rank(checkpoint, "float32", path, Shard(0, ranks), Launching())
