"""Which jobs run after which change: the real rules, on a finished checkout."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import pytest
from checkout import Checkout, touch

from kernels.specs import SPECS
from kernels.variants import ladder_variants
from report.figures import FIGURES
from report.tables import tables_of

PROMPTS = range(5)
BASELINES = {f"evaluate_baseline {i}" for i in PROMPTS}
NKI = {f"evaluate_nki {i}" for i in PROMPTS}
CHECKS = {f"check_path {name}" for name in ("layered_float32", "rows_float32", "fused_bfloat16")}
FIGURE_JOBS = {f"plot_figure {name}" for name in FIGURES}
TABLE_JOBS = {f"tabulate {name}" for name in tables_of("simulator")}
TESTS = {f"test_kernel {name}" for name in SPECS}
ARCHIVE = {"archive", "verify_archive"}
PDF = {"build_pdf"} | ARCHIVE
REPORT = FIGURE_JOBS | {"render_report"} | PDF
RECORD = {"aggregate_results"} | TABLE_JOBS | REPORT
PREDICTED = {"predict_latency trn2", "predict_latency trn3"}
LADDER = {f"tune_variant {name}" for name in ladder_variants()} | {"collect_ladder"}
MODELLED = PREDICTED | LADDER | {"validate_latency"}
COMPILED = {"compile_baseline", "compile_nki"}
WITH_KERNELS = {"compile_nki"} | NKI | CHECKS | RECORD
EVERYTHING = {"make_tiny_model"} | COMPILED | BASELINES | TESTS | MODELLED | WITH_KERNELS
NOT_OF_THE_MODEL = TESTS | MODELLED
KERNELS = TESTS | PREDICTED | LADDER


def line(text: str) -> Callable[[str], str]:
    """The change of appending a line."""
    return lambda content: f"{content}{text}\n"


def value(key: str, new: str) -> Callable[[str], str]:
    """The change of a value in config.yaml."""
    return lambda content: re.sub(rf"(?m)^( *{key}: ).*$", rf"\g<1>{new}", content, count=1)


def line_before(text: str) -> Callable[[str], str]:
    return lambda content: text + content


def replace(old: str, new: str) -> Callable[[str], str]:
    return lambda content: content.replace(old, new, 1)


CODE, COMMENT = line("CHANGED = True"), line("# a comment")
CHANGES: dict[str, tuple[str, Callable[[str], str], Iterable[str]]] = {
    "a kernel": (
        "kernels/nki_prefill_moe_kernels.py", CODE,
        {"test_kernel router_prefill", "test_kernel experts_prefill", "collect_ladder"}
        | {job for job in LADDER if job.startswith("tune_variant experts_prefill")}
        | PREDICTED | WITH_KERNELS),
    "a kernel's comment": (
        "kernels/nki_lm_head_kernels.py", COMMENT,
        {"test_kernel lm_head"} | PREDICTED | WITH_KERNELS),
    "what all kernels share": ("kernels/nki_common.py", CODE, KERNELS | WITH_KERNELS),
    "an oracle": ("kernels/reference.py", CODE, KERNELS | WITH_KERNELS),
    "the comparison with the oracles": ("kernels/verification.py", CODE, TESTS | LADDER | RECORD),
    "a layer of the model": ("model/layers.py", CODE, WITH_KERNELS),
    "the model with kernels": ("model/qwen_cpu.py", CODE, WITH_KERNELS),
    "the baseline": (
        "model/baseline.py",
        CODE,
        {"compile_baseline"} | BASELINES | NKI | CHECKS | RECORD,
    ),
    "the small kernels' model": ("model/qwen_rows.py", CODE, WITH_KERNELS),
    "the tiny checkpoint": ("model/tiny.py", CODE, EVERYTHING - NOT_OF_THE_MODEL),
    "the tokenizer's corpus": ("model/tiny_corpus.txt", line("x"), EVERYTHING - NOT_OF_THE_MODEL),
    "the download, which is only archived": ("model/fetch.py", CODE, ARCHIVE),
    "a module of the simulator": ("nki_sim/errors.py", CODE, TESTS | MODELLED | WITH_KERNELS),
    "the scheduler of modelled times": ("nki_sim/latency/scheduler.py", CODE, MODELLED | RECORD),
    "a constant of a chip": ("nki_sim/hardware/trn2.yaml", COMMENT, MODELLED | RECORD),
    "the whole model's modelled time": ("prediction/steps.py", CODE, PREDICTED | RECORD),
    "an assumption about the host": ("prediction/assumptions.yaml", COMMENT, PREDICTED | RECORD),
    "a published measurement": (
        "validation/points.yaml", COMMENT, {"validate_latency"} | RECORD),
    "the simulator's manual": ("nki_sim/README.md", line("x"), ARCHIVE),
    "the score": ("evaluation/scoring.py", CODE, PREDICTED | RECORD),
    "the rule of accuracy": ("evaluation/accuracy.py", CODE, BASELINES | NKI | CHECKS | RECORD),
    "the validator of records": ("evaluation/records.py", CODE, RECORD),
    "the schema of records": ("workflow/schemas/benchmark_results.schema.json", line(""), RECORD),
    "the published baselines": ("config/baselines.yaml", COMMENT, PREDICTED | RECORD),
    "the tables": ("report/table_files.py", CODE, TABLE_JOBS),
    "what figures, tables and text derive": ("report/modelled.py", CODE, TABLE_JOBS | REPORT),
    "a caption": (
        "report/captions.yaml", replace("Roofline of", "The roofline of"),
        {"plot_figure roofline", "render_report"} | TABLE_JOBS | PDF),
    "the figures": ("report/figures.py", CODE, FIGURE_JOBS | PDF),
    "the template": ("report/technical_report.tex.j2", line("%"), {"render_report"} | PDF),
    "the bibliography": ("report/references.bib", line("%"), PDF),
    "the typesetting": ("report/build.py", CODE, PDF),
    "a rule's program": ("workflow/scripts/plot_figure.py", COMMENT, REPORT - {"render_report"}),
    "prompt 3": (
        "config/prompts.txt", replace("map is not", "map is never"),
        {"evaluate_baseline 3", "evaluate_nki 3"} | RECORD),
    "the prompt of the checks": (
        "config/prompts.txt", line_before("One word more. "),
        {"evaluate_baseline 0", "evaluate_nki 0"} | CHECKS | RECORD),
    "a new prompt": (
        "config/prompts.txt", line("\nOne more."),
        {"evaluate_baseline 5", "evaluate_nki 5"} | RECORD),
    "the space around prompts": ("config/prompts.txt", line("\n\n"), RECORD),
    "the team's name": ("config/config.yaml", value("name", "Team $1 {x} 'é'"), RECORD),
    "timed_runs": ("config/config.yaml", value("timed_runs", "4"), BASELINES | NKI | RECORD),
    "max_new_tokens": (
        "config/config.yaml", value("max_new_tokens", "16"), BASELINES | NKI | RECORD),
    "the tolerance": (
        "config/config.yaml", value("divergence_difference_tolerance", "0.002"),
        NKI | CHECKS | RECORD),
    "platform_target": (
        "config/config.yaml", value("platform_target", "trn3"),
        EVERYTHING - {"make_tiny_model"} - MODELLED),
    "the checkpoint's seed": (
        "config/config.yaml", replace("launches\n  seed: 0", "launches\n  seed: 1"),
        EVERYTHING - NOT_OF_THE_MODEL),
}  # fmt: skip

HARMLESS: dict[str, tuple[str, Callable[[str], str]]] = {
    **{
        f"{file}, touched": (file, touch)
        for file in (
            "results/benchmark_results.json", "results/evaluations/nki/prompt_0.json",
            "results/model_manifest.json", "kernels/nki_kernels.py", "main.py",
            "workflow/scripts/render_report.py", "Snakefile", "workflow/rules/common.smk",
            "report/technical_report.tex.j2", "config/config.yaml", "config/prompts.txt",
            "nki_sim/errors.py",
        )
    },
    "a comment in the configuration": ("config/config.yaml", COMMENT),
    "the Neuron interpreter": ("config/config.yaml", value("python", "/bin/sh")),
    "a comment in the Snakefile": ("Snakefile", COMMENT),
    "a comment in a rule": ("workflow/rules/evaluate.smk", COMMENT),
    "documentation": ("README.md", line("x")),
}  # fmt: skip

DELETIONS: dict[str, set[str]] = {
    "results/benchmark_results.json": RECORD,
    "report/figures/{figure}.png": {"plot_figure {figure}"} | PDF,
    "results/tables/prompts.csv": {"tabulate prompts"},
    "report/technical_report.tex": set(),
    "report/technical_report.pdf": PDF,
    "results/evaluations/nki/prompt_2.json": set(),
    "results/model/model.safetensors": set(),
}
"""What of the results is deleted. An intermediate that nobody asked for comes back when needed."""


def test_nothing_is_stale_in_a_finished_checkout(finished: Checkout) -> None:
    assert finished.stale() == set()


def test_everything_is_stale_in_a_fresh_one(fresh: Checkout) -> None:
    assert fresh.stale() == EVERYTHING


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_exactly_these_jobs_stale(finished: Checkout, change: str) -> None:
    file, edit, expected = CHANGES[change]
    with finished.changed(file, edit):
        assert finished.stale() == set(expected)


@pytest.fixture(scope="module")
def stale_after_harmless_changes(finished: Checkout) -> set[str]:
    """What all harmless changes together make stale; each is newer than what is made from it."""
    with ExitStack() as changes:
        for file, edit in HARMLESS.values():
            changes.enter_context(finished.changed(file, edit))
        return finished.stale()


@pytest.mark.parametrize("change", HARMLESS)
def test_a_harmless_change_makes_nothing_stale(
    finished: Checkout, change: str, stale_after_harmless_changes: set[str]
) -> None:
    """No change makes less stale: each is looked at alone only when together they do any harm."""
    if stale_after_harmless_changes:
        file, edit = HARMLESS[change]
        with finished.changed(file, edit):
            assert finished.stale() == set()


def test_harmless_changes_together_make_nothing_stale(
    stale_after_harmless_changes: set[str],
) -> None:
    assert stale_after_harmless_changes == set()


def test_a_source_with_other_content_and_an_old_date_is_noticed(finished: Checkout) -> None:
    """So looks a file that was edited while its job ran, or unpacked from an archive."""
    for file, jobs in {
        "nki_sim/errors.py": TESTS | MODELLED | WITH_KERNELS,
        "report/technical_report.tex.j2": {"render_report"} | PDF,
    }.items():
        with finished.changed(file, line("# other")):
            os.utime(finished.path / file, (1e9, 1e9))
            assert finished.stale() == jobs


@pytest.mark.parametrize("file", DELETIONS)
def test_a_deleted_product_makes_exactly_these_jobs_stale(finished: Checkout, file: str) -> None:
    figure = next(iter(FIGURES))
    path, expected = finished.path / file.format(figure=figure), DELETIONS[file]
    aside = path.with_name("aside")
    os.rename(path, aside)
    try:
        assert finished.stale() == {job.format(figure=figure) for job in expected}
    finally:
        os.rename(aside, path)


@pytest.mark.parametrize(
    "override", ["backend=simulator", "platform_target=trn2"], ids=lambda text: text
)
def test_an_override_with_the_same_value_makes_nothing_stale(
    finished: Checkout, override: str
) -> None:
    assert finished.stale("--config", override) == set()
