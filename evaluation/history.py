"""Records of earlier runs, kept and compared: what became better or worse, beyond its noise.

A record is filed under its time, commit and hash, so that filing one twice changes nothing. Records
are compared with the one before them that was made under the same conditions: backend, platform,
model, prompts, settings, and for times the machine. Counted figures are exact, so every difference
is one; so is one of modelled times, as long as the constants and assumptions that they rest on are
the same; measured ones differ when the bootstrap interval of their ratio leaves 1. Times of a
simulation are not compared: they say nothing about the kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.benchmark import summarise_ms
from evaluation.bootstrap import CONFIDENCE, LEAST_SAMPLES, interval, means, resampled
from evaluation.files import sha256_bytes, sha256_file, sha256_json, write_atomically
from evaluation.problems import lookup, number, numbers
from evaluation.records import load_record

BETTER, WORSE = "better", "worse"
_COSTS = ("macs", "hbm_read_bytes", "hbm_write_bytes", "sbuf_peak_bytes_per_partition")
_NO_COMMIT = "no commit"


@dataclass(frozen=True)
class Entry:
    """One record of the history."""

    name: str
    record: dict[str, Any]

    @property
    def commit(self) -> str:
        """The commit in short, with a + where the sources differed from it."""
        provenance = self.record["provenance"]
        plus = "+" if provenance["dirty"] else ""
        return f"{provenance['commit'][:10]}{plus}" if provenance["commit"] else _NO_COMMIT

    @property
    def conditions(self) -> str:
        """A hash of what must be equal for a comparison to mean something."""
        names = ("backend", "platform_target", "model", "test_configuration")
        same = {name: self.record[name] for name in names}
        return sha256_json(same | {"prompts": self.record["provenance"]["prompts_sha256"]})

    @property
    def setting(self) -> str:
        """The conditions in words."""
        record, run = self.record, self.record["test_configuration"]
        parts = [record["backend"], record["platform_target"], record["model"], run["dtype"]]
        return ", ".join([*parts, *([run["kernel_path"]] if "kernel_path" in run else [])])


@dataclass(frozen=True)
class Change:
    """A figure that differs from the record before; `noise` is what it was held against."""

    verdict: str
    figure: str
    before: float
    after: float
    noise: str

    def __str__(self) -> str:
        percent = f" ({100 * (self.after / self.before - 1):+.1f} %)" if self.before else ""
        values = f"{self.before:.6g} → {self.after:.6g}{percent}"
        return f"{self.verdict}: {self.figure} {values}, {self.noise}"


def file_record(path: Path, folder: Path) -> Path:
    """Copy the record at `path` into `folder` under its own name and return the copy's path.

    RecordError for a file that is no valid record. The bytes are kept as they are.
    """
    record, data = load_record(path), path.read_bytes()
    commit = record["provenance"]["commit"] or "nocommit"
    moment = record["timestamp"].replace(":", "").replace("-", "")
    target = folder / f"{moment}_{commit[:12]}_{sha256_bytes(data)[:8]}.json"
    if not (target.is_file() and sha256_file(target) == sha256_bytes(data)):
        write_atomically(target, data)
    return target


def read_history(files: Sequence[Path]) -> list[Entry]:
    """Return the records in files, oldest first, each once; RecordError for an invalid one."""
    entries: dict[str, Entry] = {}
    for path in files:
        entries.setdefault(sha256_file(path), Entry(path.stem, load_record(path)))
    return sorted(entries.values(), key=lambda entry: (entry.record["timestamp"], entry.name))


def predecessors(entries: Sequence[Entry]) -> list[Entry | None]:
    """Return for each entry the last one before it under the same conditions, if there is one."""
    last: dict[str, Entry] = {}
    found: list[Entry | None] = []
    for entry in entries:
        found.append(last.get(entry.conditions))
        last[entry.conditions] = entry
    return found


def changes(before: Entry, after: Entry) -> list[Change]:
    """Return every figure that became better or worse beyond its noise."""
    parts = (_accuracy, _kernels, _modelled, _latencies)
    return [change for part in parts for change in part(before, after)]


def _accuracy(before: Entry, after: Entry) -> Iterator[Change]:
    for key in ("summary.prompts_passed", "summary.tokens_equal"):
        yield from _exact(key, number(before.record, key), number(after.record, key), more=True)


def _kernels(before: Entry, after: Entry) -> Iterator[Change]:
    """Compare the counted cost and launches of kernels that both records have, at equal shapes."""
    earlier = {k["kernel"]: k for k in before.record["nki_kernels_implemented"]}
    for kernel in after.record["nki_kernels_implemented"]:
        name, then = kernel["kernel"], earlier.get(kernel["kernel"])
        if then is None or then["cost"]["shapes"] != kernel["cost"]["shapes"]:
            continue
        engines = sorted({*then["cost"]["instructions"], *kernel["cost"]["instructions"]})
        keys = [*_COSTS, *(f"instructions.{engine}" for engine in engines)]
        for key in keys:
            was, now = (lookup(k["cost"], key) or 0 for k in (then, kernel))
            yield from _exact(f"{name} {key}", was, now)
        paths = [lookup(k, "launches.kernel_path") for k in (then, kernel)]
        for phase in ("prefill", "decode_step") if paths[0] == paths[1] else ():
            was, now = (k["launches"][phase] for k in (then, kernel))
            yield from _exact(f"{name} launches per {phase}", was, now)


def _modelled(before: Entry, after: Entry) -> Iterator[Change]:
    """Compare the nominal times of steps and prompts on each platform, at equal assumptions."""
    pairs = [lookup(entry.record, "modelled.predictions") or {} for entry in (before, after)]
    for platform in sorted(pairs[0].keys() & pairs[1].keys()):
        then, now = (pair[platform] for pair in pairs)
        if then["assumptions"] == now["assumptions"]:
            graphs = [_graphs(prediction) for prediction in (then, now)]
            for name in (name for name in graphs[0] if name in graphs[1]):
                figure = f"{platform} modelled {name} in us"
                yield from _exact(figure, graphs[0][name], graphs[1][name])


def _graphs(prediction: dict[str, Any]) -> dict[str, float]:
    """Return the nominal time in us of each modelled graph by name."""
    graphs = {
        f"{path} decode step, bucket {step['bucket']}": step
        for path, found in sorted(prediction["paths"].items())
        for step in found["decode"]
    }
    graphs |= {f"prompt, bucket {step['bucket']}": step for step in prediction["prefill"]}
    return {name: step["total_us"]["nominal"] for name, step in graphs.items()}


def _exact(
    figure: str, before: float | None, after: float | None, more: bool = False
) -> Iterator[Change]:
    """Yield a change of a figure without noise; `more` tells that more is better."""
    if before is None or after is None or before == after:
        return
    yield Change(BETTER if (after > before) == more else WORSE, figure, before, after, "exact")


def _latencies(before: Entry, after: Entry) -> Iterator[Change]:
    """Compare mean latencies on a device, prompt by prompt, by the interval of their ratio.

    The 99th percentile of 20 runs is too noisy to judge. All prompts together keep the confidence:
    each interval is wider, as Bonferroni has it.
    """
    machines = [entry.record["provenance"]["machine"] for entry in (before, after)]
    if after.record["backend"] != "neuron" or machines[0] != machines[1]:
        return
    prompts = after.record["per_prompt_results"]
    confidence = 1.0 - (1.0 - CONFIDENCE) / len(prompts)
    for index, prompt in enumerate(prompts):
        path = f"per_prompt_results[{index}].nki.latency.samples_ms"
        then, now = (numbers(entry.record, path) for entry in (before, after))
        if not then or not now or min(len(then), len(now)) < LEAST_SAMPLES:
            continue
        ratio = means(resampled(now, index, 1)) / means(resampled(then, index, 0))
        low, high = interval(ratio, confidence)
        if not low <= 1.0 <= high:
            noise = f"interval of the ratio {low:.4f} to {high:.4f}"
            figure = f"prompt {prompt['prompt_id']} mean latency in ms"
            verdict = WORSE if low > 1.0 else BETTER
            was_ms, now_ms = (summarise_ms(samples).mean_ms for samples in (then, now))
            yield Change(verdict, figure, was_ms, now_ms, noise)
