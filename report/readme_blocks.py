"""README's generated parts and the page of all figures, in Markdown, from docs/results.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from report.badges import BADGES
from report.captions import Caption, captions
from report.facts import BACKENDS
from report.fields import ReportError

MARKERS = {
    name: (f"<!-- {name}: from docs/results.json, by: snakemake readme -->", f"<!-- {end} -->")
    for name, end in (("badges", "end of the badges"), ("results", "end of the results"))
}
"""What stands before and after each generated part of README."""

SHOWN = ("accuracy_margin", "token_time", "tuning_ladder", "predicted_against_published")
"""The figures that README itself shows, two in a row."""


def with_blocks(text: str, found: dict[str, Any]) -> str:
    """Return a README with what lies between its markers replaced by what is generated."""
    for name, block in (("badges", badges_block), ("results", results_block)):
        begin, end = MARKERS[name]
        before, opened, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise ReportError(f"README.md: no place for the {name} between {begin} and {end}")
        text = f"{before}{begin}\n{block(found)}\n{end}{after}"
    return text


def badges_block(found: dict[str, Any]) -> str:
    """Return the badges as images, each with its text."""
    return "\n".join(
        f"![{badge(found).text}](docs/badges/{name}.svg)" for name, badge in BADGES.items()
    )


def results_block(found: dict[str, Any]) -> str:
    """Return what was run and what came of it, apart from it what is modelled, and pictures."""
    parts = [f"{_ran(found)}:", _table(["", ""], _rows(found))]
    if "modelled" in found:
        parts += [_modelled_words(found["modelled"]), _modelled_table(found["modelled"])]
    link = "All figures with their captions: [docs/figures.md](docs/figures.md)."
    return "\n\n".join([*parts, _shown(figure_captions(found)), link])


def figures_page(found: dict[str, Any]) -> str:
    """Return docs/figures.md: every figure of the report with its caption."""
    figures = [
        f"## {one.title}\n\n![{one.title}](figures/{name}.png)\n\n"
        f"{one.caption.strip()} **Basis: {one.basis}.**\n"
        for name, one in figure_captions(found).items()
    ]
    head = "# Figures\n\nThose of the technical report, by `snakemake readme`."
    return "\n".join([f"{head} What ran: {_ran(found)}.\n", *figures])


def figure_captions(found: dict[str, Any]) -> dict[str, Caption]:
    """Return the captions of the figures for the platform of a record."""
    return captions("figures", platform=found["platform_target"])


def _ran(found: dict[str, Any]) -> str:
    """Return what was run, on what, when, from which commit, and into which record."""
    new_tokens = found["max_new_tokens"]
    commit = f"commit `{found['commit'][:10]}`" if found["commit"] else "no commit"
    changed = " with uncommitted changes" if found["dirty"] else ""
    length = f"{new_tokens} new tokens" if new_tokens else "the whole window"
    return (
        f"{found['model']}, {length} per prompt, on {BACKENDS[found['backend']]}; "
        f"{found['timestamp']}, {commit}{changed}, record `{found['record_sha256'][:12]}`"
    )


def _rows(found: dict[str, Any]) -> list[list[str]]:
    path = found["kernel_path"]
    return [
        [
            "prompts within the accuracy rule",
            f"{found['prompts_passed']} of {found['prompts_total']}",
        ],
        [
            "tokens chosen as the baseline chooses",
            f"{found['tokens_equal']} of {found['tokens_checked']}",
        ],
        [
            "worst logit error, in parts of its tolerance",
            f"{found['worst_fraction_of_tolerance']:.2g}",
        ],
        ["kernels, each validated against its oracle", str(found["kernels"])],
        [f"launches per decode step (path {path})", str(found["launches_per_decode_step"])],
        ["score", _score(found)],
    ]


def _score(found: dict[str, Any]) -> str:
    if "nki_total_score" not in found:
        return "none: it is made of device latencies, and no Trainium took part"
    scores = f"{found['nki_total_score']:.2f}, baseline {found['baseline_total_score']:.2f}"
    return f"{scores} ({found['improvement_percent']:+.1f} %), on {found['hardware']}"


def _modelled_words(modelled: dict[str, Any]) -> str:
    return (
        f"**Modelled, not measured:** what the [latency model](docs/latency.md) predicts for "
        f"{modelled['model']} in {modelled['dtype']} on {modelled['ranks']} ranks of "
        f"{modelled['cores_per_rank']} cores, nominal and its range. No score of the challenge."
    )


def _modelled_table(modelled: dict[str, Any]) -> str:
    decode = f"decode step, window of {modelled['decode_bucket_tokens']} tokens"
    lines: dict[str, Callable[[dict[str, Any]], str]] = {
        f"{decode}, path fused": lambda values: _span(values["fused_us"], 1e3, "ms"),
        f"{decode}, path layered": lambda values: _span(values["layered_us"], 1e3, "ms"),
        "fused step on the device over what its weights need from HBM": lambda values: (
            f"{values['device_bound_ratio']:.2f}"
        ),
        f"prefill of {modelled['prefill_bucket_tokens']} tokens": lambda values: _span(
            values["prefill_us"], 1e3, "ms"
        ),
        "score, path fused, all prompts": lambda values: _span(values["total_score"]),
    }
    platforms = modelled["platforms"]
    rows = [[name, *map(cell, platforms.values())] for name, cell in lines.items()]
    return _table(["modelled", *platforms], rows)


def _span(values: dict[str, float], divisor: float = 1.0, unit: str = "") -> str:
    """Return a nominal value and its range in three digits, as in "5.2 ms (3.1 to 9.8)"."""
    low, nominal, high = (_digits(values[end] / divisor) for end in ("low", "nominal", "high"))
    return f"{' '.join(filter(None, [nominal, unit]))} ({low} to {high})"


def _digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


def _shown(found: dict[str, Caption]) -> str:
    """Return a table of the shown figures, two in a row, each below its title and basis."""
    cells = {
        name: (
            f"**{found[name].title}** ({found[name].basis})",
            f"![{found[name].title}](docs/figures/{name}.png)",
        )
        for name in SHOWN
    }
    pairs = [SHOWN[i : i + 2] for i in range(0, len(SHOWN), 2)]
    rows = [[cells[name][part] for name in pair] for pair in pairs for part in (0, 1)]
    return _table(rows[0], rows[1:])


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
