"""The whole model's modelled time: how it is put together, on few and small launches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from jsonschema import Draft202012Validator

import nki_sim
from evaluation.modelled_checks import modelled_figures
from evaluation.provenance import REPOSITORY
from evaluation.records import schema
from evaluation.scoring import BASELINES_FILE, load_baselines
from evaluation.shapes import QWEN3_30B_A3B
from kernels.specs import SPECS
from model.plan import BUCKETS
from nki_sim.latency import Range, predict
from prediction import launches, prompts
from prediction.baseline import BLOCK_ROWS, padded_experts, padded_prefill
from prediction.costs import Cost, Term, extrapolated, total
from prediction.launches import Rank, blocks, cost, rounds
from prediction.steps import ELEMENT_BYTES, Step, collective_ns, decode_steps, prefill
from prediction.timeline import merged
from prediction.whole import bound, predict_model

SMALL = replace(
    QWEN3_30B_A3B, hidden=256, heads=16, head_dim=32, expert_hidden=128, layers=10, vocabulary=4096
)


@pytest.fixture(scope="module", autouse=True)
def on_trn2() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn2")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def small() -> Rank:
    return Rank("trn2", SMALL)


def a_cost(low: float, nominal: float, high: float, hbm_us: float | None = None) -> Cost:
    return Cost(Range(low, nominal, high), hbm_us, 10.0, 20.0, 30.0, 1.0)


# -- arithmetic ------------------------------------------------------------------------------------


def test_what_repeats_is_extrapolated_in_each_scenario() -> None:
    short, long = a_cost(10, 20, 40, 5.0), a_cost(14, 28, 60, 9.0)
    found = extrapolated(short, long, few=4, many=8, count=48)
    assert found.time_us == Range(54, 108, 260)
    assert found.hbm_us == 49.0


def test_a_cost_without_hbm_hides_no_other() -> None:
    assert (a_cost(1, 2, 3, 1.0) + a_cost(1, 2, 3)).hbm_us is None


def test_a_difference_that_turns_round_stays_a_range() -> None:
    found = (a_cost(9, 10, 11) - a_cost(1, 5, 10)).time_us
    assert found == Range(1, 5, 8)


def test_terms_add_up() -> None:
    terms = [Term("a", "", a_cost(1, 2, 3)), Term("b", "", a_cost(10, 20, 30))]
    assert total(terms) == Step(128, terms).total_us == Range(11, 22, 33)


# -- launches --------------------------------------------------------------------------------------


def test_blocks_of_a_prompt_are_those_that_its_routing_fills() -> None:
    """Traced for as many passes as a launch with numbers makes, it takes the same time."""
    rank, bucket, tokens = Rank("trn2", SMALL), 128, 20
    part = rank.part
    rng = np.random.default_rng(launches.ROUTING_SEED)
    chosen = np.argsort(rng.random((tokens, part.experts)), axis=1)[:, :8]
    experts = np.zeros((bucket, 8), np.uint32)
    experts[:tokens] = chosen
    numbers: dict[str, Any] = {
        name: np.zeros(shape, ml_dtypes.bfloat16)
        for name, shape in launches.decoder_shapes(part, "experts_prefill", bucket).items()
    }
    numbers |= {
        "weights": np.full((bucket, 8), 0.125, np.float32), "experts": experts,
        "length": np.full((1, 1), tokens, np.int32),
    }  # fmt: skip
    with nki_sim.record() as recording:
        SPECS["experts_prefill"].load()[launches.CORES](**numbers)
    real = cost(predict(recording.launches[0], "trn2"))
    found = rank.experts_prefill(bucket, tokens)
    assert found.macs == real.macs and found.hbm_bytes == real.hbm_bytes
    assert found.time_us.nominal == pytest.approx(real.time_us.nominal, rel=0.02)


@pytest.mark.parametrize(("tokens", "least"), [(1, 8), (20, 80), (128, 126)])
def test_uniform_routing_reaches_nearly_all_experts(tokens: int, least: int) -> None:
    count = blocks(128, tokens, QWEN3_30B_A3B)
    assert least <= count <= min(8 * tokens, 160)
    assert 4 * rounds(count) >= count > 4 * (rounds(count) - 1)


def test_a_rank_that_is_its_own_group_takes_as_long_as_one_of_four(small: Rank) -> None:
    import nki.collectives as ncc

    from evaluation.shapes import Trace
    from evaluation.tracing import hollow
    from kernels.nki_decode_ranks_kernels import nki_decoder_stack_ranks_kernel as kernel

    part = replace(small.part, layers=2)
    shapes = launches.decoder_shapes(part, "decoder_stack", 1)
    arguments = hollow(SPECS["decoder_stack"], Trace("decoder_stack", "", 1, shapes), "bfloat16")
    arguments["group"] = ncc.ReplicaGroup([[0, 1, 2, 3]])
    with nki_sim.mode("shapes"), nki_sim.record() as recording:
        nki_sim.ranks.run(kernel[2], ranks=4, arguments=[arguments] * 4)
    alone = small.prediction("decoder_stack", 1, BUCKETS[-1], 2, summed=True)
    for launch in recording.launches:
        assert predict(launch, "trn2").time_us == alone.time_us


def test_sums_over_the_ranks_prolong_a_stack_by_more_than_their_latency(small: Rank) -> None:
    with_sums, alone = small.stack(summed=True), small.stack(summed=False)
    latency_us = 2 * SMALL.layers * small.hardware.values()["collective.latency"] / 1e3
    assert with_sums.time_us.nominal - alone.time_us.nominal > latency_us
    assert alone.time_us.low < alone.time_us.nominal < alone.time_us.high


# -- graphs ----------------------------------------------------------------------------------------


def test_a_step_names_everything_once(small: Rank) -> None:
    layered, fused = (decode_steps(small, path) for path in ("layered", "fused"))
    assert [step.bucket for step in layered] == [step.bucket for step in fused] == list(BUCKETS)
    for step in (*layered, *fused):
        names = [term.name for term in step.terms]
        assert len(set(names)) == len(names)
        around = {"embedding", "all_reduce", "lm_head", "sampling", "device_launch"}
        assert around | {"host_launch", "host_loop", "boundaries"} <= set(names)
    assert layered[-1].cost("attention").time_us.nominal > 0
    assert sum(term.cost.launches for term in layered[0].terms) == 5 * SMALL.layers + 1
    assert sum(term.cost.launches for term in fused[0].terms) == 2


def test_a_sum_over_the_ranks_costs_its_latency_and_its_bytes(small: Rank) -> None:
    values = small.hardware.values()
    step = prefill(small, 256, 192)
    each = collective_ns(values, 256 * SMALL.hidden * 2) / 1e3
    assert step.cost("all_reduce").time_us.nominal == pytest.approx(2 * SMALL.layers * each)
    assert each > values["collective.latency"] / 1e3


def test_the_padded_prompt_differs_in_its_experts_alone(small: Rank) -> None:
    ours = prefill(small, 128, 128)
    padded = padded_prefill(small, ours)
    changed = [a.name for a, b in zip(ours.terms, padded.terms, strict=True) if a != b]
    assert changed == ["experts"]


def test_padded_blocks_are_as_many_as_the_stock_model_has() -> None:
    found = padded_experts(Rank("trn2"), 128)
    assert found.blocks == 129
    assert found.macs == 129 * 512 * 3 * 2048 * 192
    assert found.tensor_us > found.hbm_us


# -- the challenge's figures -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (14, {128: 114, 256: 128, 640: 383}),
        (512, {640: 127}),
        (127, {128: 1, 256: 128, 640: 383}),
        (128, {256: 128, 640: 383}),
    ],
)
def test_steps_see_the_smallest_cache_that_holds_their_position(
    tokens: int, expected: dict[int, int]
) -> None:
    assert prompts.steps_by_bucket(tokens) == expected


def test_a_prompt_by_hand() -> None:
    def whole(us: float) -> list[Term]:
        return [Term("all", "", Cost(Range(us / 2, us, 2 * us)))]

    steps = [Step(bucket, whole(5000.0)) for bucket in BUCKETS]
    base = load_baselines(REPOSITORY / "config" / "baselines.yaml", "trn2").for_prompt(4)
    found = prompts.prompt_figures(4, Step(640, whole(65e3)), steps, base, 1.0)
    assert found["latency_ms"] == {"low": 350.0, "nominal": 700.0, "high": 1400.0}
    assert found["throughput_tok_s"]["nominal"] == pytest.approx(640 / 0.7)
    gain = base.latency_ms / 700.0 * (640 / 0.7) / base.throughput_tok_s
    assert found["score"]["nominal"] == pytest.approx(2 * gain)
    assert found["score"]["low"] < found["score"]["nominal"] < found["score"]["high"]


@pytest.mark.parametrize("path", ["layered", "fused"])
def test_no_product_stays_outside_of_kernels(path: str) -> None:
    assert prompts.nki_flops_ratio(path, QWEN3_30B_A3B) == 1.0


@pytest.mark.parametrize(("platform", "about"), [("trn2", 500.0), ("trn3", 436.0)])
def test_the_published_runs_spend_this_beside_their_steps(platform: str, about: float) -> None:
    baselines = load_baselines(REPOSITORY / "config" / "baselines.yaml", platform)
    assert prompts.baseline_intercept_ms(baselines) == pytest.approx(about, rel=0.02)


@pytest.mark.parametrize(("platform", "milliseconds"), [("trn2", 2.10), ("trn3", 1.29)])
def test_the_bound_of_a_step(platform: str, milliseconds: float) -> None:
    found = bound(Rank(platform))
    assert found["weight_bytes"] == 6_083_313_664
    assert found["time_us"] / 1e3 == pytest.approx(milliseconds, abs=0.01)


def test_the_whole_prediction_passes_the_records_checks() -> None:
    """With a small model, but for the roofline, whose shapes are the kernels' own."""
    content = predict_model("trn2", SMALL)
    del content["schema_version"], content["inputs"]
    part = {"$ref": "#/$defs/modelled_prediction", "$defs": schema()["$defs"]}
    assert list(Draft202012Validator(part).iter_errors(content)) == []
    assert list(modelled_figures({"modelled": {"predictions": {"trn2": content}}})) == []
    assert {point["kernel"] for point in content["roofline"]["points"]} == set(SPECS)
    timeline = content["layer_timeline"]
    for row in timeline["rows"]:
        assert 0 < row["busy_us"] <= timeline["time_us"] + 1e-9
        flat = [time for interval in row["intervals_us"] for time in interval]
        assert flat == sorted(flat) and flat[-1] <= timeline["time_us"] + 1e-3
    halves = [half["end_us"] for half in timeline["halves"]]
    assert 0 < halves[0] < halves[1] == timeline["time_us"]


