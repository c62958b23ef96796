"""What must be true of every prediction, on random programs."""

from __future__ import annotations

import random
import warnings
from itertools import pairwise

import pytest

import nki_sim
from nki_sim.latency import load, predict
from nki_sim.latency.dependencies import analyse
from nki_sim.latency.hardware import NOMINAL, SCENARIOS
from nki_sim.latency.plan import plan_of
from nki_sim.latency.scheduler import schedule
from nki_sim.trace import Event, Launch

from . import fuzzing
from .latency_programs import program, renamed, with_events

PLATFORMS = ("trn1", "trn2", "trn3")
SEEDS = range(12)
ROOMS = [(212984, 8)]
ROUNDING = 1e-9

ANOMALY = 0.02
"""Serving by arrival is not monotone in theory: a DMA that comes later may let a more urgent one
pass. More than this share of the time has not been seen."""
REORDERED = 0.15
"""How much the order in which independent neighbours are written may change the time: engines
execute in program order, so some of it is real."""


def check_bounds(launch: Launch, platform: str) -> None:
    """Between what the busiest resource needs and everything one after the other."""
    hardware = load(platform)
    scenarios = {name: hardware.values(name) for name in SCENARIOS}
    plan = plan_of(launch, list(scenarios.values()))
    for name in SCENARIOS:
        timing = schedule(plan, scenarios[name])
        roof = max(timing.busy.values(), default=0.0)
        assert roof <= timing.total * (1 + ROUNDING), (name, timing.busy)
        assert timing.total <= timing.serial * (1 + ROUNDING), name
        for earlier, later in enumerate(plan.following):
            if later >= 0:
                assert timing.busy_end[earlier] <= timing.start[later] * (1 + ROUNDING)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_time_lies_between_the_roofline_and_the_serial_sum(platform: str, seed: int) -> None:
    check_bounds(program(seed, 40, 256), platform)


@pytest.mark.parametrize("seed", range(40))
def test_bounds_hold_for_programs_of_all_instructions(seed: int) -> None:
    with nki_sim.record() as recording, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuzzing.run(seed, 12, "full" if seed % 2 else "shapes")
    (launch,) = recording.launches
    check_bounds(launch, fuzzing.PLATFORMS[seed % len(fuzzing.PLATFORMS)])


@pytest.mark.parametrize("seed", range(8))
def test_bounds_hold_on_two_cores(seed: int) -> None:
    launch = program(seed, 40, 256, cores=2)
    check_bounds(launch, "trn2")
    found = predict(launch, "trn2")
    alone = predict(program(seed, 40, 256), "trn2")
    assert found.time_us.nominal >= alone.time_us.nominal * (1 - ANOMALY)  # they share HBM


@pytest.mark.parametrize("seed", SEEDS)
def test_every_instruction_waits_for_what_it_depends_on(seed: int) -> None:
    launch = program(seed, 60, 256)
    timing = predict(launch, "trn2").timing
    for number, edges in enumerate(analyse(launch.instructions, ROOMS).edges):
        for earlier, result in edges:
            event = launch.instructions[earlier]
            done = timing.end if result or event.engine == "dma" else timing.busy_end
            assert timing.start[number] >= done[earlier] * (1 - ROUNDING)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_time_grows_with_bytes(platform: str, seed: int) -> None:
    times = [predict(program(seed, 30, width), platform).time_us for width in (128, 256, 512)]
    for small, large in pairwise(times):
        assert small.nominal <= large.nominal * (1 + ANOMALY)
        assert small.low <= large.low * (1 + ANOMALY)


@pytest.mark.parametrize("seed", SEEDS)
def test_time_grows_with_tiles(seed: int) -> None:
    launch = program(seed, 60, 256)
    events = launch.instructions
    times = [
        predict(with_events(launch, events[:count]), "trn2").time_us.nominal
        for count in range(0, len(events) + 1, 12)
    ]
    for shorter, longer in pairwise(times):
        assert shorter <= longer * (1 + ANOMALY)


@pytest.mark.parametrize("seed", range(10))
def test_a_name_changes_nothing(seed: int) -> None:
    launch = program(seed, 40, 256)
    assert predict(renamed(launch)).as_dict() == predict(launch).as_dict()


@pytest.mark.parametrize("seed", range(10))
def test_both_modes_give_one_prediction(seed: int) -> None:
    """What is recorded on shapes is what is recorded with numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = []
        chosen = fuzzing.run(seed, 10, "full").passed
        for mode in ("unchecked", "shapes"):
            with nki_sim.record() as recording:
                fuzzing.run(seed, 10, mode, chosen)
            launch = recording.launches[0]
            found.append([(e.cycles, e.settings.keys()) for e in launch.instructions])
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(15))
def test_order_of_independent_neighbours_matters_little(seed: int) -> None:
    launch = program(seed, 60, 256)
    before = predict(launch, "trn2").time_us.nominal
    shuffled = with_events(launch, swapped(launch.instructions, random.Random(seed)))
    after = predict(shuffled, "trn2").time_us.nominal
    assert abs(after - before) <= REORDERED * before


def swapped(events: list[Event], rng: random.Random) -> list[Event]:
    """Some neighbours that do not depend on each other change places."""
    events = list(events)
    for _ in range(len(events)):
        place = rng.randrange(len(events) - 1)
        pair = events[place : place + 2]
        if pair[0].engine != pair[1].engine and not independent_fails(pair):
            events[place : place + 2] = pair[::-1]
    return events


def independent_fails(pair: list[Event]) -> bool:
    """Whether the second one depends on the first."""
    return bool(analyse(pair, ROOMS).edges[1])


def test_the_range_holds_the_nominal_time() -> None:
    for seed in SEEDS:
        time = predict(program(seed, 30, 256), "trn2").time_us
        assert time.low <= time.nominal <= time.high
        assert time.low < time.high


def test_the_critical_path_adds_up_to_the_time() -> None:
    for seed in SEEDS:
        found = predict(program(seed, 40, 256), "trn2")
        assert sum(step.time_us for step in found.path) == pytest.approx(found.time_us.nominal)
        assert all(step.time_us >= 0 for step in found.path)
        timing = schedule(found.plan, load("trn2").values(NOMINAL))
        assert timing.total == found.timing.total
