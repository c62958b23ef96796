from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest
from building import build_report
from sample_record import device_record, simulator_record

from evaluation.files import sha256_file
from report import build
from report.build import LatexmkMissing, TexError, build_pdf, epoch_of
from report.figures import FIGURES
from report.tex import _LETTERS, _SPECIAL

DASH = "\N{EN DASH}"
NASTY = (
    r"""\write18{touch pwned} \input{/etc/passwd} {}$&#%_^~"'`<>|-- ?` !` << ^^41 \\ """
    r"\end{document} % $x$"
)


def poppler(tool: str, *arguments: str | Path) -> str:
    """What one of Poppler's tools prints; the test is skipped where they are not installed."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} (poppler-utils) is not installed")
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout


def text_of(pdf: Path) -> str:
    return poppler("pdftotext", "-layout", pdf, "-")


def info_of(pdf: Path) -> str:
    return poppler("pdfinfo", pdf) + poppler("pdfinfo", "-custom", pdf)


def xmp_of(pdf: Path) -> Element:
    """The PDF's metadata as XML, which it must be whatever the names in it hold."""
    return fromstring(poppler("pdfinfo", "-meta", pdf))


def runs_in(folder: Path) -> bool:
    """Whether any process works in `folder`."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or gone by now
            if os.readlink(process / "cwd") == str(folder):
                return True
    return False


def document(folder: Path, body: str) -> Path:
    tex = folder / "small.tex"
    tex.write_text("\\documentclass{article}\n\\begin{document}\n" + body + "\n\\end{document}\n")
    return tex


@pytest.fixture(scope="session")
def simulator_pdf(
    needs_latexmk: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    return build_report(simulator_record(), tmp_path_factory.mktemp("simulator"))


@pytest.fixture(scope="session")
def device_pdf(
    needs_latexmk: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    return build_report(device_record(0.9), tmp_path_factory.mktemp("device"))


def test_nothing_runs_over_the_margins(
    simulator_pdf: tuple[Path, list[str]], device_pdf: tuple[Path, list[str]]
) -> None:
    assert simulator_pdf[1] == []
    assert device_pdf[1] == []


def test_the_report_has_four_to_six_pages_and_embeds_its_fonts(
    simulator_pdf: tuple[Path, list[str]],
) -> None:
    pages = re.search(r"^Pages: +(\d+)$", info_of(simulator_pdf[0]), re.M)
    assert pages and 4 <= int(pages[1]) <= 6
    fonts = poppler("pdffonts", simulator_pdf[0])
    rows = fonts.splitlines()[2:]
    assert rows and all(re.search(r" yes (yes|no) +(yes|no) +\d+ +0$", row) for row in rows)
    assert "Type 3" not in fonts


def test_the_pdf_names_its_origin(simulator_pdf: tuple[Path, list[str]]) -> None:
    pdf = simulator_pdf[0]
    provenance = simulator_record()["provenance"]
    info, commit, config = info_of(pdf), provenance["commit"], provenance["config_sha256"]
    sha256 = sha256_file(pdf.parents[1] / "benchmark_results.json")
    assert f"Commit:          {commit}" in info
    assert f"record SHA-256 {sha256}, configuration SHA-256 {config}" in info
    assert "Tile & Error, Ada Example, Grace Sample" in info
    for page in text_of(pdf).rstrip("\f\n").split("\f"):
        assert f"commit {commit[:12]}" in page
        assert f"configuration {config[:12]}, record {sha256[:12]}" in page


def test_readers_and_catalogues_are_told_what_it_is(
    simulator_pdf: tuple[Path, list[str]],
) -> None:
    pdf = simulator_pdf[0]
    told = " ".join("".join(xmp_of(pdf).itertext()).split())
    assert "NKI kernels for Qwen3 mixture-of-experts inference" in told
    assert "Ada Example" in told and "en" in told.split()
    source = pdf.with_suffix(".tex").read_text()
    assert source.count(r"\includegraphics") == source.count(r"\described{") == len(FIGURES)


def test_numbers_in_the_pdf_are_those_of_the_record(simulator_pdf: tuple[Path, list[str]]) -> None:
    text, record = text_of(simulator_pdf[0]), simulator_record()
    for kernel in record["nki_kernels_implemented"]:
        name, cost, launches = re.escape(kernel["name"]), kernel["cost"], kernel["launches"]
        read, written = (cost[f"hbm_{way}_bytes"] / 1024 for way in ("read", "write"))
        row = rf"{name} .* {read:,.1f} +{written:,.1f} +{cost['macs'] / 1e6:,.2f} "
        assert re.search(row, text), row
        counts = f"{launches['prefill']} +{launches['decode_step']}"
        row = rf"{name} .*{launches['kernel_path']} +{counts}\n"
        assert re.search(row, text), row
    for prompt in record["per_prompt_results"]:
        phase = prompt["nki"]["coverage"]["prefill"]
        useful, counted = (
            sum(phase[f"{kind}_macs"].values()) / 1e6 for kind in ("useful", "counted")
        )
        numbers = f"{useful:.2f} +{counted:.2f} +{phase['overhead']:.2f}"
        row = rf"{phase['tokens']}, {phase['padded_tokens']} +{numbers} "
        assert re.search(row, text), row
    for check in record["path_checks"]:
        checked = check["accuracy"]["tokens_checked"]
        row = rf"{check['kernel_path']}, (FP32|BF16) +{checked}/{checked} "
        assert re.search(row, text), row
    for base in record["score_baselines"]["per_prompt"]:
        assert f"{base['latency_ms']:,.2f}" in text
    longest_s = max(p["nki"]["host_time"]["mean_ms"] for p in record["per_prompt_results"]) / 1000
    assert f"{longest_s:.3g} s to simulate" in " ".join(text.split())
    for platform in ("trn2", "trn3"):
        found = record["modelled"]["predictions"][platform]["paths"]["fused"]
        assert f"{found['decode'][-1]['total_us']['nominal'] / 1000:.2f}" in text
        assert f"{found['total_score']['nominal']:.1f}" in text


def test_scores_in_the_pdf_are_those_of_the_record(device_pdf: tuple[Path, list[str]]) -> None:
    text, record = text_of(device_pdf[0]), device_record(0.9)
    for number, prompt in enumerate(record["per_prompt_results"]):
        nki = prompt["nki"]
        low, high = record["statistics"]["per_prompt"][number]["nki"]["latency_interval_ms"]
        row = (
            rf"{prompt['name']} .*{nki['latency_ms']:,.1f} +{low:,.0f}{DASH}{high:,.0f} "
            rf"+{nki['throughput_tok_s']:.2f} +{nki['score']:.2f} [\d.]+{DASH}"
        )
        assert re.search(row, text), row
    assert f"{record['summary']['nki_total_score']:.2f}" in text


def test_equal_inputs_give_equal_bytes(
    simulator_pdf: tuple[Path, list[str]], tmp_path: Path
) -> None:
    again, _boxes = build_report(simulator_record(), tmp_path)
    assert again.read_bytes() == simulator_pdf[0].read_bytes()


def test_hostile_text_is_printed_and_nothing_of_it_is_executed(
    needs_latexmk: None, tmp_path: Path
) -> None:
    record = simulator_record()
    members = ["x" * 300, "".join(sorted(_LETTERS)), " ".join(_SPECIAL)]
    record["team"] |= {"name": NASTY, "members": members, "email": "a_b%c{}@" + "y" * 200}
    record |= {
        "model": "m_" + "w" * 298,
        "competition": NASTY,
        "optimization_techniques": [NASTY, "z" * 300],
    }
    record["fallbacks"] = [{"kernel": "silu", "reason": NASTY}]
    for prompt, name in zip(
        record["per_prompt_results"], (NASTY, "n" * 300, "a b " * 75, "{}" * 20, "$$"), strict=True
    ):
        prompt["name"] = name
    record["nki_kernels_implemented"][2] |= {"name": "K" * 300, "tile_size": "T" * 300}
    record["provenance"]["machine"]["cpu"] = NASTY + "c" * 300
    record["provenance"]["versions"]["v" * 200] = NASTY
    record["absent"].append({"key": "k" * 300, "reason": "r_" * 150})
    pdf, boxes = build_report(record, tmp_path)
    assert boxes == []
    assert not list(tmp_path.rglob("pwned"))
    author = re.search(r"^Author: +(.*)$", info_of(pdf), re.M)
    assert author and author[1].startswith(NASTY)
    assert NASTY.split()[0] in "".join(xmp_of(pdf).itertext())
    assert "root:" not in text_of(pdf)


def test_an_error_shows_its_line(needs_latexmk: None, tmp_path: Path) -> None:
    pdf = tmp_path / "small.pdf"
    pdf.write_text("old")
    tex = document(tmp_path, "Fine.\n\nA \\nosuchcommand here.")
    with pytest.raises(TexError) as caught:
        build_pdf(tex, pdf, 0, tmp_path / "latex")
    message = str(caught.value)
    assert f"{tex}:5: Undefined control sequence." in message
    assert "A \\nosuchcommand here." in message
    assert str(tmp_path / "latex" / "small.log") in message
    assert pdf.read_text() == "old"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (r"See \ref{nothing}.", "Reference `nothing'"),
        (r"See \cite{nobody}.", "Citation `nobody'"),
        (r"\cite{nobody}\bibliographystyle{plain}\bibliography{some}", "BibTeX: I didn't find"),
        (r"{\fontencoding{OT1}\selectfont\char200}", "Missing character"),
        (r"\includegraphics{nofigure}", "Undefined control sequence"),
    ],
)
def test_what_tex_only_warns_of_is_an_error(
    needs_latexmk: None, body: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "some.bib").write_text("@misc{somebody, title = {Some}}")
    with pytest.raises(TexError, match=re.escape(expected)):
        build_pdf(document(tmp_path, body), tmp_path / "small.pdf", 0, tmp_path / "latex")
    assert not (tmp_path / "small.pdf").exists()


def test_overfull_boxes_are_returned(needs_latexmk: None, tmp_path: Path) -> None:
    boxes = build_pdf(document(tmp_path, "x" * 300), tmp_path / "small.pdf", 0, tmp_path / "latex")
    assert len(boxes) == 1
    assert boxes[0].startswith("Overfull \\hbox")


def test_shell_escape_is_off(needs_latexmk: None, tmp_path: Path) -> None:
    tex = document(tmp_path, r"\immediate\write18{touch pwned}Done.")
    build_pdf(tex, tmp_path / "small.pdf", 0, tmp_path / "latex")
    assert not list(tmp_path.rglob("pwned"))
    assert "write18 enabled" not in (tmp_path / "latex" / "small.log").read_text()


def test_stale_files_of_an_earlier_build_are_not_read(needs_latexmk: None, tmp_path: Path) -> None:
    stale = tmp_path / "latex" / "small.aux"
    stale.parent.mkdir()
    stale.write_text(r"\newlabel{nothing}{{1}{1}}")
    with pytest.raises(TexError, match="Reference `nothing'"):
        build_pdf(
            document(tmp_path, r"See \ref{nothing}."), tmp_path / "small.pdf", 0, stale.parent
        )


def test_a_missing_source_and_a_missing_latexmk_are_told(
    needs_latexmk: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TexError, match="no such LaTeX source"):
        build_pdf(tmp_path / "none.tex", tmp_path / "none.pdf", 0, tmp_path / "latex")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(LatexmkMissing, match=r"sudo apt-get install .*latexmk"):
        build_pdf(tmp_path / "none.tex", tmp_path / "none.pdf", 0, tmp_path / "latex")


def test_an_engine_that_never_ends_is_stopped(
    needs_latexmk: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_TIMEOUT_S", 2)
    latex = tmp_path / "latex"
    with pytest.raises(TexError, match="did not end within 2 s"):
        build_pdf(document(tmp_path, r"\loop\iftrue\repeat"), tmp_path / "small.pdf", 0, latex)
    for _attempt in range(50):  # the kernel ends killed processes in its own time
        if not runs_in(latex):
            return
        time.sleep(0.1)
    pytest.fail("a process of the stopped build still runs")


def test_the_date_comes_from_the_record() -> None:
    assert epoch_of("2026-03-01T12:00:00Z") == 1772366400
    with pytest.raises(ValueError, match="no time zone"):
        epoch_of("2026-03-01T12:00:00")
