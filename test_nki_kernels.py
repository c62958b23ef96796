"""Correctness of the kernels: every declared case and dtype against its oracle, every refusal.

Runs on whatever `import nki` is: the simulator on a CPU, the SDK's own simulator, or a device.
Alone it needs no pytest, which a Neuron environment may lack.

    pytest test_nki_kernels.py
    python3 test_nki_kernels.py [--kernel NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernels.specs import SPECS, Case, KernelSpec, Refusal
from kernels.verification import RefusalCheck, Verification, verify, verify_refusal

SCHEMA_VERSION = 1
TESTED_DTYPES = ("float32", "bfloat16")
ROW = "{:<18} {:<41} {:<9} {:>14} {:>8}  {}"


class NoNKI(RuntimeError):
    """There is no `nki` to run the kernels on."""


def require_nki() -> bool:
    """Make `import nki` work, and tell whether it is nki_sim. Raises NoNKI where there is none."""
    try:
        from nki_sim.install import install
    except ModuleNotFoundError as missing:
        if missing.name not in ("nki_sim", "nki_sim.install"):
            raise
    else:
        install()
    try:
        import nki
    except ImportError as error:
        raise NoNKI(
            "no `nki` can be imported, so no kernel can be tested: neither the Neuron SDK nor "
            f"nki_sim is on the path of {sys.executable} ({error}). Activate the Neuron "
            "environment, or run from the project's folder in the environment that ./run builds."
        ) from error
    return "nki_sim" in Path(str(nki.__file__)).parts


def setup_module() -> None:
    """For pytest: every test of this file fails, with the reason, where there is no `nki`."""
    require_nki()


def pytest_generate_tests(metafunc: Any) -> None:
    """For pytest: every declared case, dtype and number of cores, and every refusal."""
    names = tuple(metafunc.fixturenames)
    if "case" in names:
        values = [
            (spec, case, dtype, cores)
            for spec in SPECS.values()
            for case in spec.cases
            for dtype in spec.dtypes
            for cores in case.cores
        ]
        ids = [f"{spec.name}-{case.label}-{dtype}-{cores}" for spec, case, dtype, cores in values]
        metafunc.parametrize(("spec", "case", "dtype", "cores"), values, ids=ids)
    elif "refusal" in names:
        pairs = [(spec, refusal) for spec in SPECS.values() for refusal in spec.refusals]
        ids = [f"{spec.name}-{refusal.label}" for spec, refusal in pairs]
        metafunc.parametrize(("spec", "refusal"), pairs, ids=ids)


def test_kernel_equals_its_oracle(spec: KernelSpec, case: Case, dtype: str, cores: int) -> None:
    result = verify(spec, case, dtype, cores=cores)
    assert result.passed, result.message


def test_kernel_refuses(spec: KernelSpec, refusal: Refusal) -> None:
    check = verify_refusal(spec, refusal)
    assert check.passed, check.message


def run_case(spec: KernelSpec, case: Case, dtype: str, cores: int = 1) -> Verification:
    """As `verify`; an exception of the kernel is a failure with its text."""
    try:
        result = verify(spec, case, dtype, cores=cores)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        result = Verification(spec.name, case.label, dtype, False, None, None, None, text)
    return result if cores == 1 else replace(result, case=f"{case.label}, {cores} cores")


def print_case(result: Verification) -> None:
    """One line of the table; below it what is wrong, if anything."""
    error = "-" if result.max_abs_error is None else f"{result.max_abs_error:.3e}"
    ulp = "-" if result.max_ulp_error is None else str(result.max_ulp_error)
    verdict = "PASS" if result.passed else "FAIL"
    print(ROW.format(result.kernel, result.case, result.dtype, error, ulp, verdict), flush=True)
    if not result.passed:
        print(f"    {result.message}", flush=True)


def print_refusal(check: RefusalCheck) -> None:
    """One line of the table for an input that the kernel must refuse."""
    verdict = "PASS" if check.passed else f"FAIL  {check.message}"
    print(ROW.format(check.kernel, f"refuses: {check.refusal}", "", "", "", verdict), flush=True)


def summarise(results: Sequence[Verification]) -> dict[str, Any]:
    """Number of cases and largest errors; an error is absent where no case could be compared."""
    summary: dict[str, Any] = {"cases": len(results)}
    for key in ("max_abs_error", "max_ulp_error"):
        values = [value for r in results if (value := getattr(r, key)) is not None]
        if values:
            summary[key] = max(values)
    return summary


def count_cost(spec: KernelSpec) -> dict[str, Any]:
    """What nki_sim counts in one launch at the kernel's first true case, in float32."""
    import nki_sim

    case = next(case for case in spec.cases if case.kind == "true")
    with nki_sim.record() as recording:
        spec.load()(**spec.inputs(case, "float32"))
    shapes = {name: list(shape) for name, shape in case.shapes.items()}
    return {"shapes": shapes, "dtype": "float32", **recording.launches[0].summary()}


def check_kernel(spec: KernelSpec, simulated: bool) -> dict[str, Any]:
    """Run and print every case and refusal of a kernel; its entry of the JSON report."""
    entry: dict[str, Any] = {"passed": True}
    failures = []
    for dtype in TESTED_DTYPES:
        if dtype not in spec.dtypes:
            reason = f"SKIP  declared for {', '.join(spec.dtypes)} only"
            print(ROW.format(spec.name, "", dtype, "", "", reason))
            continue
        results = [
            run_case(spec, case, dtype, cores) for case in spec.cases for cores in case.cores
        ]
        for result in results:
            print_case(result)
        entry[dtype] = summarise(results)
        failures += [f"{r.case}, {dtype}: {r.message}" for r in results if not r.passed]
    checks = [verify_refusal(spec, refusal) for refusal in spec.refusals]
    for check in checks:
        print_refusal(check)
    failures += [f"{c.refusal}: {c.message}" for c in checks if not c.passed]
    entry["refusals"] = len(checks)
    if failures:
        entry |= {"passed": False, "failures": failures}
    elif simulated:
        entry["cost"] = count_cost(spec)
    return entry


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        description="Check the NKI kernels against their NumPy oracles.", allow_abbrev=False
    )
    parser.add_argument(
        "--kernel",
        nargs="+",
        action="extend",
        choices=tuple(SPECS),
        metavar="NAME",
        help=f"check only these kernels, of {', '.join(SPECS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check kernels and print the table; 0 if all pass, 1 if any fails, 2 without an `nki`."""
    options = parse(arguments)
    try:
        simulated = require_nki()
    except NoNKI as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(ROW.format("kernel", "case", "dtype", "max abs error", "max ulp", "verdict"))
    report = {
        name: check_kernel(spec, simulated)
        for name, spec in SPECS.items()
        if not options.kernel or name in options.kernel
    }
    failed = [name for name, entry in report.items() if not entry["passed"]]
    print(f"FAILED: {', '.join(failed)}" if failed else f"all {len(report)} kernels pass")
    if options.json:
        from evaluation.files import write_json
        from evaluation.provenance import kernel_test_inputs

        for name, entry in report.items():
            entry["inputs"] = kernel_test_inputs(name)
        write_json(options.json, {"schema_version": SCHEMA_VERSION, "kernels": report})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
