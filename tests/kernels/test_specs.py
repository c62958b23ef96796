"""The declarations: complete, reproducible, with tolerances that mean something."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kernels.specs import DTYPES, SPECS, KernelSpec
from kernels.specs.rows import ROW_KERNELS

ROOT = Path(__file__).resolve().parents[2]
SEED_RESULTS = ROOT.parent / "shared" / "contest" / "seed_benchmark_results.json"
# Title -> file of the challenge submission's six kernels.
SUBMISSION = {
    "RMSNorm": "nki_custom_rmsnorm.py",
    "SiLU": "nki_kernels.py",
    "Softmax": "nki_kernels.py",
    "Fused Add+RMSNorm": "nki_kernels.py",
    "RoPE": "nki_attention_kernels.py",
    "Expert Router Softmax": "nki_moe_kernels.py",
}

each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))


def test_the_submissions_kernels_are_where_it_names_them() -> None:
    assert SUBMISSION.items() <= {spec.title: spec.file for spec in SPECS.values()}.items()


@pytest.mark.skipif(not SEED_RESULTS.is_file(), reason="the seed's results are not at hand")
def test_the_submissions_list_is_the_seeds() -> None:
    seed = json.loads(SEED_RESULTS.read_text())["nki_kernels_implemented"]
    assert {kernel["name"]: kernel["file"] for kernel in seed} == SUBMISSION


@each_spec
def test_file_and_oracle_exist(spec: KernelSpec) -> None:
    assert (ROOT / "kernels" / spec.file).is_file()
    assert spec.reference.__name__ == spec.name
    assert spec.reference.__module__ in ("kernels.reference", "kernels.decoder_reference")
    assert SPECS[spec.name] is spec


@each_spec
def test_shapes_name_the_oracles_parameters(spec: KernelSpec) -> None:
    parameters = set(inspect.signature(spec.reference).parameters)
    for case in spec.cases:
        assert set(case.shapes) | set(spec.scalars) | set(case.scalars) == parameters, case.label
        assert set(case.float32) | set(case.values) <= set(case.shapes), case.label
    assert set(spec.updates) <= parameters
    for refusal in spec.refusals:
        assert set(refusal.inputs()) == parameters, refusal.label
        assert set(refusal.dtypes) <= set(refusal.shapes), refusal.label


@each_spec
def test_labels_are_unique_and_every_kind_is_there(spec: KernelSpec) -> None:
    labels = [case.label for case in spec.cases]
    assert len(set(labels)) == len(labels)
    assert len({refusal.label for refusal in spec.refusals}) == len(spec.refusals) >= 3
    assert {case.kind for case in spec.cases} == {"true", "ragged", "model"}
    first = spec.cases[0]
    assert first.kind == "true", "the first case is the one whose cost is counted"


@pytest.mark.parametrize("spec", ROW_KERNELS, ids=lambda spec: spec.name)
def test_one_row_few_rows_and_an_unfilled_last_tile_are_tried(spec: KernelSpec) -> None:
    labels = " ".join(case.label for case in spec.cases)
    assert all(f"{count} tokens" in labels for count in (20, 192, 512))
    rows = {next(iter(case.shapes.values()))[0] for case in spec.cases}
    assert 1 in rows
    assert any(count > 128 and count % 128 for count in rows)


@each_spec
def test_tolerances_have_a_reason_and_a_ceiling(spec: KernelSpec) -> None:
    assert spec.dtypes[0] == "float32"
    for dtype, tolerance in spec.tolerances.items():
        assert len(tolerance.why) > 40
        assert 0 < tolerance.rtol <= (1e-5 if dtype == "float32" else 2.0**-6)
        for case in spec.cases:
            results = spec.reference(**spec.inputs(case, dtype))
            results = results if isinstance(results, tuple) else (results,)
            for result in results:
                if result.dtype.kind not in "iu":
                    largest = float(np.max(np.abs(result.astype(np.float64))))
                    assert tolerance.atol <= 0.1 * largest, (case.label, dtype)


@each_spec
def test_inputs_are_reproducible_finite_and_typed(spec: KernelSpec) -> None:
    for case in spec.cases:
        for dtype in spec.dtypes:
            first, again = spec.inputs(case, dtype, seed=3), spec.inputs(case, dtype, seed=3)
            other = spec.inputs(case, dtype, seed=4)
            for name, shape in case.shapes.items():
                array = first[name]
                assert array.shape == shape
                expected = DTYPES["float32" if name in case.float32 else dtype]
                assert array.dtype.kind in "iu" or array.dtype == expected
                assert array.tobytes() == again[name].tobytes()
                assert np.all(np.isfinite(array.astype(np.float32)))
            main = next(iter(case.shapes))
            assert first[main].tobytes() != other[main].tobytes()
            constants = dict(spec.scalars) | dict(case.scalars)
            assert all(first[name] == value for name, value in constants.items())


def test_declarations_need_no_nki() -> None:
    program = "import sys; import kernels.specs, kernels.verification; print('nki' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"
