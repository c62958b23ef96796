"""Correctness of the kernels: every declared case and dtype against its oracle, every refusal.

Runs on nki_sim, on the Neuron SDK's own simulator, or on a device; without --backend on what there
is. Alone it needs no pytest, which a Neuron environment may lack.

    pytest test_nki_kernels.py
    python3 test_nki_kernels.py [--backend simulator|neuron-simulator|neuron] [--cores N]
                                [--kernel NAME ...] [--kind KIND ...] [--json FILE] [--jobs N]

Kernels are shared among as many processes as there are usable processors; `--jobs 1` uses one.
On a device a process has logical cores of one size, and a kernel is launched on just as many
physical ones: `--cores 2` (the default there) tests launches on two, `--cores 1` those on one.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernels.specs import SPECS, Case, KernelSpec, Refusal
from kernels.verification import RefusalCheck, Verification, verify, verify_refusal

SCHEMA_VERSION = 1
TESTED_DTYPES = ("float32", "bfloat16")
BACKENDS = SIMULATOR, NEURON_SIMULATOR, NEURON = ("simulator", "neuron-simulator", "neuron")
KINDS = ("true", "ragged", "model")
COSTED_DTYPE = "float32"
DEVICES = Path("/dev")
LOGICAL_CORES = ("NEURON_LOGICAL_NC_CONFIG", "NEURON_RT_VIRTUAL_CORE_SIZE")
"""Variables of compiler and runtime: how many physical cores a logical one has."""
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables of the libraries behind NumPy's matrix products."""
ROW = "{:<18} {:<41} {:<9} {:>14} {:>8}  {}"


Launches = Sequence[tuple[Case, int]]
"""Cases, each with the number of cores to launch it on."""


class NoNKI(RuntimeError):
    """There is no `nki` to run the kernels on, or not the one that is asked for."""


def require_nki(backend: str | None = None) -> str:
    """Make `import nki` work and return where kernels will run: `backend`, or what there is.

    With the SDK's `nki` that is a device, or else the SDK's simulator. Raises NoNKI.
    """
    if backend == SIMULATOR:
        os.environ["NKI_SIMULATOR"] = "1"  # nki_sim, also where the SDK is installed
    elif backend is not None:
        os.environ.pop("NKI_SIMULATOR", None)
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
    device = any(path.name[6:].isdigit() for path in DEVICES.glob("neuron*"))
    offered = (SIMULATOR,) if "nki_sim" in Path(str(nki.__file__)).parts else (NEURON_SIMULATOR,)
    if device and offered != (SIMULATOR,):
        offered = (NEURON, NEURON_SIMULATOR)
    chosen = backend or offered[0]
    if chosen not in offered:
        raise NoNKI(
            f"--backend {chosen}: `import nki` is {nki.__file__}, and there is "
            f"{'a' if device else 'no'} Neuron device: the kernels can run here on "
            f"{' or '.join(offered)}"
        )
    if chosen == NEURON_SIMULATOR and not hasattr(nki, "simulate"):
        raise NoNKI("this SDK's `nki` has no simulator (nki.simulate): Neuron SDK 2.29 has it")
    return chosen


def set_logical_cores(cores: int | None) -> int:
    """Give this process, on a device, logical cores of so many physical ones; by default two."""
    cores = cores or int(os.environ.get(LOGICAL_CORES[0], "2"))
    for variable in LOGICAL_CORES:
        os.environ[variable] = str(cores)
    return cores


def launchable(spec: KernelSpec, cores: int, backend: str) -> Any:
    """What is called with the arguments to launch a kernel on `cores` physical cores."""
    kernel = spec.load() if cores == 1 else spec.load()[cores]
    if backend != NEURON_SIMULATOR:
        return kernel  # numpy arrays: the SDK compiles for the device and runs there
    import nki

    return nki.simulate(kernel)


def setup_module() -> None:
    """For pytest: every test of this file fails, with the reason, where there is no `nki`."""
    simulator()


