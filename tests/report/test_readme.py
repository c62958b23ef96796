"""README's results and picture are those of one record, and of the project as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from building import build_report
from sample_record import device_record, simulator_record

from evaluation.files import read_json, sha256_file, write_json
from kernels.specs import SPECS
from report.fields import MissingValue, ReportError
from report.readme import BEGIN, END, block, extract, picture, with_block
from workflow.scripts import readme as script

ROOT = Path(__file__).resolve().parents[2]
README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results.json"
AGAIN = "run: snakemake --cores 1 readme"


def found(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    write_json(folder / "record.json", record)
    return extract(folder / "record.json")


COMMITTED = pytest.mark.skipif(not RESULTS.exists(), reason="no results are committed")


def test_readme_has_a_place_for_results_and_none_of_its_own() -> None:
    text = README.read_text(encoding="utf-8")
    if not RESULTS.exists():
        assert f"{BEGIN}\n{END}\n" in text, "results in README come from docs/results.json"
    else:
        assert with_block(text, read_json(RESULTS)) == text, AGAIN


@COMMITTED
def test_the_results_are_of_the_kernels_that_there_are() -> None:
    assert read_json(RESULTS)["kernels"] == len(SPECS), AGAIN


@COMMITTED
def test_the_picture_is_of_the_same_record() -> None:
    png = (ROOT / "docs" / "technical_report.png").read_bytes()
    assert read_json(RESULTS)["record_sha256"].encode() in png, AGAIN


def test_without_a_device_there_is_no_score(tmp_path: Path) -> None:
    text = block(found(simulator_record((1,)), tmp_path))
    assert "| prompts within the accuracy rule | 4 of 5 |" in text
    assert "| score | none: it is made of device latencies, and no Trainium took part |" in text
    assert "on this project's instruction-level simulator; 2026-03-01T12:00:00Z, commit `" in text
    assert sha256_file(tmp_path / "record.json")[:12] in text


def test_a_device_s_score_stands_beside_its_baseline_s(tmp_path: Path) -> None:
    record = device_record()
    record["provenance"] |= {"dirty": True}
    text, summary = block(found(record, tmp_path)), record["summary"]
    score = f"{summary['nki_total_score']:.2f}, baseline {summary['baseline_total_score']:.2f}"
    assert f"| score | {score} (+" in text and "with uncommitted changes, record" in text


def test_a_record_that_lacks_something_is_told(tmp_path: Path) -> None:
    record = simulator_record()
    del record["summary"]["prompts_passed"]
    with pytest.raises(MissingValue, match=r"summary\.prompts_passed"):
        found(record, tmp_path)
    record = simulator_record() | {"provenance": simulator_record()["provenance"]}
    record["provenance"] |= {"commit": None, "dirty": None}
    assert "no commit, record" in block(found(record, tmp_path))


@pytest.mark.parametrize("text", ["", BEGIN, END, "x"])
def test_a_readme_without_place_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no place for the results"):
        with_block(text, found(simulator_record(), tmp_path))


def test_a_pdf_without_pages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").write_text("no pdf")
    with pytest.raises(ReportError, match=r"pdftoppm is not installed|x\.pdf: no pages"):
        picture(tmp_path / "x.pdf", tmp_path / "x.png", "0" * 64)
    assert not (tmp_path / "x.png").exists()


def test_the_program_replaces_the_block_alone(needs_latexmk: None, tmp_path: Path) -> None:
    if shutil.which("pdftoppm") is None:
        pytest.skip("pdftoppm (poppler-utils) is not installed")
    pdf, _ = build_report(simulator_record(), tmp_path)
    results = found(simulator_record(), tmp_path)
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    files = {"record": "record.json", "readme": "README.md", "png": "p.png", "output": "r.json"}
    words = [word for name, file in files.items() for word in (f"--{name}", str(tmp_path / file))]
    script.main([*words, "--report", str(pdf)])
    assert (tmp_path / "README.md").read_text() == (
        f"before\n{BEGIN}\n{block(results)}\n{END}\nafter\n"
    )
    assert read_json(tmp_path / "r.json") == results
    assert results["record_sha256"].encode() in (tmp_path / "p.png").read_bytes()
    height, width, _ = matplotlib.image.imread(tmp_path / "p.png").shape
    assert width > 2 * height / 2**0.5, "three pages side by side"
