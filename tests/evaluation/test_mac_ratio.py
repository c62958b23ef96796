"""The challenge's NKI ratio and the honest one, on counts that were worked out by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evaluation import hlo, mac_ratio
from evaluation.hlo import Call, GraphMacs, HloError
from evaluation.mac_ratio import DECODE, PREFILL, Bucket, Model

GRAPHS = Path(__file__).with_name("hlo")
LENGTHS = {PREFILL: [128, 256, 640], DECODE: [128, 256, 640]}
QWEN = {
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "vocab_size": 151936,
}
RANK = Model.of_rank(QWEN, 4)
# Multiply-accumulates of one layer of Qwen3-30B-A3B on one of four ranks, from its shapes.
EXPERTS, EVERYTHING_ELSE = 8 * 3 * 2048 * 192, 2048 * (2 * 1024 + 2 * 128) + 2048 * 128
LOGITS = 2048 * 37984


def graph(nki: int, dots: int) -> GraphMacs:
    return GraphMacs(dots, (Call("k", nki),) if nki else (), 0)


def attention(tokens: int, context: int) -> int:
    return tokens * 2 * 1024 * context


def prefill_macs(tokens: int) -> tuple[int, int]:
    """(experts, all the rest) of one prefill of all layers."""
    rest = tokens * EVERYTHING_ELSE + attention(tokens, tokens)
    return 48 * tokens * EXPERTS, 48 * rest + LOGITS


def decode_macs(context: int) -> tuple[int, int]:
    return 48 * EXPERTS, 48 * (EVERYTHING_ELSE + attention(1, context)) + LOGITS


def model_with(experts_in_nki: bool, padding: int = 1) -> list[Bucket]:
    """Qwen's graphs with its experts in kernels or not, and `padding` rows for each useful one."""
    buckets = []
    for tokens in LENGTHS[PREFILL]:
        experts, rest = prefill_macs(tokens)
        experts *= padding
        macs = graph(experts, rest) if experts_in_nki else graph(0, experts + rest)
        buckets.append(Bucket(PREFILL, tokens, macs))
        experts, rest = decode_macs(tokens)
        macs = graph(experts, rest) if experts_in_nki else graph(0, experts + rest)
        buckets.append(Bucket(DECODE, tokens, macs))
    return buckets


def test_the_challenge_s_ratio_of_a_compiler_s_graphs() -> None:
    buckets = [
        Bucket(PREFILL, 128, hlo.count_file(GRAPHS / "prefill.pb")),
        Bucket(DECODE, 128, hlo.count_file(GRAPHS / "decode.pb")),
    ]
    assert mac_ratio.challenge_ratio(buckets) == 65536 / (65536 + 65536 + 1248)


def test_the_challenge_reads_the_shortest_bucket_of_both_graphs() -> None:
    longer = [Bucket(PREFILL, 640, graph(10**9, 1)), Bucket(DECODE, 256, graph(10**9, 1))]
    first = [Bucket(PREFILL, 128, graph(30, 50)), Bucket(DECODE, 128, graph(15, 5))]
    assert mac_ratio.challenge_ratio([*longer, *first]) == 45 / 100


def test_the_challenge_s_ratio_rewards_padding() -> None:
    """64.5 rows for each useful one is what blocks of 512 rows make of 128 tokens."""
    unpadded = mac_ratio.challenge_ratio(model_with(experts_in_nki=True))
    padded = mac_ratio.challenge_ratio(model_with(experts_in_nki=True, padding=64))
    assert unpadded == pytest.approx(0.64, abs=0.005)
    assert padded == pytest.approx(0.991, abs=0.001)


@pytest.mark.parametrize("graphs, says", [
    ([], "no compiled graph context_encoding_model"),
    ([Bucket(PREFILL, 128, graph(1, 1))], "no compiled graph token_generation_model"),
    ([Bucket(PREFILL, 128, graph(0, 0)), Bucket(DECODE, 128, graph(0, 0))], "neither graph"),
])  # fmt: skip
def test_no_ratio_is_an_error_not_zero(graphs: list[Bucket], says: str) -> None:
    with pytest.raises(HloError, match=says):
        mac_ratio.challenge_ratio(graphs)


def test_one_rank_has_the_multiply_accumulates_of_its_shapes() -> None:
    assert RANK.useful_macs(1, 128) == sum(decode_macs(128))
    assert RANK.useful_macs(128, 128) == sum(prefill_macs(128))
    assert Model.of_rank(QWEN, 8).kv_heads == 1  # replicated