def simulator() -> str:
    """For pytest: the simulator that there is; a device is for the command line alone."""
    found = require_nki()
    return require_nki(NEURON_SIMULATOR) if found == NEURON else found


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
    result = verify(spec, case, dtype, launchable(spec, cores, simulator()))
    assert result.passed, result.message


def test_kernel_refuses(spec: KernelSpec, refusal: Refusal) -> None:
    check = verify_refusal(spec, refusal, launchable(spec, 1, simulator()))
    assert check.passed, check.message


def run_case(
    spec: KernelSpec, case: Case, dtype: str, cores: int = 1, backend: str = SIMULATOR
) -> Verification:
    """As `verify`; an exception of the kernel is a failure with its text."""
    try:
        kernel = launchable(spec, cores, backend)
        result = verify(spec, case, dtype, kernel, writes_back=backend != NEURON)
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


def run_counted(spec: KernelSpec, case: Case) -> tuple[Verification, dict[str, Any]]:
    """As `run_case` on one core, and what nki_sim counts in the launch; nothing if it has none."""
    import nki_sim

    with nki_sim.record() as recording:
        result = run_case(spec, case, COSTED_DTYPE)
    shapes = {name: list(shape) for name, shape in case.shapes.items()}
    head = {"shapes": shapes, "dtype": COSTED_DTYPE}
    return result, head | recording.launches[0].summary() if recording.launches else {}


def launches(spec: KernelSpec, cores: int | None, kinds: Sequence[str]) -> Launches:
    """The cases of these kinds, each with a number of cores; all numbers, or `cores` alone."""
    return [
        (case, number)
        for case in spec.cases
        for number in case.cores
        if case.kind in kinds and cores in (None, number)
    ]


def check_kernel(
    spec: KernelSpec, wanted: Launches, cores: int | None, backend: str
) -> dict[str, Any]:
    """Run and print the wanted launches of a kernel and its refusals; its entry of the report.

    In the simulator the entry holds the cost of the first true case on one core.
    """
    entry: dict[str, Any] = {"passed": True}
    failures = []
    costed = next(case for case in spec.cases if case.kind == "true")
    cost: dict[str, Any] = {}
    for dtype in TESTED_DTYPES:
        if dtype not in spec.dtypes:
            reason = f"SKIP  declared for {', '.join(spec.dtypes)} only"
            print(ROW.format(spec.name, "", dtype, "", "", reason))
            continue
        results = []
        for case, number in wanted:
            if backend == SIMULATOR and (case, number, dtype) == (costed, 1, COSTED_DTYPE):
                result, cost = run_counted(spec, case)
            else:
                result = run_case(spec, case, dtype, number, backend)
            print_case(result)
            results.append(result)
        entry[dtype] = summarise(results)
        failures += [f"{r.case}, {dtype}: {r.message}" for r in results if not r.passed]
    refused = launchable(spec, cores or 1, backend)
    checks = [verify_refusal(spec, refusal, refused) for refusal in spec.refusals]
    for check in checks:
        print_refusal(check)
    failures += [f"{c.refusal}: {c.message}" for c in checks if not c.passed]
    entry["refusals"] = len(checks)
    if failures:
        entry |= {"passed": False, "failures": failures}
    elif backend == SIMULATOR:
        entry["cost"] = cost or run_counted(spec, costed)[1]
    return entry


def check_printing(
    name: str, wanted: Launches, cores: int | None, backend: str
) -> tuple[dict[str, Any], str]:
    """As `check_kernel`, in a process beside others: what it prints is returned as well."""
    with redirect_stdout(io.StringIO()) as printed:
        entry = check_kernel(SPECS[name], wanted, cores, backend)
    return entry, printed.getvalue()


