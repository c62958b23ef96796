"""The README of a submission, written from its record: nobody types a result.

What the record does not hold is said to be not measured, with the record's own reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from statistics import fmean
from typing import Any

_ABSENT = "not measured"
_HOW_TO_RUN = """\
## How to run

The kernel tests need Python 3.10 or newer with `numpy` and `ml_dtypes`, nothing else; without the
Neuron SDK they run on the simulator in `nki_sim/`:

```bash
python3 test_nki_kernels.py
```

The folders are those of the repository, file by file, so that what is tested here is what was
measured: the imports are the same (`from kernels.nki_custom_rmsnorm import ...`) and no second copy
can differ. `MANIFEST.json` holds the SHA-256 of every file."""


def write_readme(record: Mapping[str, Any], record_sha256: str, files: Mapping[str, bytes]) -> str:
    """Return the README (Markdown) of the submission that holds `files` (name -> content)."""
    sections = [
        f"# {_text(record['competition'])}: submission",
        _team(record["team"]),
        "## Contents\n\n" + _contents(files),
        "## Performance summary\n\n" + _summary(record),
        "## NKI kernels\n\n" + _kernels(record),
        _HOW_TO_RUN,
        "## Where the numbers come from\n\n" + _origin(record, record_sha256),
        "## Licence\n\nSee `LICENSE`.",
    ]
    return "\n\n".join(sections) + "\n"


def _team(team: Mapping[str, Any]) -> str:
    return "\n".join(
        [
            f"- **Team name**: {_text(team['name'])}",
            f"- **Members**: {_text(', '.join(team['members']) or 'none named')}",
            f"- **Email**: {_text(team['email'] or 'none given')}",
        ]
    )


def _contents(files: Mapping[str, bytes]) -> str:
    """List every source file with the first line of its docstring, packages' markers left out."""
    described = {
        name: _first_docstring_line(content)
        for name, content in sorted(files.items())
        if name.endswith(".py")
        and not name.endswith("__init__.py")
        and PurePosixPath(name).parts[0] != "nki_sim"
    }
    rows = [(f"`{name}`", text) for name, text in described.items()]
    rows += [
        ("`nki_sim/`", "The simulator on which the kernels run without the Neuron SDK"),
        ("`technical_report.pdf`", "The report"),
        ("`technical_report.tex`", "Its LaTeX source; figures and bibliography lie beside it"),
        ("`benchmark_results.json`", "Every result, with raw samples and provenance"),
        ("`MANIFEST.json`", "SHA-256 and size of every file"),
    ]
    return _table(("File", "Description"), rows)


def _summary(record: Mapping[str, Any]) -> str:
    summary, prompts = record["summary"], record["per_prompt_results"]
    score = (summary.get("baseline_total_score"), summary.get("nki_total_score"))
    latency = (_mean(prompts, "baseline", "latency_ms"), _mean(prompts, "nki", "latency_ms"))
    throughput = (
        _mean(prompts, "baseline", "throughput_tok_s"),
        _mean(prompts, "nki", "throughput_tok_s"),
    )
    ratio = summary.get("nki_flops_ratio")
    rows = [
        _compared("**Total score**", score, "{:.2f}"),
        _compared("Latency (p99 per prompt, mean over prompts)", latency, "{:,.0f} ms"),
        _compared("Throughput (mean over prompts)", throughput, "{:.1f} tok/s"),
        ("NKI FLOPS ratio", "-", _number(ratio, "{:.1%}"), "-"),
        ("Accuracy", "reference", _accuracy(summary), "-"),
    ]
    head = (
        f"{_text(record['model'])} on {_text(record['hardware'])}, backend "
        f"`{_text(record['backend'])}`, {len(prompts)} prompts."
    )
    table = _table(("Metric", "Baseline", "NKI", "Change"), rows)
    return "\n\n".join([head, table, *_absences(record)])


def _accuracy(summary: Mapping[str, Any]) -> str:
    if "accuracy" not in summary:
        return _ABSENT
    return (
        f"{100 * summary['accuracy']:g} % ({summary['prompts_passed']} of "
        f"{summary['prompts_total']} prompts; {summary['tokens_equal']} of "
        f"{summary['tokens_checked']} tokens equal)"
    )


def _absences(record: Mapping[str, Any]) -> list[str]:
    keys_by_reason: dict[str, list[str]] = {}
    for entry in record.get("absent", []):
        keys_by_reason.setdefault(_text(entry["reason"]), []).append(f"`{_text(entry['key'])}`")
    if not keys_by_reason:
        return []
    lines = [f"- {reason}: {', '.join(keys)}" for reason, keys in keys_by_reason.items()]
    return ["What this record does not hold, and why:", "\n".join(lines)]


def _kernels(record: Mapping[str, Any]) -> str:
    rows = []
    for kernel in record["nki_kernels_implemented"]:
        validation, launches = kernel.get("validation", {}), kernel.get("launches", {})
        rows.append(
            (
                _text(kernel["name"]),
                f"`kernels/{_text(kernel['file'])}`",
                _text(kernel["description"]),
                _number(validation.get("float32", {}).get("max_abs_error"), "{:.3g}"),
                _number(validation.get("bfloat16", {}).get("max_abs_error"), "{:.3g}"),
                _number(launches.get("prefill"), "{}"),
                _number(launches.get("decode_step"), "{}"),
            )
        )
    columns = (
        "Kernel",
        "File",
        "Description",
        "Max. abs. error, fp32",
        "Max. abs. error, bf16",
        "Launches per prefill",
        "Launches per decode step",
    )
    return _table(columns, rows)


def _origin(record: Mapping[str, Any], record_sha256: str) -> str:
    provenance = record["provenance"]
    commit = provenance.get("commit")
    state = " with uncommitted changes" if provenance.get("dirty") else ""
    code = f"commit `{commit}`{state}" if commit else "sources outside version control"
    return (
        f"Report and tables are derived from `benchmark_results.json` (SHA-256 `{record_sha256}`), "
        f"which was measured with {code}; the kernels in this archive have the hashes that it "
        "states. The repository at that commit rebuilds all of it with one command."
    )


def _compared(
    name: str, values: tuple[float | None, float | None], form: str
) -> tuple[str, str, str, str]:
    baseline, nki = values
    change = "-" if baseline is None or nki is None else f"{100 * (nki / baseline - 1):+.1f} %"
    return name, _number(baseline, form), _number(nki, form), change


def _mean(prompts: Iterable[Mapping[str, Any]], side: str, key: str) -> float | None:
    values = [prompt[side].get(key) for prompt in prompts]
    return None if not values or None in values else fmean(values)


def _number(value: float | None, form: str) -> str:
    return _ABSENT if value is None else form.format(value)


def _first_docstring_line(content: bytes) -> str:
    docstring = ast.get_docstring(ast.parse(content)) or ""
    return _text(docstring.partition("\n")[0])


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: str) -> str:
    """Make a string that someone typed safe inside a Markdown table and outside of HTML."""
    escaped = value.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(escaped.split())
