"""From a record to a PDF in a folder of its own, as the workflow does it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from evaluation.files import write_json
from report.build import build_pdf, epoch_of
from report.figures import FIGURES, plot
from report.render import REPORT_DIR, render_file


def build_report(record: dict[str, Any], folder: Path) -> tuple[Path, list[str]]:
    """Build the report on `record` below `folder`; return the PDF and TeX's overfull boxes."""
    report = folder / "report"
    record_path = folder / "benchmark_results.json"
    write_json(record_path, record)
    for name in FIGURES:
        base = report / "figures" / name
        plot(name, record_path, base.with_suffix(".pdf"), base.with_suffix(".png"))
    shutil.copy(REPORT_DIR / "references.bib", report)
    tex, pdf = report / "technical_report.tex", report / "technical_report.pdf"
    render_file(record_path, report / "figures", tex, tex.with_suffix(".numbers.json"))
    boxes = build_pdf(tex, pdf, epoch_of(record["timestamp"]), folder / "latex")
    return pdf, boxes
