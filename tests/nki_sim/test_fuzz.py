"""A bounded run of the fuzzer, and proof that it would notice."""

from __future__ import annotations

import time
from typing import Any

import pytest

from nki_sim.engines import INSTRUCTIONS
from nki_sim.engines.vector import Reciprocal

from . import fuzzing


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer sets the platform; put it back afterwards."""
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn2")


def test_random_programs_end_in_a_result_or_a_named_error() -> None:
    """Different programs every day would be a flaky test: the numbers are fixed."""
    results: dict[str, int] = {}
    until = time.monotonic() + 8
    for seed in range(1500):
        text, run = fuzzing.problem(seed, 8)
        assert not text
        for opcode, ending in run.endings:
            results[opcode] = results.get(opcode, 0) + (ending == "result")
        if time.monotonic() > until:
            break
    assert results.keys() >= {one.opcode for one in INSTRUCTIONS}
    assert sum(results.values()) > 300


def test_the_same_seed_makes_the_same_program() -> None:
    one, other = (fuzzing.run(7, 8, "full") for _ in range(2))
    assert one.endings == other.endings and one.account == other.account


def faults(monkeypatch: pytest.MonkeyPatch, name: str, replacement: Any) -> str:
    """The first problem that is found when a method of `reciprocal` is replaced."""
    monkeypatch.setattr(Reciprocal, name, replacement)
    monkeypatch.setattr(fuzzing, "INSTRUCTIONS", (Reciprocal,))
    return next((text for seed in range(50) if (text := fuzzing.problem(seed, 4)[0])), "")


def test_a_raw_exception_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, program: Any) -> None:
        raise IndexError("planted")

    assert "IndexError: planted" in faults(monkeypatch, "execute", broken)


def test_other_numbers_without_checks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Any, program: Any) -> None:
        self.dst.array[...] = 1 if program.checked else 2

    assert "other bits in mode unchecked" in faults(monkeypatch, "execute", wrong)


def test_another_account_on_shapes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def macs(self: Any, sizes: Any) -> int:
        from nki_sim.machine import current

        return int(current("a test").numeric)

    assert "another account in mode shapes" in faults(monkeypatch, "macs", macs)
