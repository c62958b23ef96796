"""The short runs of the other kernel paths: which ones, and one list of paths everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.checks import KERNEL_PATHS, path_checks
from evaluation.flags import FLAGS, OneOf
from evaluation.shapes import LAYER_WEIGHTS
from kernels.specs import SPECS
from model.packing import LAYER
from model.plan import PATHS, PHASES, expected_launches
from model.tiny import CONFIG
from workflow.config import schema


def config(path: str, dtype: str, backend: str = "simulator") -> dict[str, Any]:
    return {"backend": backend, "model": {"kernel_path": path, "dtype": dtype}}


def test_what_is_checked_beside_the_default() -> None:
    names = [check.name for check in path_checks(config("fused", "float32"))]
    assert names == ["layered_float32", "rows_float32", "fused_bfloat16"]
    assert path_checks(config("fused", "bfloat16", backend="neuron")) == []


@pytest.mark.parametrize("path", KERNEL_PATHS)
def test_every_kernel_is_launched_in_the_evaluation_or_a_check(path: str) -> None:
    paths = {path, *(check.kernel_path for check in path_checks(config(path, "bfloat16")))}
    launched = {
        kernel for p in paths for phase in PHASES for kernel in expected_launches(CONFIG, phase, p)
    }
    assert launched == set(SPECS)


def test_the_lists_of_paths_and_of_weights_agree() -> None:
    flag = FLAGS["kernel_path"].kind
    assert isinstance(flag, OneOf)
    key = schema()["properties"]["model"]["properties"]["kernel_path"]
    assert list(KERNEL_PATHS) == list(PATHS) == list(flag.names) == key["enum"]
    assert tuple(LAYER) == LAYER_WEIGHTS
