"""The history as data for a plot and as a table: one row per record, then what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from evaluation.history import WORSE, Change, Entry, changes, predecessors
from evaluation.problems import lookup, members, number

SCHEMA_VERSION = 1
_HEAD = (
    "time", "commit", "setting", "prompts passed", "worst error / tolerance", "launches per step",
    "instructions", "MACs", "HBM bytes", "modelled step (us)", "NKI score",
    "against the one before",
)  # fmt: skip
_NO_VALUE = "-"


def _worst_fraction(record: dict[str, Any]) -> float | None:
    fractions = [
        number(record, f"{entry}.fraction_of_tolerance")
        for prompt in members(record, "per_prompt_results")
        for entry in members(record, f"{prompt}.nki.accuracy.top_k")
    ]
    known = [fraction for fraction in fractions if fraction is not None]
    return max(known) if known else None


def _launches_per_step(record: dict[str, Any]) -> float:
    """Launches of a decode step by the evaluated kernel path; others have runs of their own."""
    path = lookup(record, "test_configuration.kernel_path")
    own = [k["launches"] for k in record["nki_kernels_implemented"]]
    return sum(k["decode_step"] for k in own if path in (None, k.get("kernel_path", path)))


def _sum_of_costs(*keys: str) -> Callable[[dict[str, Any]], float]:
    return lambda record: sum(
        kernel["cost"][key] for kernel in record["nki_kernels_implemented"] for key in keys
    )


def _instructions(record: dict[str, Any]) -> float:
    kernels = record["nki_kernels_implemented"]
    return sum(sum(kernel["cost"]["instructions"].values()) for kernel in kernels)


def _modelled_step(record: dict[str, Any]) -> float | None:
    """Modelled time in us of the fused decode step at the largest bucket, on the platform."""
    path = f"modelled.predictions.{record['platform_target']}.paths.fused.decode"
    steps = members(record, path)
    return number(record, f"{steps[-1]}.total_us.nominal") if steps else None


FIGURES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "prompts_passed": lambda record: number(record, "summary.prompts_passed"),
    "worst_fraction_of_tolerance": _worst_fraction,
    "launches_per_decode_step": _launches_per_step,
    "instructions": _instructions,
    "macs": _sum_of_costs("macs"),
    "hbm_bytes": _sum_of_costs("hbm_read_bytes", "hbm_write_bytes"),
    "modelled_decode_us": _modelled_step,
    "nki_total_score": lambda record: number(record, "summary.nki_total_score"),
}
"""What is shown of a record. Costs are sums over its kernels, one launch each at stated shapes."""


def history(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the history as JSON: per record its figures, and its changes against the one before.

    `previous` is the position of the record that it is compared with, null without one.
    """
    before = predecessors(entries)
    return {
        "schema_version": SCHEMA_VERSION,
        "records": [
            {
                "name": entry.name,
                "commit": entry.commit,
                "timestamp": entry.record["timestamp"],
                "setting": entry.setting,
                "previous": None if earlier is None else list(entries).index(earlier),
                "figures": {name: figure(entry.record) for name, figure in FIGURES.items()},
                "score_interval": lookup(
                    entry.record, "statistics.totals.nki_total_score_interval"
                ),
                "changes": [vars(change) for change in _changes(earlier, entry)],
            }
            for entry, earlier in zip(entries, before, strict=True)
        ],
    }


def regressions(content: dict[str, Any]) -> list[str]:
    """Return the changes for the worse of the latest record."""
    last = content["records"][-1:]
    found = (Change(**change) for record in last for change in record["changes"])
    return [str(change) for change in found if change.verdict == WORSE]


def markdown(content: dict[str, Any]) -> str:
    """Return the history as a document: the table, then each record's changes in full."""
    lines = ["# Records, oldest first", "", _row(_HEAD), _row(["---"] * len(_HEAD))]
    lines += [_row(_cells(record)) for record in content["records"]]
    for record in content["records"]:
        if record["changes"]:
            lines += ["", f"## {record['timestamp']} at {record['commit']}", ""]
            lines += [f"- {Change(**change)}" for change in record["changes"]]
    return "\n".join(lines) + "\n"


def _changes(earlier: Entry | None, entry: Entry) -> list[Change]:
    return [] if earlier is None else changes(earlier, entry)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _cells(record: dict[str, Any]) -> Iterator[str]:
    yield from (record["timestamp"], record["commit"], record["setting"])
    figures = dict(record["figures"])
    score = figures.pop("nki_total_score")
    yield from (_NO_VALUE if value is None else f"{value:.6g}" for value in figures.values())
    low_high = record["score_interval"]
    interval = f" ({low_high[0]:.2f} to {low_high[1]:.2f})" if low_high else ""
    yield _NO_VALUE if score is None else f"{score:.2f}{interval}"
    yield _summary(record)


def _summary(record: dict[str, Any]) -> str:
    if record["previous"] is None:
        return "the first of its setting"
    verdicts = [change["verdict"] for change in record["changes"]]
    counts = [f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)]
    return ", ".join(counts) or "no change beyond noise"