def test_intervals_that_touch_or_nearly_touch_are_one() -> None:
    spans = [(3.0, 4.0), (0.0, 1.0), (1.05, 2.0), (3.5, 3.6)]
    assert merged(spans, 0.1) == [(0.0, 2.0), (3.0, 4.0)]
    assert merged(spans, 0.0) == [(0.0, 1.0), (1.05, 2.0), (3.0, 4.0)]


def test_the_document_says_what_the_code_says() -> None:
    """The figures of the padded baseline and of the bound that stands against it."""
    text = " ".join((REPOSITORY / "docs" / "latency.md").read_text().split())
    rank = Rank("trn2")
    padded, part = padded_experts(rank, BUCKETS[0]), rank.part
    wanted = BUCKETS[0] * part.experts_per_token
    weight_bytes = part.experts * 3 * part.hidden * part.expert_hidden * ELEMENT_BYTES
    hbm_ms = rank.model.layers * weight_bytes / rank.hardware.values()["memory.hbm_rate"] / 1e6
    baselines = load_baselines(BASELINES_FILE, "trn2")
    for statement in (
        f"blocks of {BLOCK_ROWS} rows, {padded.blocks} of them for {BUCKETS[0]} tokens",
        f"{padded.macs / 1e9:.1f} GMAC per layer and rank",
        f"{padded.blocks * BLOCK_ROWS // wanted} times what is useful",
        f"({prompts.baseline_intercept_ms(baselines):.0f} ms on trn2)",
        f"{weight_bytes / 1e6:.0f} MB per layer and rank, which HBM alone takes {hbm_ms:.0f} ms",
    ):
        assert statement in text