def start_process(backend: str) -> None:
    """Prepare a process of `check_kernels`, which ends when the one that started it is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    require_nki(backend)


def check_kernels(
    wanted: Mapping[str, Launches], cores: int | None, backend: str, jobs: int
) -> dict[str, dict[str, Any]]:
    """Check kernels in so many processes, printing in order; the report's entries, in order.

    Those with the largest arguments start first, so that no process is left with a long one at the
    end. Raises BrokenProcessPool when a process is killed.
    """
    if min(jobs, len(wanted)) == 1:
        return {
            name: check_kernel(SPECS[name], found, cores, backend) for name, found in wanted.items()
        }
    entries = {}
    for variable in BLAS_THREADS:
        os.environ.setdefault(variable, "1")  # or each process's threads wait for the others'
    context = multiprocessing.get_context("spawn")  # no thread of NumPy's is copied half-way
    with ProcessPoolExecutor(jobs, context, start_process, (backend,)) as pool:
        running = {
            name: pool.submit(check_printing, name, wanted[name], cores, backend)
            for name in sorted(wanted, key=lambda name: -_elements(wanted[name]))
        }
        for name in wanted:
            entries[name], printed = running[name].result()
            print(printed, end="", flush=True)
    return entries


def _elements(wanted: Launches) -> int:
    """Elements of the arguments of all launches."""
    return sum(math.prod(shape) for case, _ in wanted for shape in case.shapes.values())


def usable_processors() -> int:
    """How many processors this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


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
    parser.add_argument("--backend", choices=BACKENDS, help="where; by default on what there is")
    parser.add_argument("--cores", type=int, choices=(1, 2), help="only launches on so many cores")
    parser.add_argument(
        "--kind",
        nargs="+",
        choices=KINDS,
        default=KINDS,
        help="check only cases of these kinds: true are the shapes of Qwen3-30B-A3B",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="share the kernels among so many processes; by default one per usable processor, and "
        "on a device one",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    options = parser.parse_args(arguments)
    if options.jobs is not None and options.jobs < 1:
        parser.error(f"--jobs: received {options.jobs}, expected 1 or more")
    return options


def _jobs(options: argparse.Namespace, backend: str) -> int:
    """In how many processes; NoNKI for several on a device, which one process holds."""
    if backend != NEURON:
        return options.jobs or usable_processors()
    if (options.jobs or 1) > 1:
        raise NoNKI(f"--jobs {options.jobs}: on a device kernels are tested by one process")
    return 1


def _wanted(options: argparse.Namespace, cores: int | None) -> dict[str, Launches]:
    """The launches of each kernel that is asked for; NoNKI where one has none."""
    found = {
        name: launches(spec, cores, options.kind)
        for name, spec in SPECS.items()
        if not options.kernel or name in options.kernel
    }
    if absent := [name for name, wanted in found.items() if not wanted]:
        if options.kernel:
            raise NoNKI(f"{', '.join(absent)}: no case of this kind is launched on {cores} core(s)")
        print(f"SKIP  {', '.join(absent)}: no such case")
    return {name: wanted for name, wanted in found.items() if wanted}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check kernels and print the table; 0 if all pass, 1 if any fails, 2 without an `nki`."""
    options = parse(arguments)
    cores = options.cores
    if options.backend == NEURON:
        cores = set_logical_cores(cores)  # before anything of the SDK may read it
    try:
        backend = require_nki(options.backend)
        cores = set_logical_cores(cores) if backend == NEURON else cores
        wanted = _wanted(options, cores)
        jobs = _jobs(options, backend)
    except NoNKI as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"on {backend}" + (f", launches on {cores} core(s) alone" if cores else ""))
    print(ROW.format("kernel", "case", "dtype", "max abs error", "max ulp", "verdict"))
    try:
        report = check_kernels(wanted, cores, backend, jobs)
    except BrokenProcessPool:
        print("error: a process was killed, perhaps for want of memory: --jobs 1", file=sys.stderr)
        return 2
    failed = [name for name, entry in report.items() if not entry["passed"]]
    print(f"FAILED: {', '.join(failed)}" if failed else f"all {len(report)} kernels pass")
    if options.json:
        from evaluation.files import write_json
        from evaluation.provenance import kernel_test_inputs

        for name, entry in report.items():
            entry["inputs"] = kernel_test_inputs(name)
        head = {"schema_version": SCHEMA_VERSION, "backend": backend}
        write_json(options.json, {**head, "kernels": report})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
