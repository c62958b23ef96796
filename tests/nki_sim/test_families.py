"""The families of published kernels in small: results, shapes alone, any schedule, the compiler."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nki_sim.lint import check
from nki_sim.modes import mode
from nki_sim.schedule import shuffled

from .families.case import Case

FOLDER = Path(__file__).parent / "families"
MODULES = sorted(
    path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "case", "tiles")
)
CASES = [
    pytest.param(case, id=f"{module}-{case.kernel.__name__}-{number}")
    for module in MODULES
    for number, case in enumerate(import_module(f"tests.nki_sim.families.{module}").CASES)
]
KERNELS = list({param.values[0].kernel.__name__: param for param in CASES}.values())
ON_CORES = [
    pytest.param(param.values[0], cores, id=f"{param.id}-on-{cores}")
    for param in CASES
    for cores in param.values[0].cores
]


@pytest.fixture(autouse=True)
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    case: Case = request.getfixturevalue("case")
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", case.platform)


def arguments(case: Case) -> tuple[Any, ...]:
    return case.inputs(np.random.default_rng(7))


def launched(case: Case, cores: int) -> tuple[Any, ...]:
    """What the kernel returns; the inputs are made anew, since kernels may update them."""
    launch = case.kernel if cores == 1 else case.kernel[cores]
    results = launch(*arguments(case))
    return results if isinstance(results, tuple) else (results,)


def expected(case: Case) -> tuple[np.ndarray, ...]:
    results = case.reference(*arguments(case))
    return results if isinstance(results, tuple) else (results,)


def assert_close(case: Case, results: tuple[Any, ...]) -> None:
    wanted = expected(case)
    assert len(results) == len(wanted)
    for got, right in zip(results, wanted, strict=True):
        got, right = np.asarray(got, np.float64), np.asarray(right, np.float64)
        assert got.shape == right.shape
        assert np.abs(got - right).max() <= case.tolerance * np.abs(right).max()


@pytest.mark.parametrize(("case", "cores"), ON_CORES)
def test_results(case: Case, cores: int) -> None:
    assert_close(case, launched(case, cores))


@pytest.mark.parametrize(("case", "cores"), ON_CORES)
def test_shapes_alone(case: Case, cores: int) -> None:
    """The same instructions are legal without numbers, and the results have the same shapes."""
    with mode("shapes"):
        results = launched(case, cores)
    assert [tuple(r.shape) for r in results] == [r.shape for r in expected(case)]


@pytest.mark.parametrize("case", KERNELS)
def test_any_schedule_of_the_cores(case: Case) -> None:
    plain = launched(case, 2)
    for seed in range(3):
        with shuffled(seed):
            for got, right in zip(launched(case, 2), plain, strict=True):
                np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("case", KERNELS)
def test_the_compiler_takes_the_source(case: Case) -> None:
    found = check(case.kernel, case.releases)
    assert [f for f in found if f.rule not in case.allowed] == []
    assert {f.rule for f in found} == set(case.allowed)


@pytest.mark.parametrize("case", KERNELS)
def test_the_comparison_can_fail(case: Case) -> None:
    """A reference of other inputs is not met: tolerances are below the size of the results."""
    wrong = case.reference(*case.inputs(np.random.default_rng(8)))
    wrong = wrong if isinstance(wrong, tuple) else (wrong,)
    with pytest.raises(AssertionError):
        assert_close(case, wrong)
