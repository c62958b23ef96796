"""The drawn rules are the workflow's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from checkout import ROOT, Checkout

from workflow.rulegraph import GraphError, boxes_and_arrows, document

DOCUMENT = ROOT / "docs" / "workflow.md"
NOT_DRAWN = {"download_model", "rule_graph"}
"""The stand-in for another rule, and the one that draws."""


def test_the_document_is_what_snakemake_draws(fresh: Checkout) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert document(fresh.path) == text, "run: snakemake --cores 1 --forcerun docs/workflow.md"
    assert not (fresh.path / "results").exists(), "drawing runs nothing"


def test_every_rule_is_drawn() -> None:
    files = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    rules = {r for file in files for r in re.findall(r"(?m)^ *rule (\w+):", file.read_text())}
    drawn = set(re.findall(r"\w+", DOCUMENT.read_text().split("```")[1]))
    assert rules - NOT_DRAWN <= drawn


def test_numbers_and_order_make_no_difference() -> None:
    one = "flowchart TB\n\tid0[all]\n\tid1[a]\n\tid2[alone]\n\tstyle id0 fill:#D9\n\tid1 --> id0\n"
    other = "\tid7[alone]\n\tid4[a]\n\tid9[all]\n\tid4 --> id9\n\tid4 --> id9\n"
    assert boxes_and_arrows(one) == boxes_and_arrows(other) == ["alone", "a --> all"]


def test_a_folder_without_workflow_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="failed"):
        document(tmp_path)
