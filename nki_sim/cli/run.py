"""``run``: one launch on random or given inputs, and what came out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..trace import record
from .output import collected_warnings, explain_error, show_warnings, table
from .target import prepare


def main(arguments: argparse.Namespace) -> int:
    """Launch, print statistics of the results, save them on request."""
    target = prepare(arguments.target, arguments.shapes, arguments.seed, arguments.lnc)
    before = {name: array.copy() for name, array in target.tensors().items()}
    error: Exception | None = None
    with record() as recording, collected_warnings() as raised:
        try:
            result = target.kernel(**target.arguments)
        except Exception as caught:
            error = caught
    print(target.described())
    print(show_warnings(raised, recording.launches), end="")
    if error is not None:
        print(explain_error(error))
        if arguments.pdb:
            import pdb

            pdb.post_mortem(error.__traceback__)
        return 1
    results = dict(results_of(result))
    changed = {
        f"{name} (changed in place)": array
        for name, array in target.tensors().items()
        if array.tobytes() != before[name].tobytes()
    }
    rows = [_statistics(name, array) for name, array in (results | changed).items()]
    print(table(("result", "shape", "type", "min", "mean", "max", "std", "not finite"), rows))
    if arguments.save:
        for number, array in enumerate(results.values()):
            np.save(f"{arguments.save}{number}.npy", array)
            print(f"saved {arguments.save}{number}.npy")
    return 0


def results_of(result: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors that a kernel returned, by position."""
    if isinstance(result, tuple | list):
        for position, item in enumerate(result):
            yield from results_of(item, f"{name}[{position}]")
    elif result is not None:
        yield name or "result", result


def _statistics(name: str, array: Any) -> tuple[object, ...]:
    with np.errstate(all="ignore"):
        values = np.asarray(array).astype(np.float64)
        finite = values[np.isfinite(values)]
    shape = "x".join(map(str, array.shape))
    described = ["-"] * 4
    if finite.size:
        described = [f"{f(finite):.6g}" for f in (np.min, np.mean, np.max, np.std)]
    return name, shape, array.dtype.name, *described, values.size - finite.size
