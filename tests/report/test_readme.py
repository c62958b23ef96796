"""README's generated parts, badges and pictures are of one record, and of the project as it is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.image
import pytest
from building import build_report
from sample_record import device_record, simulator_record

from evaluation.files import read_json, sha256_file, write_json
from kernels.specs import SPECS
from report import pictures
from report.badges import ABSENT, BAD, BADGES, DOUBTFUL, GOOD, MODELLED, svg
from report.captions import captions
from report.fields import MissingValue, ReportError
from report.figures import FIGURES
from report.readme import extract
from report.readme_blocks import MARKERS, SHOWN, figures_page, results_block, with_blocks
from workflow.scripts import readme as script

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README, RESULTS = ROOT / "README.md", DOCS / "results.json"
AGAIN = "run: snakemake --cores 1 readme"
EMPTY = "\n".join(line for pair in MARKERS.values() for line in pair)


def found(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    write_json(folder / "record.json", record)
    return extract(folder / "record.json")


COMMITTED = pytest.mark.skipif(not RESULTS.exists(), reason="no results are committed")


def test_readme_has_a_place_for_results_and_none_of_its_own() -> None:
    text = README.read_text(encoding="utf-8")
    if not RESULTS.exists():
        for begin, end in MARKERS.values():
            assert f"{begin}\n{end}\n" in text, "results in README come from docs/results.json"
    else:
        assert with_blocks(text, read_json(RESULTS)) == text, AGAIN


@COMMITTED
def test_the_results_are_of_the_kernels_that_there_are() -> None:
    assert read_json(RESULTS)["kernels"] == len(SPECS), AGAIN


@COMMITTED
def test_pictures_are_of_the_same_record_and_none_is_left_over() -> None:
    sha256 = read_json(RESULTS)["record_sha256"].encode()
    drawn = {file.stem: file for file in (DOCS / "figures").iterdir()}
    assert drawn.keys() == FIGURES.keys(), AGAIN
    for png in (DOCS / "technical_report.png", *drawn.values()):
        assert sha256 in png.read_bytes(), f"{png.name} is of another record; {AGAIN}"


@COMMITTED
def test_badges_say_what_the_results_say_and_none_is_left_over() -> None:
    results = read_json(RESULTS)
    files = {file.stem: file.read_text() for file in (DOCS / "badges").iterdir()}
    assert files == {name: svg(badge(results)) for name, badge in BADGES.items()}, AGAIN


@COMMITTED
def test_the_page_of_figures_is_of_the_same_results() -> None:
    assert (DOCS / "figures.md").read_text() == figures_page(read_json(RESULTS)), AGAIN


def test_without_a_device_there_is_no_score(tmp_path: Path) -> None:
    text = results_block(found(simulator_record((1,)), tmp_path))
    assert "| prompts within the accuracy rule | 4 of 5 |" in text
    assert "| score | none: it is made of device latencies, and no Trainium took part |" in text
    assert "on this project's instruction-level simulator; 2026-03-01T12:00:00Z, commit `" in text
    assert sha256_file(tmp_path / "record.json")[:12] in text


def test_a_device_s_score_stands_beside_its_baseline_s(tmp_path: Path) -> None:
    record = device_record()
    record["provenance"] |= {"dirty": True}
    text, summary = results_block(found(record, tmp_path)), record["summary"]
    score = f"{summary['nki_total_score']:.2f}, baseline {summary['baseline_total_score']:.2f}"
    assert f"| score | {score} (+" in text and "with uncommitted changes, record" in text


def test_modelled_values_have_a_table_of_their_own_with_ranges(tmp_path: Path) -> None:
    record = simulator_record()
    text = results_block(found(record, tmp_path))
    measured, modelled = text.split("**Modelled, not measured:**")
    step = record["modelled"]["predictions"]["trn3"]["paths"]["fused"]["decode"][-1]["total_us"]
    low, nominal, high = (float(f"{step[end] / 1e3:.3g}") for end in ("low", "nominal", "high"))
    rows = [line for line in modelled.splitlines() if "path fused |" in line]
    trn3 = rows[0].strip("| ").split(" | ")[-1]
    assert [float(x) for x in re.findall(r"[0-9.]+", trn3)] == [nominal, low, high]
    assert "| modelled | trn2 | trn3 |" in modelled and "modelled" not in measured


def test_a_record_without_modelled_values_has_no_table_of_them(tmp_path: Path) -> None:
    record = simulator_record()
    del record["modelled"]
    results = found(record, tmp_path)
    assert "not measured" not in results_block(results) and "modelled" not in results
    assert BADGES["decode_step"](results).value == "none"


def test_a_record_that_lacks_something_is_told(tmp_path: Path) -> None:
    record = simulator_record()
    del record["summary"]["prompts_passed"]
    with pytest.raises(MissingValue, match=r"summary\.prompts_passed"):
        found(record, tmp_path)
    record = simulator_record() | {"provenance": simulator_record()["provenance"]}
    record["provenance"] |= {"commit": None, "dirty": None}
    assert "no commit, record" in results_block(found(record, tmp_path))


@pytest.mark.parametrize("text", ["", *MARKERS["results"], *MARKERS["badges"], "x"])
def test_a_readme_without_place_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no place for the badges"):
        with_blocks(text, found(simulator_record(), tmp_path))
    with pytest.raises(ReportError, match="no place for the results"):
        with_blocks("\n".join(MARKERS["badges"]), found(simulator_record(), tmp_path))


def test_colours_of_badges_follow_the_values(tmp_path: Path) -> None:
    good = found(simulator_record(), tmp_path)
    assert BADGES["prompts"](good).colour == BADGES["tokens"](good).colour == GOOD
    assert BADGES["score"](good).colour == BADGES["ran_on"](good).colour == ABSENT
    assert BADGES["decode_step"](good).colour == MODELLED
    assert BADGES["prompts"](good | {"prompts_passed": 4}).colour == BAD
    assert BADGES["tokens"](good | {"tokens_equal": 0}).colour == DOUBTFUL
    faster, slower = (found(device_record(*speed), tmp_path) for speed in ((), (0.9,)))
    assert BADGES["score"](faster).colour == BADGES["ran_on"](faster).colour == GOOD
    assert BADGES["score"](slower).colour == BAD


def test_a_badge_is_an_image_that_says_its_text(tmp_path: Path) -> None:
    results = found(device_record(), tmp_path) | {"hardware": 'Trainium <2> & "3"'}
    for badge in (one(results) for one in BADGES.values()):
        image = ElementTree.fromstring(svg(badge))
        texts = [e.text for e in image.iter() if e.tag.endswith(("title", "text"))]
        assert texts == [badge.text, badge.label, badge.value]
        assert image.get("aria-label") == badge.text
        assert badge.colour in svg(badge)


def test_the_page_has_every_figure_with_its_caption(tmp_path: Path) -> None:
    text = figures_page(found(simulator_record(), tmp_path))
    for name, one in captions("figures", platform="trn2").items():
        assert f"## {one.title}\n\n![{one.title}](figures/{name}.png)\n\n{one.caption}" in text
    assert set(SHOWN) <= FIGURES.keys()


def test_a_pdf_without_pages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").write_text("no pdf")
    with pytest.raises(ReportError, match=r"pdftoppm is not installed|x\.pdf: no pages"):
        pictures.pages(tmp_path / "x.pdf", "0" * 64)


def test_figures_that_are_missing_or_of_another_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"drift\.png is missing"):
        pictures.figures(tmp_path, ["drift"], "0" * 64)
    (tmp_path / "drift.png").write_bytes(b"\x89PNG RecordSHA256 " + b"1" * 64)
    with pytest.raises(ReportError, match=r"drift\.png is not of this record"):
        pictures.figures(tmp_path, ["drift"], "0" * 64)


def test_the_program_writes_all_that_is_generated_and_no_more(
    needs_latexmk: None, tmp_path: Path
) -> None:
    if shutil.which("pdftoppm") is None:
        pytest.skip("pdftoppm (poppler-utils) is not installed")
    pdf, _ = build_report(simulator_record(), tmp_path)
    record, figures, top = (
        tmp_path / "benchmark_results.json",
        pdf.parent / "figures",
        tmp_path / "t",
    )
    results = extract(record)
    top.mkdir()
    (top / "README.md").write_text(f"before\n{EMPTY}\nafter\n")
    flags = {"--record": record, "--report": pdf, "--figures": figures, "--root": top}
    words = [str(word) for pair in flags.items() for word in pair]
    script.main(words)
    text = (top / "README.md").read_text()
    assert text == with_blocks(f"before\n{EMPTY}\nafter\n", results)
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert read_json(top / "docs" / "results.json") == results
    made = {file.relative_to(top).as_posix() for file in top.rglob("*") if file.is_file()}
    assert made == {
        "README.md", "docs/results.json", "docs/figures.md", "docs/technical_report.png",
        *(f"docs/figures/{name}.png" for name in FIGURES),
        *(f"docs/badges/{name}.svg" for name in BADGES),
    }  # fmt: skip
    for png in top.rglob("*.png"):
        assert results["record_sha256"].encode() in png.read_bytes()
    height, width, _ = matplotlib.image.imread(top / "docs" / "technical_report.png").shape
    assert width > 2 * height / 2**0.5, "three pages side by side"
    (figures / "drift.png").write_bytes(b"other")
    shutil.rmtree(top / "docs")
    with pytest.raises(SystemExit, match=r"drift\.png is not of this record"):
        script.main(words)
    assert not (top / "docs").exists(), "everything or nothing"
