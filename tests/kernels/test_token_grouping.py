"""Tokens grouped by expert on chip: work follows the routing, and no routing is special."""

from __future__ import annotations

import numpy as np
import pytest

import nki_sim
from kernels import decoder_reference as reference
from kernels.specs import SPECS, Inputs
from test_nki_kernels import setup_module as setup_module

EXPERTS, HIDDEN, WIDTH = 128, 64, 8
FULL_BUCKETS = {128: 16, 256: 32, 640: 64}  # tokens: slots of a block
MOST_PADDED = 2.5  # products computed per useful one, at a full bucket and random routing


def inputs(chosen: np.ndarray, length: int, experts: int = EXPERTS) -> Inputs:
    """Arguments of the kernel with this routing [S, 8]."""
    rng = np.random.default_rng(len(chosen))
    tokens = len(chosen)
    normal = {
        "x": (tokens, HIDDEN),
        "w_gate_up": (experts, HIDDEN, 1, 2 * WIDTH),
        "w_down": (experts, WIDTH, 1, HIDDEN),
    }
    arrays: Inputs = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in normal.items()
    }
    arrays["weights"] = rng.random((tokens, 8)).astype(np.float32)
    arrays["experts"] = chosen.astype(np.uint32)
    arrays["length"] = np.array([[length]], dtype=np.int32)
    return arrays


def random_routing(tokens: int) -> np.ndarray:
    """Eight of 128 experts per token, all equally likely."""
    rng = np.random.default_rng(tokens)
    return np.argsort(rng.random((tokens, EXPERTS)), axis=1)[:, :8]


def products(chosen: np.ndarray, length: int, cores: int = 1) -> int:
    """Multiply-accumulates of the experts: what is counted, less what grouping alone takes."""
    kernel = SPECS["experts_prefill"].load()
    counted = []
    for tokens in (length, 0):
        with nki_sim.record() as recording:
            kernel[cores](**inputs(chosen, tokens))
        counted.append(int(recording.launches[0].summary()["macs"]))
    return counted[0] - counted[1]


def useful(tokens: int) -> int:
    return tokens * 8 * 3 * HIDDEN * WIDTH


@pytest.mark.parametrize("tokens", FULL_BUCKETS)
def test_few_products_are_padding_in_a_full_bucket(tokens: int) -> None:
    ratio = products(random_routing(tokens), tokens, cores=2) / useful(tokens)
    assert 1.0 <= ratio < MOST_PADDED


def test_work_follows_the_length_of_the_prompt() -> None:
    chosen = random_routing(128)
    counted = [products(chosen, length) for length in (1, 20, 54, 128)]
    assert counted == sorted(counted)
    assert counted[0] == useful(1) * 16, "one token fills a slot of 16 in each of 8 blocks"


def test_a_block_holds_the_mean_load_with_room_to_spare() -> None:
    from kernels.nki_token_grouping import block_slots

    for tokens, slots in FULL_BUCKETS.items():
        assert block_slots(tokens, EXPERTS) == slots


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize(
    ("experts", "tokens", "length"),
    [
        (8, 48, 48),  # every token to all experts: 3 full blocks each
        (8, 48, 33),  # one token more than 2 full blocks
        (8, 150, 0),  # nothing but padding
        (128, 160, 129),  # all to 8 of 128, the last in a tile of its own
    ],
)
def test_any_routing_is_computed(experts: int, tokens: int, length: int, cores: int) -> None:
    chosen = np.tile(np.arange(experts - 8, experts), (tokens, 1))
    arguments = inputs(chosen, length, experts)
    result = SPECS["experts_prefill"].load()[cores](**arguments)
    expected = reference.experts_prefill(**arguments)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    assert not result[length:].any()
