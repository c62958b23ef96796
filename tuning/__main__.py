"""``python -m tuning``: evaluates one variant of a kernel, or collects the results of all."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from evaluation.files import read_json, write_atomically, write_json
from kernels.variants import variants
from nki_sim.install import install


def main() -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tuning", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("variant", help="evaluate one variant")
    one.add_argument("name", choices=sorted(variants()), metavar="NAME", help="one of `list`")
    one.add_argument("--output", type=Path, required=True, help="JSON")
    every = commands.add_parser("collect", help="put all results into one table")
    every.add_argument("files", type=Path, nargs="+", help="JSON files of all variants")
    every.add_argument("--output", type=Path, required=True, help="JSON")
    every.add_argument("--table", type=Path, required=True, help="the same as Markdown")
    steps = commands.add_parser("ladder", help="put the results of the ladders' steps together")
    steps.add_argument("files", type=Path, nargs="+", help="JSON files of these variants")
    steps.add_argument("--output", type=Path, required=True, help="JSON")
    commands.add_parser("list", help="print the variants' names")
    options = parser.parse_args()
    os.environ["NKI_SIMULATOR"] = "1"
    install()
    if options.command == "list":
        print("\n".join(variants()))
        return 0
    run = {"variant": _variant, "collect": _collect, "ladder": _ladder}
    return run[options.command](options)


def _variant(options: argparse.Namespace) -> int:
    from .evaluation import evaluate

    result = evaluate(variants()[options.name])
    write_json(options.output, result)
    for platform, found in result["times"].items():
        print(f"{options.name}: {found['time_us']['nominal']:.2f} {result['unit']} on {platform}")
    if result["problem"]:
        print(f"{options.name} is broken: {result['problem']}", file=sys.stderr)
    return 0


def _collect(options: argparse.Namespace) -> int:
    from .table import TuningError, collect, markdown

    results: list[dict[str, Any]] = [read_json(file) for file in options.files]
    try:
        table = collect(results)
    except TuningError as error:
        print(error, file=sys.stderr)
        return 1
    write_atomically(options.table, markdown(table))
    write_json(options.output, table)
    print(markdown(table))
    return 0


def _ladder(options: argparse.Namespace) -> int:
    from .table import TuningError, ladders

    try:
        found = ladders([read_json(file) for file in options.files])
    except TuningError as error:
        print(error, file=sys.stderr)
        return 1
    write_json(options.output, found)
    for kernel, one in found["kernels"].items():
        for step in one["steps"]:
            times = ", ".join(f"{p} {t['nominal']:.1f} us" for p, t in step["time_us"].items())
            print(f"{kernel}: {step['step']}: {times}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