@pytest.mark.parametrize("tokens, bucket", [
    (1, 128), (127, 128), (128, 256), (255, 256), (256, 640), (639, 640), (640, 640),
])  # fmt: skip
def test_a_length_takes_the_first_longer_bucket(tokens: int, bucket: int) -> None:
    assert mac_ratio.fitting_bucket(tokens, [640, 128, 256]) == bucket


def test_a_length_beyond_the_buckets_is_an_error() -> None:
    with pytest.raises(ValueError, match="641 tokens fit none"):
        mac_ratio.fitting_bucket(641, LENGTHS[PREFILL])


def test_a_run_s_executions() -> None:
    runs = mac_ratio.executions(20, 620, LENGTHS)
    assert runs == Counter(
        {(PREFILL, 128): 1, (DECODE, 128): 108, (DECODE, 256): 128, (DECODE, 640): 383}
    )
    assert mac_ratio.executions(512, 128, LENGTHS) == Counter(
        {(PREFILL, 640): 1, (DECODE, 640): 127}
    )


def measured(buckets: list[Bucket], prompt: int = 20, new: int = 620) -> dict[str, Any]:
    return mac_ratio.measure(buckets, RANK, prompt, new)


def test_without_padding_both_bounds_are_the_experts_share() -> None:
    found = measured(model_with(experts_in_nki=True))
    assert found["useful_ratio_at_least"] == found["useful_ratio_at_most"]
    # Decode steps outweigh the prefill, and their logits are no kernel's.
    assert (
        0.5
        < found["useful_ratio_at_least"]
        < mac_ratio.challenge_ratio(model_with(experts_in_nki=True))
    )
    assert found["executed_macs"] > found["useful_macs"]  # 20 tokens in a bucket of 128


def test_padding_does_not_raise_the_honest_share() -> None:
    plain, padded = (measured(model_with(True, padding)) for padding in (1, 64))
    assert padded["challenge_ratio"] > plain["challenge_ratio"]
    assert padded["executed_ratio"] > plain["executed_ratio"]
    assert padded["useful_ratio_at_least"] == plain["useful_ratio_at_least"]
    assert padded["useful_macs"] == plain["useful_macs"]


def test_a_model_without_kernels_has_a_share_of_zero() -> None:
    found = measured(model_with(experts_in_nki=False))
    for ratio in ("challenge_ratio", "executed_ratio", "useful_ratio_at_most"):
        assert found[ratio] == 0.0


def test_executions_weigh_the_graphs() -> None:
    """Kernels in the decode alone are invisible to the challenge and most of the honest share."""
    prefill = [bucket for bucket in model_with(False, padding=64) if bucket.graph == PREFILL]
    decode = [bucket for bucket in model_with(True) if bucket.graph == DECODE]
    found = measured([*prefill, *decode])
    assert found["challenge_ratio"] < 0.001
    assert found["useful_ratio_at_least"] > 0.5
    assert sum(row["executions"] for row in found["graphs"]) == 1 + 619


def test_what_no_dot_and_no_kernel_accounts_for_is_not_claimed() -> None:
    """A graph that states less than the architecture demands, as one with a loop does."""
    few = [Bucket(g, n, graph(10, 10)) for g in LENGTHS for n in LENGTHS[g]]
    found = measured(few)
    assert found["useful_ratio_at_least"] == found["useful_ratio_at_most"] < 1e-6
    assert all(row["uncounted_macs"] > 0 for row in found["graphs"])


@pytest.mark.parametrize("dots", [1, 0])
def test_kernels_without_a_count_are_zero_for_the_challenge_and_unbounded_here(dots: int) -> None:
    """The challenge's figure is kept; nothing says that the kernels did little."""
    counted = model_with(experts_in_nki=True)
    silent = [
        Bucket(b.graph, b.tokens, GraphMacs(dots * b.macs.dot_macs, (Call("k", None),), 0))
        for b in counted
    ]
    found = mac_ratio.measure(silent, RANK, 20, 10)
    assert found["challenge_ratio"] == 0.0 and found["executed_ratio"] == 0.0
    assert (found["useful_ratio_at_least"], found["useful_ratio_at_most"]) == (0.0, 1.0)
    assert found["uncounted_calls"] == 10
    assert mac_ratio.measure(counted, RANK, 20, 10)["uncounted_calls"] == 0
