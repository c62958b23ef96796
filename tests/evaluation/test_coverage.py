"""MACs by formula against those that torch counts in the baseline's graph, and shares of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from evaluation.coverage import LAYER_OPERATIONS, OPERATIONS, coverage, covered_by, useful_macs
from evaluation.shapes import QWEN3_30B_A3B, Architecture
from kernels.specs import SPECS
from model.tiny import CONFIG

TINY = Architecture.from_config(CONFIG)


def counted_in_the_graph(tokens: int, seen: int) -> int:
    """MACs of transformers' model for `tokens` behind `seen`, rotary angles left out."""
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**CONFIG, attn_implementation="eager")).eval()
    cache = None
    with torch.inference_mode():
        if seen:
            ids = torch.arange(seen)[None]
            cache = model(ids, use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            ids = torch.arange(tokens)[None]
            model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    angles = tokens * CONFIG["head_dim"] // 2  # inverse frequencies times positions, a product
    return counter.get_total_flops() // 2 - angles


def with_every_score(tokens: int, seen: int) -> int:
    """The formula, but with the scores of tokens yet to come, which the graph masks afterwards."""
    useful = useful_macs(TINY, tokens, seen)
    pairs = tokens * (tokens + seen)
    attention = TINY.layers * 2 * pairs * TINY.heads * TINY.head_dim
    return sum(useful.values()) - useful["attention"] + attention


@pytest.mark.parametrize(("tokens", "seen"), [(1, 0), (24, 0), (1, 24), (5, 11)])
def test_the_formula_is_the_graphs(tokens, seen):
    assert with_every_score(tokens, seen) == counted_in_the_graph(tokens, seen)


def test_the_true_models_step():
    """About 3.3 G parameters are active in a token, of which the embedding has no product."""
    macs = useful_macs(QWEN3_30B_A3B, 1, 639)
    assert 2.9e9 < sum(macs.values()) - macs["attention"] < 3.4e9
    ranks = [useful_macs(QWEN3_30B_A3B.of_rank(4), 1, 639)[name] for name in ("qkv", "experts")]
    assert [4 * part for part in ranks] == [macs["qkv"], macs["experts"]]


def test_every_product_is_some_kernels():
    for path in (("decoder_stack", "lm_head"), tuple(SPECS)):
        assert {operation for kernel in path for operation in covered_by(kernel)} == set(OPERATIONS)
    assert covered_by("rmsnorm") == covered_by("top8") == ()
    assert covered_by("router_prefill") == ("router",)
    assert covered_by("decoder_stack") == LAYER_OPERATIONS


def test_shares():
    useful = useful_macs(TINY, 10)
    whole = coverage(useful, {f"{n}_prefill": 3 * useful[n] for n in LAYER_OPERATIONS}, 10, 128)
    assert whole["useful_share_of_layers"] == 1.0
    assert whole["useful_share"] == 1 - useful["lm_head"] / sum(useful.values())
    assert whole["overhead"] == 3.0
    issued = 3 * (sum(useful.values()) - useful["lm_head"])
    assert whole["issued_share"] == issued / (issued + useful["lm_head"])
    nothing = coverage(useful, {}, 10, 10)
    assert nothing["useful_share"] == nothing["issued_share"] == 0 and nothing["overhead"] is None


def test_what_stays_outside_is_padded_too():
    useful = useful_macs(TINY, 10)
    partly = coverage(useful, {"lm_head": useful["lm_head"]}, 10, 20)
    outside = sum(2 * useful[name] for name in LAYER_OPERATIONS)
    assert partly["issued_share"] == useful["lm_head"] / (useful["lm_head"] + outside)


def test_of_rank_divides_what_is_split():
    rank = QWEN3_30B_A3B.of_rank(4)
    assert rank == replace(QWEN3_30B_A3B, heads=8, kv_heads=1, expert_hidden=192, vocabulary=37984)
