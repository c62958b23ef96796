"""Results that take long and that no model decides, laid into a checkout as if they had been made.

The kernels' tests and what is modelled are real in the default job of `.ci/run`, and in tests of
their own.
"""

from __future__ import annotations

from pathlib import Path

from evaluation.files import write_json
from kernels.specs import SPECS
from tests import modelled_sample
from tests.evaluation.result_files import kernel_test


def lay(results: Path) -> None:
    """Write the files below the folder of results."""
    for name in SPECS:
        write_json(results / "kernel_tests" / f"{name}.json", kernel_test(name))
    for platform in ("trn2", "trn3"):
        write_json(
            results / "predictions" / f"{platform}.json", modelled_sample.prediction(platform)
        )
    write_json(results / "validation" / "latency.json", modelled_sample.validation())
    for other in ("latency.md", "latency.pdf", "latency.png"):
        (results / "validation" / other).touch()
    write_json(results / "tuning_ladder.json", modelled_sample.ladders())
