"""Which tuned variants are evaluated anew after which change."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkout import Checkout, copy_repository

HEADS = {"lm_head__default", "lm_head__buffers-2"}
OUTPUT = {"output_projection_prefill__default"}
TARGETS = [f"results/tuning/{name}.json" for name in sorted(HEADS | OUTPUT)]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with the results of three variants."""
    checkout = copy_repository(tmp_path_factory.mktemp("tuning") / "checkout")
    checkout.run(*TARGETS)
    return checkout


def stale(checkout: Checkout) -> set[str]:
    rows = [line.split("\t") for line in checkout.run("--summary", *TARGETS).splitlines()]
    return {
        Path(row[0]).stem for row in rows if row[0] in TARGETS and row[-1].strip() != "no update"
    }


def test_nothing_is_stale_after_the_run(tuned: Checkout) -> None:
    assert stale(tuned) == set()


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("kernels/nki_lm_head_kernels.py", "LOWEST = -3.0e38", "LOWEST = -2.9e38", HEADS),
        ("kernels/nki_common.py", "PARTITIONS = 128", "PARTITIONS = 64", HEADS | OUTPUT),
        ("nki_sim/hardware/trn2.yaml", "value: 2.4\n", "value: 2.5\n", HEADS | OUTPUT),
        # The value of a parameter, in all variants that leave it at its default.
        ("kernels/variants.py", "            32768,", "            8192,", HEADS),
        # One more value is one more variant.
        ("kernels/variants.py", "(16384, 65536)", "(16384, 24576, 65536)", set()),
        ("tuning/table.py", "TIE = 0.005", "TIE = 0.006", set()),
    ],
)
def test_a_change_makes_exactly_these_stale(
    tuned: Checkout, file: str, old: str, new: str, expected: set[str]
) -> None:
    assert old in (tuned.path / file).read_text()
    with tuned.changed(file, lambda text: text.replace(old, new, 1)):
        assert stale(tuned) == expected
